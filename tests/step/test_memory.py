"""The estimate of memory against what the allocator gives out in a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from maws_composer.planning.plan import memory_of, workload_of
from tests.processes import run_ranks
from tests.step.miniature import BATCH, STAGES, load
from tests.step.peak import Peak, peak_of_a_step

RANKS = Path(__file__).parent / "peak.py"
TRAINED = "model.lock_image_tower=false"


def given(stage: str, checkpointing: str, side: int = 96, reshards: str = "true") -> list[str]:
    """With 96 pixels there are 256 patches, and activations are most."""
    lock = [TRAINED] if stage == "lit" else []
    speed = [f"activation_checkpointing={checkpointing}", f"sharding.reshard_after_forward={reshards}"]
    return [f"model.image_size={side}", *(f"speed.{key}" for key in speed), *lock]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("checkpointing", ["none", "all"])
@pytest.mark.parametrize("reshards", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_a_step_needs_what_was_planned(tmp_path: Path, stage: str, checkpointing: str, reshards: str) -> None:
    run = load(stage, tmp_path, *given(stage, checkpointing, reshards=reshards))
    planned, peak = memory_of(run, workload_of(run), 1, BATCH), peak_of_a_step(run, BATCH)
    assert planned.tensors - planned.metrics == pytest.approx(sum(peak), rel=0.1)  # metrics are in nobody's step


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["mae", "wsp", "lit"])
@pytest.mark.parametrize(("checkpointing", "side"), [("none", 48), ("all", 96), ("2", 96)])
def test_so_does_a_step_of_each_of_two_ranks(tmp_path: Path, stage: str, checkpointing: str, side: int) -> None:
    keys = given(stage, checkpointing, side)
    run = load(stage, tmp_path, *keys)
    planned = memory_of(run, workload_of(run), 2, BATCH // 2)
    for rank in run_ranks(RANKS, [stage, BATCH // 2, keys], world_size=2, timeout=600):
        assert planned.tensors - planned.metrics == pytest.approx(sum(Peak(**rank)), rel=0.1)
