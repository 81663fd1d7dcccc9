"""Sharding a stage over the GPUs, in one place and one order.

Compilation of the blocks, activation checkpointing around it, then FSDP2, then real parameters. Composer is handed the
result and wraps nothing: left to itself it would overwrite a two-dimensional mesh, and it ignores
`parallelism_config={"fsdp2": ...}` without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from composer.utils.parallelism import FSDP2Config
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from maws_composer.parallel.degrees import sharding_degrees
from maws_composer.parallel.gloo import average_correctly, copy_within_one_rank, give_cpu_streams_events
from maws_composer.parallel.materialize import materialize
from maws_composer.parallel.settings import Speed
from maws_composer.planning.workload import is_checkpointed

# Composer puts a filter of its own before all others, and knows no other way to have a child left as it is.
_NO_OTHER_WAY = "The _fsdp_wrap attribute will be removed in a future release. Please use fsdp_wrap_fn instead."


def already_sharded() -> FSDP2Config:
    """What Composer's Trainer is told: save and load sharded checkpoints, wrap nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FSDP2 Config/APIs are experimental")
        return FSDP2Config(state_dict_type="sharded")


def shard(stage: nn.Module, speed: Speed, precision: str, seed: int, device: torch.device) -> DeviceMesh:
    """Shard `stage`, built on the meta device, and give it real, initialized parameters on `device`.

    Args:
        stage: a stage with `blocks()` and `initialize_parameter()`; every child that has parameters is sharded.
        speed: activation checkpointing, compilation and sharding.
        precision: "amp_bf16" gathers the blocks' parameters in bf16; gradients are reduced in fp32 always.
        seed: seed of the run; the initial bits depend on it and on parameter names only, not on the world size.
        device: this rank's device.

    Returns:
        The mesh: one dimension, or ("replicate", "shard") where the world is larger than the sharding degree.
    """
    mesh = wrap(stage, speed, precision, device)
    _wait_as_for_all(mesh, device)
    materialize(stage, device, seed)
    return mesh


def wrap(stage: nn.Module, speed: Speed, precision: str, device: torch.device) -> DeviceMesh:
    """All of `shard` but the parameters, which stay on the meta device."""
    blocks: list[nn.Module] = stage.blocks()  # type: ignore[operator]
    if speed.compile:
        _compile(blocks)
    _checkpoint_activations(blocks, speed.activation_checkpointing)
    mesh = _build_mesh(device, speed.sharding.shard)
    _fully_shard(stage, blocks, mesh, precision, speed.sharding.reshards)
    return mesh


def require_sharded(stage: nn.Module, mesh: DeviceMesh) -> None:
    """Assert that every parameter is sharded over `mesh`, after Composer had its hands on the stage.

    Raises:
        RuntimeError: naming the first parameter that is not.
    """
    for name, parameter in stage.named_parameters():
        if not isinstance(parameter, DTensor) or parameter.device_mesh != mesh:
            raise RuntimeError(
                f"{name} is not sharded over {mesh}: Composer replaced it, or it was added after sharding; "
                "add parameters in the stage's __init__"
            )


def whole(parameter: Tensor) -> Tensor:
    """The parameter, not sharded, without gradient. A collective."""
    detached = parameter.detach()
    return detached.full_tensor() if isinstance(detached, DTensor) else detached


