"""Hand-over: a stage begins with the encoder of an earlier one, and every tensor is accounted for.

Positions are values like others: fixed in MAE, trained in later stages, the same numbers. Only the same grid fits.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maws_composer.checkpoints.completeness import newest_complete
from maws_composer.checkpoints.run_folder import open_path
from maws_composer.config.plugins import build
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.materialize import as_sharded
from maws_composer.registry import lookup, names
from maws_composer.weights.sources import FIRST, Encoder, SourceError, open_encoder

log = logging.getLogger(__name__)

Shapes = Mapping[str, torch.Size]

_PARTS = {
    "mask token": re.compile(r"(^|\.)mask_token$"),
    "decoder": re.compile(r"(^|\.)decoder_"),
    "text tower": re.compile(r"(^|\.)(text[._]|(vision|image)_projection|logit_)"),
    "head": re.compile(r"(^|\.)head\."),
}
_SHOWN = 6  # tensors that disagree


@torch.no_grad()
def hand_over(address: str, stage: nn.Module) -> None:
    """Fill the encoder of a sharded stage with the weights at `address`; the rest stays as it is. A collective.

    Rank 0 reads, tensor by tensor, and sends each to the others: besides the shards nobody holds more than one.

    Args:
        address: see `sources`.
        stage: has `encoder_prefix`.

    Raises:
        ConfigError: on every rank; the weights cannot be read, or do not fit.
    """
    opened: list[Encoder] = []

    def open_and_check() -> str:
        opened.append(_open(address))
        return account(opened[0], stage)

    log.info("%s", on_rank_zero(open_and_check))
    for name, parameter in encoder_of(stage).items():
        whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        on_rank_zero(partial(_read_into, whole, opened, name))
        dist.broadcast(whole, src=0)
        parameter.copy_(as_sharded(whole, parameter))


def check_source(run: Run) -> list[Problem]:
    """Whether `initialize_from` can be read and fits, by names and shapes alone; not asked if none is needed."""
    if not run.initialize_from or (_will_resume(run) and not requires_source(run)):
        return []
    try:
        with torch.device("meta"):
            stage = build(lookup("stage", run.stage), run.model, run)
        if not encoder_of(stage):
            return []
        account(_open(run.initialize_from), stage)
    except ConfigError as error:
        return error.problems
    return []


def requires_source(run: Run) -> bool:
    """Whether the stage takes its encoder from `initialize_from` at every start, because no checkpoint has it."""
    stage = lookup("stage", run.stage).builder
    return hasattr(stage, "leaves_out_encoder") and stage.leaves_out_encoder(**run.model)


def account(encoder: Encoder, stage: nn.Module) -> str:
    """What is taken, what is left, and what has to start anew, in one sentence for the log.

    Raises:
        ConfigError: naming the tensors that disagree, with both shapes.
    """
    ours = {name: parameter.shape for name, parameter in encoder_of(stage).items()}
    disagreeing = [name for name in {**ours, **encoder.shapes} if ours.get(name) != encoder.shapes.get(name)]
    if disagreeing:
        lines = [f"{name}: {_show(encoder.shapes, name)} there, {_show(ours, name)} here" for name in disagreeing]
        if len(lines) > _SHOWN:
            lines[_SHOWN:] = [f"... and {len(lines) - _SHOWN} more"]
        head = f"{encoder.address} does not fit, {len(disagreeing)} tensors disagree{_hint(encoder.shapes, ours)}"
        raise _problem("\n".join([head, *lines]))
    anew = [name for name, _ in stage.named_parameters() if not name.startswith(stage.encoder_prefix)]  # type: ignore[arg-type]
    return (
        f"encoder from {encoder.address}: {len(ours)} tensors of {len(encoder.shapes)} taken; "
        f"{len(encoder.left)} left there{_by_part(encoder.left)}; {len(anew)} start anew{_by_part(anew)}"
    )


def _open(address: str) -> Encoder:
    try:
        return open_encoder(address)
    except SourceError as error:
        raise _problem(str(error)) from error


def _read_into(whole: Tensor, opened: list[Encoder], name: str) -> None:
    (encoder,) = opened
    try:
        whole.copy_(encoder.read(name))
    except Exception as error:  # each storage library has exceptions of its own
        raise _problem(f"{name} of {encoder.address} is not readable: {error}") from error


def encoder_of(stage: nn.Module) -> dict[str, Tensor]:
    """The encoder's parameters, by timm's names; none where a stage reads what it would compute."""
    prefix: Any = getattr(stage, "encoder_prefix", None)
    if prefix is None:
        raise _problem(f"{type(stage).__name__} has no encoder_prefix, which says where its encoder's tensors are")
    inside = {name: tensor for name, tensor in stage.named_parameters() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor for name, tensor in inside.items()}


def _will_resume(run: Run) -> bool:
    try:
        return newest_complete(open_path(run.save_folder) / "checkpoints")[0] is not None
    except Exception:  # what is wrong with it is said when the run begins
        return False


def _problem(message: str) -> ConfigError:
    return ConfigError([Problem("initialize_from", message)])


def _by_part(tensors: Iterable[str]) -> str:
    parts = Counter(
        next((part for part, pattern in _PARTS.items() if pattern.search(name)), "other") for name in tensors
    )
    return f" ({', '.join(f'{part} {count}' for part, count in parts.items())})" if parts else ""


def _show(shapes: Shapes, name: str) -> str:
    return " x ".join(str(length) for length in shapes[name]) if name in shapes else "none"


def _hint(theirs: Shapes, ours: Shapes) -> str:
    """What the difference looks like, as the end of a sentence."""
    if (shape := _vit_shape(theirs)) != _vit_shape(ours):
        known = [name for name in names("size") if _is_size(lookup("size", name).builder, shape)]
        width, depth, patch = shape
        return f": it is {' or '.join(known) or f'{width} wide, {depth} deep, with patches of {patch}'}; see model.size"
    if any(".q_norm." in name for name in theirs) != any(".q_norm." in name for name in ours):
        return "; see model.qk_norm"
    if theirs.get("pos_embed") != ours.get("pos_embed") and "pos_embed" in theirs:
        side = math.isqrt(theirs["pos_embed"][1] - 1)
        return f": its positions are those of {side * shape[2]} px images; see model.image_size"
    return ""


def _vit_shape(shapes: Shapes) -> tuple[int, int, int]:
    """Width, depth and patch size."""
    width, _, patch, _ = shapes[FIRST]
    return width, len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}), patch


def _is_size(size: Any, shape: tuple[int, int, int]) -> bool:
    return (size.width, size.depth, size.patch_size) == shape
