"""Settings of what happens when machines are taken away, die or hang."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Seconds = Annotated[float, Field(gt=0)]
Cloud = Literal["aws", "gcp", "azure"]


@dataclass(frozen=True, kw_only=True)
class PreemptionSettings:
    """SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 are always heard; these say what else is, and how much time there is.

    Args:
        grace: seconds between a notice and the end of the machine; uploads that would take longer are not begun.
        cloud: whose metadata service is asked whether this machine is about to be taken away.
        command: a shell command that exits with 0 when it is.
        every: seconds between two questions.
    """

    grace: Seconds = 60.0
    cloud: Cloud | None = None
    command: str | None = None
    every: Seconds = 5.0


@dataclass(frozen=True, kw_only=True)
class WatchdogSettings:
    """When ranks that get no further, or are not heard of, end the run: on all ranks, resumable.

    Args:
        limit: seconds without progress on any rank, after which all write down their stacks and end. Object storage
            that is away does not count: `storage_patience` does. Null: no limit.
        start_limit: the same until the first step has ended, which compiles.
        silence: seconds without a sign of life from a rank, after which the others take it for dead. Null: no limit,
            as for debuggers, which stop all threads of a rank.
    """

    limit: Seconds | None = 900.0
    start_limit: Seconds | None = 3600.0
    silence: Seconds | None = 40.0
