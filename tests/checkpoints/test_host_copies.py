"""What is written in the background is in host memory once, and nobody else writes to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from maws_composer.checkpoints.writing import Draft
from tests.one_rank import process_group

__all__ = ["process_group"]


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
    weight, moment, average = (
        distribute_tensor(torch.full((8,), value), mesh, [Shard(0)]) for value in (1.0, 2.0, 3.0)
    )
    state = {
        "model": {"weight": weight},
        "optimizers": {"Adam": {"state": {"weight": {"moment": moment, "step": torch.tensor(7.0)}}, "lr": 0.1}},
        "callbacks": {"EMA": {"weight": average, "count": torch.tensor(5)}},
    }
    return Draft(tmp_path, 1, 16, {"state": state}, FileSystemWriter(tmp_path))


def shared(draft: Draft) -> set[str]:
    """Names of the tensors that the copy has in common with the draft."""
    before, after = (tensors(each.contents["state"]) for each in (draft, draft.copied_to_host()))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return {name for name in before if before[name].data_ptr() == after[name].data_ptr()}


def tensors(state: dict) -> dict[str, Tensor]:
    moments, averages = state["optimizers"]["Adam"]["state"]["weight"], state["callbacks"]["EMA"]
    named = {**state["model"], **moments, "average": averages["weight"], "count": averages["count"]}
    return {name: each.to_local() if isinstance(each, DTensor) else each for name, each in named.items()}


def test_on_a_cpu_all_is_copied(draft: Draft) -> None:
    assert shared(draft) == set()


def test_what_composer_has_brought_from_a_gpu_is_not_copied_again(
    draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert shared(draft) == {"weight", "moment"}
