"""A world of one rank, which is this process; a conftest that imports the fixture has it for all of its tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from maws_composer.parallel.leave import leave_process_group


@pytest.fixture(autouse=True)
def process_group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    leave_process_group()
