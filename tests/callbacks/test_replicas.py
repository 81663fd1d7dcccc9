"""Callbacks that look at shards, where each shard has replicas (HSDP): they find what one process does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.callbacks.test_ema import EMA, SETTINGS, STEPS, averages
from tests.callbacks.training import TRAINING, fit
from tests.processes import run_ranks

CALLBACKS = {**EMA, "norms": {"every": "2ba"}}


@pytest.mark.parametrize(("world_size", "shard"), [(2, 1), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_replicas_change_neither_norms_nor_the_average(tmp_path: Path, world_size: int, shard: int) -> None:
    alone = fit(tmp_path / "one", CALLBACKS, STEPS, *SETTINGS).steps[-1]
    settings = [*SETTINGS, f"speed.sharding.shard={shard}"]
    arguments = {"folder": str(tmp_path / "many"), "callbacks": CALLBACKS, "steps": STEPS, "overrides": settings}
    leader, *_ = run_ranks(TRAINING, arguments, world_size)
    assert leader["mesh"] == [world_size // shard, shard]
    together = leader["steps"][-1]
    norms = [key for key in alone if key.startswith("norm/")]
    assert len(norms) > 10
    assert {key: together[key] for key in norms} == pytest.approx({key: alone[key] for key in norms}, rel=1e-4)
    whole = averages(tmp_path / "many")
    torch.testing.assert_close(whole, averages(tmp_path / "one"), rtol=1e-5, atol=1e-5)

    half = str(tmp_path / "many" / "checkpoints" / f"ep0-ba{STEPS // 2}")
    fit(tmp_path / "again", CALLBACKS, STEPS, *SETTINGS, resume_from=half)
    torch.testing.assert_close(averages(tmp_path / "again"), whole, rtol=1e-5, atol=1e-5)
