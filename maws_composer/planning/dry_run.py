"""One step of a run on GPUs that are not there: shapes go through it, and nothing is computed.

The stage is built and sharded as in training, with torch's fake process group for a world of any size, and fake
tensors. What FSDP2 then sends, and autograd keeps, is what the arithmetic of `communication` and `memory` has to give.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._tools.fake_collectives
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.data.columns import CAPTION, IMAGE, IMAGE_EMBEDDING, LABELS
from maws_composer.models.attention import set_attention_kernel
from maws_composer.optim.build import build_optimizer
from maws_composer.parallel.precision import capability, kernel_dtype
from maws_composer.parallel.shard import wrap
from maws_composer.planning.plan import columns_of, passes_of
from maws_composer.registry import lookup
from maws_composer.stages.build import build_stage

_LABELS = 8  # of an image


@dataclass
class DryRun:
    """What one microbatch of a step does on each GPU.

    Attributes:
        received: bytes that reach it by each kind of collective, as rings: (n - 1) / n of what n gather or scatter.
        collectives: how many there are of each kind.
        kept: bytes that the forward pass keeps for the backward pass, parameters left out.
        peak: bytes of all tensors at the moment when they are most, in a step that finds moments there; what kernels
            take for themselves is not seen.
    """

    received: dict[str, float] = field(default_factory=dict)
    collectives: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    peak: int = 0

    @property
    def total_received(self) -> float:
        return sum(self.received.values())


def dry_run(run: Run, world_size: int, microbatch: int) -> DryRun:
    """Forward, backward, clipping and the optimizer's step, as rank 0 of `world_size` would do them.

    Of a step of several passes it is the last, which finds the others' gradients. Blocks are not compiled, and gradient
    caching's first pass is left out. In this process there must be no process group, and there is none afterwards.

    Raises:
        ConfigError: for a step that depends on values, as some text towers look at those of their masks.
    """
    columns, seen = columns_of(run), DryRun()
    dist.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore())
    try:
        stage = build_stage(run)
        set_attention_kernel(stage, "auto", "cpu", kernel_dtype(run.precision), capability())  # also where a GPU is
        wrap(stage, replace(run.speed, compile=False), run.precision, torch.device("cpu"))
        with _without_collections(), FakeTensorMode(allow_non_fake_inputs=True), _Operations(seen) as operations:
            operations.overlook_propagation()
            stage.to_empty(device="cpu")
            optimizer = build_optimizer(stage, run)
            _make_moments(optimizer)
            if passes_of(run, world_size, microbatch) == 1:
                optimizer.zero_grad()
            size = run.global_train_batch_size // world_size
            share = _batch(run, columns, size)
            # that of the next step is copied meanwhile; this one Composer copies for each microbatch
            _beside = [_images(run, columns, size) for _ in range(2)]
            batch = {name: values[:microbatch] for name, values in share.items()}
            with _kept(seen, stage), torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "amp_bf16"):
                outputs = stage(batch)  # which the trainer holds until the next ones
                loss = stage.loss(outputs, batch)
            loss.backward()
            if run.gradient_clip is not None:
                nn.utils.clip_grad_norm_(stage.parameters(), run.gradient_clip)
            optimizer.step()
    except DataDependentOutputException as error:
        message = f"a step of {run.stage} looks at values ({error}), and there are shapes only; leave out --dry-run"
        raise ConfigError([Problem("--dry-run", message)]) from error
    finally:
        dist.destroy_process_group()
    return seen


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """What refers to itself stays: when Python would collect depends on what the process did before."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _batch(run: Run, columns: Sequence[str], size: int) -> dict[str, Any]:
    """As the loader makes them, without their values."""
    batch: dict[str, Any] = {
        "position": torch.arange(size),
        "epoch": torch.zeros(size, dtype=torch.int64),
        "valid": torch.ones(size, dtype=torch.bool),
        "replaced": torch.zeros(size, dtype=torch.bool),
        **_images(run, columns, size),
    }
    if LABELS in columns:
        batch[LABELS] = torch.zeros(size, _LABELS, dtype=torch.int64)
    if CAPTION in columns:
        tokens = torch.ones(size, run.model["text"].context_length, dtype=torch.int64)
        batch |= {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return batch


def _images(run: Run, columns: Sequence[str], size: int) -> dict[str, Tensor]:
    if IMAGE_EMBEDDING in columns:
        return {IMAGE_EMBEDDING: torch.empty(size, lookup("size", run.model["size"]).builder.width)}
    side = run.model["image_size"]
    return {IMAGE: torch.empty(size, 3, side, side, dtype=torch.uint8)}


def _make_moments(optimizer: Optimizer) -> None:
    """As they are there after a first step, with its gradients."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


@contextlib.contextmanager
def _kept(seen: DryRun, stage: nn.Module) -> Iterator[None]:
    """Count what the forward pass keeps: each storage once, and no parameters, sharded or gathered."""
    storages: dict[int, Any] = {}  # alive, or their addresses would be given again

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield
    gathered = [each for each in stage.parameters() if not isinstance(each, DTensor)]  # of which views are kept
    for parameter in gathered:
        storages.pop(parameter.untyped_storage()._cdata, None)
    seen.kept = sum(storage.nbytes() for storage in storages.values())
    storages.clear()  # the graph may hold `keep` for longer


class _Operations(TorchDispatchMode):
    """Counts what is sent, and what there is."""

    def __init__(self, seen: DryRun) -> None:
        super().__init__()
        self.seen = seen
        self.storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self.is_watching = True

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        vars(DTensor._op_dispatcher.sharding_propagator).pop("propagate", None)

    def overlook_propagation(self) -> None:
        """To learn the shape of a result, DTensor tries an operation on unsharded tensors that nobody would have."""
        propagator = DTensor._op_dispatcher.sharding_propagator
        propagate = propagator.propagate

        def overlooked(operation: Any) -> Any:
            self.is_watching = False
            try:
                return propagate(operation)
            finally:
                self.is_watching = True

        vars(propagator)["propagate"] = overlooked

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented  # operations on its shards follow
        if function.namespace in ("c10d", "_c10d_functional"):
            self._count(function.__name__.partition(".")[0].strip("_"), args)
        result = function(*args, **(kwargs or {}))
        if not self.is_watching:
            return result
        made = {leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        if not made <= self.storages:
            self.storages |= made
            # asked again each time, because FSDP2 empties storages and fills them up again
            self.seen.peak = max(self.seen.peak, sum(storage.nbytes() for storage in self.storages))
        return result

    def _count(self, name: str, args: Any) -> None:
        leaves = tree_leaves(args)
        largest = max((leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor)), default=0)
        groups = [
            leaf for leaf in leaves if isinstance(leaf, torch.ScriptObject) and "ProcessGroup" in str(leaf._type())
        ]
        if not largest or not groups:
            return
        members = dist.ProcessGroup.unbox(groups[0]).size()
        rounds = 2 if "allreduce" in name else 1  # a ring first scatters, then gathers
        self.seen.collectives[name] = self.seen.collectives.get(name, 0) + 1
        self.seen.received[name] = self.seen.received.get(name, 0) + rounds * largest * (members - 1) / members
