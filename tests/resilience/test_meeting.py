"""Ranks that wait for others which do not come end soon, and say how many came."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch.distributed as dist

from maws_composer.resilience.failure import is_lost_connection
from tests.processes import ROOT, free_port, rank_environment
from tests.runs import Runs

LIMIT = 4.0  # seconds


@pytest.mark.parametrize(
    ("rank", "said"), [(0, "1/2 clients joined"), pytest.param(1, "127.0.0.1", marks=pytest.mark.slow)]
)
def test_a_rank_that_is_alone_does_not_wait_for_long(runs: Runs, rank: int, said: str) -> None:
    overrides = (f"save_folder={runs.folder / 'run'}", f"watchdog.meeting_limit={LIMIT}")
    began = time.monotonic()
    alone = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), str(runs.recipe), *overrides],
        env=rank_environment(rank, 2, free_port(), nodes=2),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert alone.returncode == 1
    assert f"not all of the 2 ranks came within {LIMIT:.0f} s" in alone.stderr and said in alone.stderr
    assert "Traceback" not in alone.stderr
    assert time.monotonic() - began < LIMIT + 60


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (RuntimeError("Gloo connectFullMesh failed with [/x/gloo/gloo/transport/tcp/pair.cc:144] no error"), True),
        (dist.DistNetworkError("the client socket has timed out"), True),
        (RuntimeError("no sample igloo_0012"), False),
        (RuntimeError("[runs/gloo_test] is full"), False),
        (NotImplementedError("[/x/gloo/gloo/transport/tcp/pair.cc:534] of a subclass"), False),
    ],
)
def test_only_what_torch_and_gloo_say_of_a_connection_is_a_lost_one(error: Exception, is_lost: bool) -> None:
    assert is_lost_connection(error) == is_lost