def way_in(stage: nn.Module, module: nn.Module, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which runs `module` or parts of it, made fit for a sharded stage.

    FSDP gathers the parameters of one of the stage's children when its forward begins, and has to be told of another
    way into it.

    Args:
        module: a part of the stage.
        name: the child's new method.
        function: the method, without `self`.
    """
    child = next(part for part in stage.children() if module in set(part.modules()))
    setattr(child, name, function)
    register_fsdp_forward_method(child, name)
    entered: Callable[..., Any] = getattr(child, name)
    return entered


def _build_mesh(device: torch.device, at_most: int | None) -> DeviceMesh:
    world_size = dist.get_world_size()
    replicate, degree = sharding_degrees(world_size, at_most)
    if device.type == "cpu":
        copy_within_one_rank()
        average_correctly()
        give_cpu_streams_events()
    if replicate == 1:
        return init_device_mesh(device.type, (degree,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (replicate, degree), mesh_dim_names=("replicate", "shard"))


def _wait_as_for_all(mesh: DeviceMesh, device: torch.device) -> None:
    """Collectives of a part of the ranks: left to itself PyTorch gives them 10 minutes on GPUs, then aborts."""
    if mesh.ndim == 1:
        return
    everybody = dist.distributed_c10d._get_default_group()
    for group in mesh.get_all_groups():
        _set_pg_timeout(everybody._get_backend(device).options._timeout, group)


def _fully_shard(
    stage: nn.Module, blocks: list[nn.Module], mesh: DeviceMesh, precision: str, reshard_after_forward: bool
) -> None:
    # Inputs are not cast: under autocast the residual stream stays in fp32, as without sharding.
    low = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "amp_bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    placement = partial(_placement, mesh.size(-1))
    for block in blocks:
        fully_shard(
            block,
            mesh=mesh,
            mp_policy=low,
            reshard_after_forward=reshard_after_forward,
            shard_placement_fn=placement,
        )
        if not reshard_after_forward:
            _keep_for_backward_only(block)
    for child in stage.children():
        if any(True for _ in child.parameters()):
            # Outside the blocks little is gathered, and positions and norms lose digits in bf16.
            fully_shard(
                child,
                mesh=mesh,
                mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False),
                shard_placement_fn=placement,
            )
            for method in getattr(child, "forward_methods", ()):
                register_fsdp_forward_method(child, method)
        child._fsdp_wrap = False  # type: ignore[assignment]
    show = warnings.showwarning
    if not (isinstance(show, partial) and show.func is _show_others):
        warnings.showwarning = partial(_show_others, show)


def _placement(degree: int, parameter: nn.Parameter) -> Shard | None:
    """By the first dimension, which FSDP2 fills up to a multiple of `degree`: of positions (1, patches, width), shared
    by 64, every GPU would gather 64. So by another one where that comes out even; but not of what is trained, since
    what people do with rows of gradients goes wrong then: DTensor forgets about partial norms."""
    if parameter.requires_grad or parameter.ndim == 0 or parameter.shape[0] >= degree:
        return None
    return next((Shard(dim) for dim, size in enumerate(parameter.shape) if size % degree == 0), None)


def _keep_for_backward_only(block: nn.Module) -> None:
    """Let gathered weights go where no backward pass comes that would.

    After an evaluation they would be plain tensors where others look for shards, those of a locked block would stay
    for ever, and after a forward pass that was given up the next one would take them as they were then.
    """

    def before(block: Any, arguments: Any) -> None:
        block.reshard()

    def after(block: Any, arguments: Any, output: Any) -> None:
        if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(output)):
            block.reshard()

    block.register_forward_pre_hook(before, prepend=True)  # FSDP's own gathers
    block.register_forward_hook(after)


def _show_others(show: Callable[..., None], message: Warning | str, *about: Any, **more: Any) -> None:
    if str(message) != _NO_OTHER_WAY:
        show(message, *about, **more)


def _compile(blocks: list[nn.Module]) -> None:
    """Compile blocks of one class as one function: a graph per shape, where compiling each for itself gives a graph per
    block, and after eight of them none any more."""
    compiled = {kind: torch.compile(kind.forward) for kind in {type(block) for block in blocks}}
    for block in blocks:
        block.forward = partial(compiled[type(block)], block)


def _checkpoint_activations(blocks: list[nn.Module], which: str | int) -> None:
    """Recompute the activations of all blocks, or of every n-th, in the backward pass; locked ones keep none anyway."""
    trained = [block for block in blocks if any(parameter.requires_grad for parameter in block.parameters())]
    for number, block in enumerate(trained):
        if is_checkpointed(number, which):
            # The method, not a wrapping module: names of parameters stay what they are.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
