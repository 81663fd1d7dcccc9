"""`maws-composer inspect`: what a file or folder of weights is, by names, shapes and dtypes; no weights are read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from maws_composer.checkpoints.completeness import RunPath
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.weights.files import SourceError, Weights, open_weights
from maws_composer.weights.layouts import FIRST, layout_of
from maws_composer.weights.parts import part_of
from maws_composer.weights.shapes import image_size, sizes_of_shape, vit_shape
from maws_composer.weights.translation import translated

_SHOWN = 8  # unknown names
_STAGES = {"text tower": "lit", "decoder": "mae", "head": "wsp, or fine-tuned"}  # by the part that gives it away


def inspect(address: str) -> str:
    """One line for each thing to know.

    Args:
        address: a file, a folder, a run or a checkpoint, local or in object storage.

    Raises:
        ConfigError: there are no weights, or they ask to run code, which is not done.
    """
    try:
        weights = open_weights(address)
        layout = layout_of(weights.shapes)
    except SourceError as error:
        raise ConfigError([Problem("FILE", str(error))]) from error
    except ValueError as error:
        raise ConfigError([Problem("FILE", f"{address} {error}")]) from error
    model = translated(weights, layout.recipes) if layout else weights
    lines = {
        "at": weights.address,
        "format": weights.file_format,
        "size": f"{_size(weights.place):,} bytes",
        "layout": layout.name if layout else "none that we know",
        **_about(model),
    }
    return "\n".join(f"{name:<11} {said}" for name, said in lines.items())


def _about(model: Weights) -> dict[str, str]:
    count = {name: math.prod(shape) for name, shape in model.shapes.items()}
    parts = Counter[str]()
    for name in count:
        parts[part_of(name)] += count[name]
    dtypes = Counter(str(dtype).removeprefix("torch.") for dtype in model.dtypes.values())
    unknown = [name for name in count if part_of(name) == "other"]
    guess = next((stage for part, stage in _STAGES.items() if part in parts), "not said: an encoder alone")
    return {
        "stage": model.config.get("stage") or guess,
        **dict(_encoder(model)),
        "parameters": f"{sum(parts.values()):,}" + "".join(f"\n{'':<11} {n:,} {part}" for part, n in parts.items()),
        "dtype": ", ".join(f"{dtype} ({n} tensors)" for dtype, n in dtypes.items()),
        "beside": f"{', '.join(model.beside)} (not read)" if model.beside else "nothing",
        "unknown": ", ".join([*unknown[:_SHOWN], *(["..."] if len(unknown) > _SHOWN else [])]) or "nothing",
    }


def _encoder(model: Weights) -> Iterator[tuple[str, str]]:
    tower = {name[len("encoder.") :]: shape for name, shape in model.shapes.items() if name.startswith("encoder.")}
    if not {FIRST, "pos_embed"} <= tower.keys():
        return
    width, depth, patch = vit_shape(tower)
    known = " or ".join(sizes_of_shape(tower)) or "no registered size"
    yield "encoder", f"{known}: {width} wide, {depth} deep, patches of {patch}, images of {image_size(tower)} px"


def _size(path: RunPath) -> int:
    """Of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
