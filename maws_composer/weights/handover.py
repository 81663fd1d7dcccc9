"""Hand-over: a stage begins with the weights of an earlier one, and every tensor is accounted for.

Positions are values like others: fixed in MAE, trained in later stages, the same numbers. Only the same grid fits,
unless resizing is asked for.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maws_composer.checkpoints.completeness import newest_complete
from maws_composer.checkpoints.run_folder import open_path
from maws_composer.config.build import build
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.outages import OutageError, is_mistake, problems_of_mistake
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.materialize import as_sharded
from maws_composer.registry import lookup
from maws_composer.weights.files import SourceError, Weights
from maws_composer.weights.image_text import has_encoder, is_image_text, open_image_text, require_its_tower
from maws_composer.weights.parts import by_part, part_of
from maws_composer.weights.resizing import resized
from maws_composer.weights.shapes import disagreement
from maws_composer.weights.sources import open_model

log = logging.getLogger(__name__)


@torch.no_grad()
def hand_over(address: str, stage: nn.Module, whole: bool = False, resize: bool = False) -> None:
    """Fill the encoder of a sharded stage with the weights at `address`; the rest stays as it is. A collective.

    Rank 0 reads, tensor by tensor, and sends each to the others: besides the shards nobody holds more than one.

    Args:
        address: see `sources`.
        stage: has `encoder_prefix`.
        whole: fill all of the stage: the decoder, the head, or the text tower and the projections, too.
        resize: positions for another grid, and patches of another size, are resampled.

    Raises:
        ConfigError: on every rank; the weights cannot be read, or do not fit.
    """
    opened: list[Weights] = []

    def open_and_check() -> str:
        source, told = account(_open(address, verify=True), stage, whole, resize)
        opened.append(source)
        return told

    log.info("%s", on_rank_zero(open_and_check))
    for name, parameter in _filled(stage, whole).items():
        tensor = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        on_rank_zero(partial(_read_into, tensor, opened, name))
        dist.broadcast(tensor, src=0)
        parameter.copy_(as_sharded(tensor, parameter))


def check_source(run: Run) -> list[Problem]:
    """Whether `initialize_from` can be read and fits, by names and shapes alone; not asked if none is needed."""
    if not run.initialize_from or (will_resume(run) and not requires_source(run)):
        return []
    whole = run.initialize_whole and not will_resume(run)
    try:
        with torch.device("meta"):
            stage = build(lookup("stage", run.stage), run.model, run)
        if whole or encoder_of(stage):
            account(_open(run.initialize_from), stage, whole, run.initialize_resize)
    except ConfigError as error:
        return problems_of_mistake(error)
    return []


def will_resume(run: Run) -> bool:
    """Whether it has a checkpoint to go on from."""
    try:
        return newest_complete(open_path(run.save_folder) / "checkpoints")[0] is not None
    except Exception as error:
        if not is_mistake(error):
            raise OutageError([Problem("save_folder", f"{run.save_folder} is not readable: {error}")]) from error
        return False  # what is wrong with it is said when the run begins


def requires_source(run: Run) -> bool:
    """Whether the stage takes its encoder from `initialize_from` at every start, because no checkpoint has it."""
    stage = lookup("stage", run.stage).builder
    return hasattr(stage, "leaves_out_encoder") and stage.leaves_out_encoder(**run.model)


def encoder_of(stage: nn.Module) -> dict[str, Tensor]:
    """The encoder's parameters, by timm's names; none where a stage reads what it would compute."""
    return {name.removeprefix("encoder."): tensor for name, tensor in _filled(stage, whole=False).items()}


def account(source: Weights, stage: nn.Module, whole: bool = False, resize: bool = False) -> tuple[Weights, str]:
    """Make a source fit.

    Returns:
        The source, resized if need be; and what is taken, what is left, and what has to start anew, in one sentence for
        the log.

    Raises:
        ConfigError: naming the tensors that disagree, with both shapes.
    """
    ours = {name: parameter.shape for name, parameter in _filled(stage, whole).items()}
    source, changes = resized(source, ours) if resize else (source, [])
    # What an encoder has beyond ours would change what it computes.
    has_encoder = any(name.startswith("encoder.") for name in ours)
    theirs = {
        name: shape
        for name, shape in source.shapes.items()
        if name in ours or (has_encoder and part_of(name) == "encoder")
    }
    if told := disagreement(source.address, theirs, ours):
        raise _problem(told)
    left = [name for name in source.shapes if name not in theirs]
    anew = [name for name in _by_model_name(stage) if name not in ours]
    return source, (
        f"{'all weights' if whole else 'encoder'} from {source.address}: {len(ours)} tensors of {len(theirs)} taken; "
        f"{len(left)} left there{by_part(left)}; {len(anew)} start anew{by_part(anew)}"
        f"{'; resized: ' + ', '.join(changes) if changes else ''}"
    )


def _open(address: str, verify: bool = False) -> Weights:
    """Of a LiT run, with the tower that its checkpoint leaves out. Both are verified by reading."""
    try:
        model = open_model(address)
        if verify:
            model.read(min(model.shapes, key=lambda name: model.shapes[name].numel()))
        if not is_image_text(model) or has_encoder(model):
            return model
        both = open_image_text(address)
        if verify:
            require_its_tower(both)
        return both.weights
    except SourceError as error:
        raise _problem(str(error)) from error


def _read_into(tensor: Tensor, opened: list[Weights], name: str) -> None:
    (source,) = opened
    try:
        tensor.copy_(source.read(name))
    except Exception as error:  # each storage library has exceptions of its own
        raise _problem(f"{name} of {source.address} is not readable: {error}") from error


def _filled(stage: nn.Module, whole: bool) -> dict[str, Tensor]:
    parameters = _by_model_name(stage)
    return {name: tensor for name, tensor in parameters.items() if whole or name.startswith("encoder.")}


def _by_model_name(stage: nn.Module) -> dict[str, Tensor]:
    """A stage's parameters by their names in its model, where the encoder is "encoder."."""
    prefix: Any = getattr(stage, "encoder_prefix", None)
    if prefix is None:
        raise _problem(f"{type(stage).__name__} has no encoder_prefix, which says where its encoder's tensors are")
    root = prefix.removesuffix("encoder.")
    return {
        f"encoder.{name.removeprefix(prefix)}" if name.startswith(prefix) else name.removeprefix(root): tensor
        for name, tensor in stage.named_parameters()
    }


def _problem(message: str) -> ConfigError:
    return ConfigError([Problem("initialize_from", message)])
