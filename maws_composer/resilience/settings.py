"""Settings of what happens when machines are taken away, die or hang, and when a step goes wrong."""

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
        url: an address that answers with a text when it is: on this machine, from an agent of the scheduler's perhaps.
        every: seconds between two questions.
    """

    grace: Seconds = 60.0
    cloud: Cloud | None = None
    command: str | None = None
    url: str | None = None
    every: Seconds = 5.0


@dataclass(frozen=True, kw_only=True)
class WatchdogSettings:
    """When ranks that get no further, or are not heard of, end the run: on all ranks, resumable.

    Args:
        meeting_limit: seconds in which the ranks of all nodes have to have found each other.
        limit: seconds without progress on any rank, after which all write down their stacks and end. Object storage
            that is away does not count: `storage_patience` does. Null: no limit.
        start_limit: the same until the first step has ended, which compiles.
        silence: seconds without a sign of life from a rank, after which the others take it for dead. Null: no limit,
            as for debuggers, which stop all threads of a rank.
    """

    meeting_limit: Seconds = 300.0
    limit: Seconds | None = 900.0
    start_limit: Seconds | None = 3600.0
    silence: Seconds | None = 40.0


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """Which finite losses are spikes: those more than `sigmas` deviations over the mean of the last `window`.

    The rule, the window and the factor are OLMo-core's (`SkipStepOptimizer`); there the norm of the gradient is judged
    the same way, here only the loss: clipping takes care of the other. Judged once half of the window is full; steps
    without an update are not in it.

    Args:
        sigmas: standard deviations.
        window: batches.
    """

    sigmas: Annotated[float, Field(gt=0)] = 6.0
    window: Annotated[int, Field(ge=4)] = 128


@dataclass(frozen=True, kw_only=True)
class LossSpikeSettings:
    """A loss or a gradient that is not finite never changes a weight; these say what happens then.

    `stop` ends the run. `skip` leaves out the update and goes on; learning rate and data do as if it had been made.
    `rewind` goes back to a checkpoint and leaves out the updates of all batches around the spike, as PaLM did
    (Chowdhery et al. 2022, section 5.1: "re-started training from a checkpoint roughly 100 steps before the spike
    started, and skipped roughly 200-500 data batches"). What was left out is kept with the run, and left out wherever
    it goes on.

    Args:
        action: stop, skip or rewind.
        outliers: judge finite losses too. Null: they are left alone, as in the papers whose recipes these are.
        skip_before: rewind: how many batches before the spike are left out.
        skip_after: rewind: how many batches after it.
        max_in_a_row: spikes without an update between them, after which the run ends.
        max_spikes: in the whole run, after which it ends. PaLM 540B had about 20.
    """

    action: Literal["stop", "skip", "rewind"] = "stop"
    outliers: Outliers | None = None
    skip_before: Annotated[int, Field(ge=0)] = 100
    skip_after: Annotated[int, Field(ge=0)] = 100
    max_in_a_row: Annotated[int, Field(gt=0)] = 5
    max_spikes: Annotated[int, Field(gt=0)] = 50
