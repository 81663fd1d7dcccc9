"""Features of whole datasets: every image once, over all ranks, and only once for the same weights and data."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from composer.core import DataSpec
from jaxtyping import Float, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from maws_composer.data.columns import LABELS
from maws_composer.evaluation.features import Features
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.stages.pixels import normalize

log = logging.getLogger(__name__)

Feature = Literal["class_token", "mean_patch_token"]
Encode = Callable[[UInt8[Tensor, "batch 3 height width"]], Float[Tensor, "batch width"]]


def encode(
    encoder: VisionTransformer, feature: Feature, images: UInt8[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch width"]:
    """One feature per image, after the final norm, which is that of the mean where an encoder has one."""
    tokens = encoder.forward_features(normalize(images))
    return tokens[:, 0] if feature == "class_token" else encoder.fc_norm(tokens[:, 1:].mean(1))


@torch.no_grad()
def extract(encode_images: Encode, loader: DataSpec, device: torch.device, title: str) -> Features | None:
    """Features and labels of every image of `loader` once, in the order of the dataset. A collective.

    Args:
        encode_images: from images on `device`; called equally often on every rank.
        loader: as `build_loader_of_each_once` makes it, with labels.
        device: this rank's.
        title: of the progress bar.

    Returns:
        On rank 0; None elsewhere, where nothing is kept.
    """
    positions: list[Tensor] = []
    values: list[Tensor] = []
    labels: list[Tensor] = []
    leads = dist.get_rank() == 0
    for batch in tqdm(loader.dataloader, desc=title, leave=False, mininterval=2, disable=not leads):
        # Rows that only fill the last batch repeat an image.
        position = batch["position"].masked_fill(~batch["valid"], -1).to(device)
        gathered = [
            _gather(part)
            for part in (
                position,
                encode_images(batch["image"].to(device)).float(),
                _of_equal_width(batch[LABELS].to(device)),
            )
        ]
        if leads:
            real = gathered[0] >= 0
            for kept, part in zip((positions, values, labels), gathered, strict=True):
                kept.append(part[real].cpu())
    return _in_order(torch.cat(positions), torch.cat(values), labels) if leads else None


def cached_features(
    folder: Path, name: str, about: Mapping[str, Any], compute: Callable[[], Features | None]
) -> Features | None:
    """Those that an earlier evaluation left in `folder`, if it was about the same; else computed, and kept there.

    A collective; on ranks other than 0 the result is None.

    Args:
        name: of the dataset, for people.
        about: all that the features depend on.
        compute: makes them; called on every rank, or on none.
    """
    fingerprint = json.dumps(about, sort_keys=True)
    file = folder / f"{name}-{hashlib.sha256(fingerprint.encode()).hexdigest()[:16]}.safetensors"
    if on_rank_zero(file.exists):
        log.info("features of %s are those of an earlier evaluation: %s", name, file)
        return _read(file) if dist.get_rank() == 0 else None
    computed = compute()
    if computed is not None:
        _write(file, computed, fingerprint)
    return computed


def digest(encoder: VisionTransformer) -> str:
    """Changes with any weight."""
    total = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        total.update(name.encode())
        total.update(memoryview(tensor.contiguous().view(torch.uint8).numpy()))
    return total.hexdigest()


def _gather(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def _of_equal_width(labels: Tensor) -> Tensor:
    """As many columns as on the rank that has most."""
    most = torch.tensor(labels.shape[1], device=labels.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return pad(labels, (0, int(most) - labels.shape[1]), value=-1)


def _in_order(positions: Tensor, values: Tensor, labels: list[Tensor]) -> Features:
    most = max(part.shape[1] for part in labels)
    padded = torch.cat([pad(part, (0, most - part.shape[1]), value=-1) for part in labels])
    order = positions.argsort()
    if not torch.equal(positions[order], torch.arange(len(positions))):
        raise RuntimeError("an image of the dataset was read twice, or not at all")
    return Features(values[order], padded[order])


def _read(file: Path) -> Features:
    with safe_open(file, "pt") as tensors:
        return Features(tensors.get_tensor("values"), tensors.get_tensor("labels"))


def _write(file: Path, features: Features, fingerprint: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    save_file({"values": features.values, "labels": features.labels}, draft, {"about": fingerprint})
    draft.replace(file)
