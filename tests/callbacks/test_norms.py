"""Norms by block, against whole tensors taken one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composer.core import Callback, State
from composer.loggers import Logger

from tests.callbacks.training import TRAINING, fit
from tests.processes import run_ranks

CALLBACKS = {"norms": {"every": "2ba"}}


class Whole(Callback):
    """Norms over all tensors whose name begins with a prefix, after each step."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def batch_end(self, state: State, logger: Logger) -> None:
        parameters = {name: each for name, each in state.model.named_parameters() if each.requires_grad}
        norms = {}
        for block in ("encoder.blocks.1.", "encoder.patch_embed.", "decoder_blocks.0."):
            chosen = [each for name, each in parameters.items() if name.startswith(f"mae.{block}")]
            for kind, tensors in (("gradient", [each.grad for each in chosen]), ("parameter", chosen)):
                flat = torch.cat([tensor.full_tensor().detach().flatten() for tensor in tensors])
                norms[f"{kind}/{block}"] = float(torch.linalg.vector_norm(flat.double()))
        self.found.append(norms)


def test_norms_are_those_of_the_whole_tensors(tmp_path: Path) -> None:
    whole = Whole()
    steps = fit(tmp_path, CALLBACKS, 4, more=[whole]).steps
    assert [step["batch"] for step in steps if "norm/gradient/encoder" in step] == [2, 4]
    for step in (steps[1], steps[3]):
        expected = whole.found[step["batch"] - 1]
        for kind in ("gradient", "parameter"):
            for block in ("encoder.blocks.1", "decoder_blocks.0"):
                assert step[f"norm/{kind}/{block}"] == pytest.approx(expected[f"{kind}/{block}."], rel=1e-5)
            assert step[f"norm/{kind}/encoder"] > expected[f"{kind}/encoder.patch_embed."]  # and the final norm


def test_two_ranks_find_the_norms_that_one_does(tmp_path: Path) -> None:
    alone = fit(tmp_path / "one", CALLBACKS, 2).steps[-1]
    arguments = {"folder": str(tmp_path / "two"), "callbacks": CALLBACKS, "steps": 2}
    leader, _ = run_ranks(TRAINING, arguments, world_size=2)
    together = leader["steps"][-1]
    norms = [key for key in alone if key.startswith("norm/")]
    assert len(norms) > 10
    assert {key: together[key] for key in norms} == pytest.approx({key: alone[key] for key in norms}, rel=1e-4)
