"""Learning rates, against the schedule's formula."""

from __future__ import annotations

from pathlib import Path

import pytest

from maws_composer.optim.schedule import warmup_then_decay
from tests.callbacks.training import fit
from tests.golden_steps import BATCH

STEPS = 6


def test_each_step_has_the_rate_that_it_was_made_with(tmp_path: Path) -> None:
    settings = ("optimizer.weight_decay=0.1", "schedule.warmup=0.5", "schedule.final_lr=0.01")
    steps = fit(tmp_path, {"learning_rates": {}}, STEPS, *settings).steps
    peak = 0.02 * BATCH / 256
    expected = [peak * warmup_then_decay(done * BATCH, STEPS * BATCH, 0.5, 0.01) for done in range(STEPS)]
    assert expected[0] == 0.0 and expected[3] == peak  # the first step is not made with the second one's
    for group in ("decayed", "not decayed"):
        assert [step[f"lr/{group}"] for step in steps] == pytest.approx(expected)
    assert [step.get("weight_decay/decayed") for step in steps] == [0.1, *[None] * 5]
    assert steps[0]["weight_decay/not decayed"] == 0.0
