"""How often a step has the CPU wait for the device, told by a device that is none: its tensors are marked."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from composer import Trainer
from composer.core import Callback, DataSpec, State
from composer.devices import DeviceCPU
from composer.loggers import Logger
from composer.models import ComposerModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from maws_composer.data.batches import count_training_samples, split_batch
from tests.processes import ROOT
from tests.step.miniature import STAGES, build_trainer, load, make_batch

MICROBATCH = 4  # of 8
aten = torch.ops.aten
# what reads values to know what to do next
_READS = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten.bincount,
    aten._unique2, aten.unique_dim, aten.unique_consecutive,
}  # fmt: skip
_COPIES = (Tensor.cpu, Tensor.numpy, Tensor.tolist)


class Waits:
    """Counts, by the code that asks: a place of ours, or `composer`.

    Marks are on storages, and pass to what is computed from marked ones.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._marked: dict[int, Any] = {}  # alive, or addresses would be given again

    def mark(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._marked[storage._cdata] = storage
        return tensor

    def is_marked(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in self._marked

    def count(self) -> None:
        self.counts[_asker(sys._getframe(1))] += 1

    @contextmanager
    def counting(self) -> Iterator[None]:
        with _Functions(self), _Operations(self):
            yield


class _Functions(TorchFunctionMode):
    """What makes a copy on the other side."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _COPIES and self.waits.is_marked(args[0]):
            self.waits.count()
            return function(args[0].detach().clone(), *args[1:], **kwargs) if function != Tensor.cpu else _away(args[0])
        if function is torch.tensor and kwargs.get("device") is not None:  # from memory that is not pinned
            self.waits.count()
        return function(*args, **kwargs)


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented  # it has operations on its shards follow
        is_marked = any(self.waits.is_marked(leaf) for leaf in tree_leaves((args, kwargs)))
        if is_marked and (function.overloadpacket in _READS or _has_mask(function.overloadpacket, args)):
            self.waits.count()
        result = function(*args, **(kwargs or {}))
        if is_marked:
            tree_map_only(Tensor, self.waits.mark, (result, _written(function, args, kwargs or {})))
        return result


def _has_mask(operation: Any, args: Any) -> bool:
    """Whether it is indexing by a tensor of bools, whose true ones have to be counted."""
    if operation not in (aten.index, aten.index_put, aten.index_put_):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _written(function: Any, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that the operation changes."""
    given = {argument.name: value for argument, value in zip(function._schema.arguments, args, strict=False)} | kwargs
    changed = {argument.name for argument in function._schema.arguments if argument.is_write}
    return [value for name, value in given.items() if name in changed]


def _away(tensor: Tensor) -> Tensor:
    with torch._C._DisableTorchDispatch():
        return tensor.detach().clone()


def _asker(frame: FrameType | None) -> str:
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "maws_composer") or path.is_relative_to(ROOT / "callbacks"):
            return f"{path.stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "composer"


class PretendedDevice(DeviceCPU):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def tensor_to_device(self, tensor: Tensor) -> Tensor:
        return self.waits.mark(tensor.clone())

    def module_to_device(self, module: nn.Module) -> nn.Module:
        for parameter in module.parameters():
            self.waits.mark(parameter.to_local() if hasattr(parameter, "to_local") else parameter.data)
        return module


class Forget(Callback):
    """Counts from the second step on."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    def batch_end(self, state: State, logger: Logger) -> None:
        if state.timestamp.batch == 1:
            self.waits.counts.clear()


class Plain(ComposerModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.layer(batch["image"].float().mean((2, 3)))

    def loss(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return outputs.square().mean()


def waits_of_composer(batches: list[dict[str, Any]]) -> Counter[str]:
    waits, model = Waits(), Plain()
    trainer = Trainer(
        model=model,
        train_dataloader=DataSpec(batches, split_batch=split_batch, get_num_samples_in_batch=count_training_samples),
        optimizers=torch.optim.AdamW(model.parameters(), fused=True),
        max_duration=f"{len(batches)}ba",
        callbacks=[Forget(waits)],
        device=PretendedDevice(waits),
        device_train_microbatch_size=MICROBATCH,
        progress_bar=False,
    )
    with waits.counting():
        trainer.fit()
    trainer.close()
    return waits.counts


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_reads_what_was_judged_and_waits_for_nothing_else(tmp_path: Path, stage: str) -> None:
    batches, waits = [make_batch(stage, number) for number in range(2)], Waits()
    run = load(stage, tmp_path, f"speed.device_train_microbatch_size={MICROBATCH}")
    trainer = build_trainer(run, tmp_path, batches, None, PretendedDevice(waits))
    trainer.state.callbacks.append(Forget(waits))
    with waits.counting():
        trainer.fit(duration=f"{len(batches)}ba")
    trainer.close()
    steps = len(batches) - 1
    # both at the end of a step, when Composer has read the loss and nothing is left to wait for
    own = {"loss_spikes.batch_end": steps} | ({"gradient_caching.batch_end": steps} if stage == "lit" else {})
    assert waits.counts == waits_of_composer(batches) | own
