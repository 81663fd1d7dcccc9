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
from jaxtyping import Float, Int, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from maws_composer.data.columns import CAPTION, ID, LABELS
from maws_composer.evaluation.features import Extracted, Features
from maws_composer.evaluation.pictured import all_over
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.resilience.progress import progressed
from maws_composer.stages.pixels import normalize
from maws_composer.weights.fingerprint import fingerprint

log = logging.getLogger(__name__)

Feature = Literal["class_token", "mean_patch_token"]
Encode = Callable[[UInt8[Tensor, "batch 3 height width"]], Float[Tensor, "batch width"]]

_PICTURES = 8  # that are kept of a dataset


def encode(
    encoder: VisionTransformer, feature: Feature, images: UInt8[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch width"]:
    """One feature per image, after the final norm, which is that of the mean where an encoder has one."""
    tokens = encoder.forward_features(normalize(images))
    return tokens[:, 0] if feature == "class_token" else encoder.fc_norm(tokens[:, 1:].mean(1))


@torch.no_grad()
def extract(
    encode_images: Encode,
    loader: DataSpec,
    device: torch.device,
    title: str,
    after_batch: Callable[[], None] = lambda: None,
) -> Extracted | None:
    """Features, labels, ids and captions of every image of `loader` once, in the order of the dataset. A collective.

    Images that cannot be used are left out, not replaced.

    Args:
        encode_images: from images on `device`; called equally often on every rank.
        loader: as `build_loader_of_each_once` makes it; labels and captions may be missing.
        device: this rank's.
        title: of the progress bar.
        after_batch: called on every rank; what it raises ends the extraction.

    Returns:
        On rank 0; None elsewhere, where nothing is kept.
    """
    positions: list[Tensor] = []
    replaced: list[Tensor] = []
    values: list[Tensor] = []
    labels: list[Tensor] = []
    kept = _Kept(all_over(loader.dataloader.dataset.order.samples, _PICTURES))
    leads = dist.get_rank() == 0
    for batch in tqdm(loader.dataloader, desc=title, leave=False, mininterval=2, disable=not leads):
        # Rows that only fill the last batch repeat an image.
        position = batch["position"].masked_fill(~batch["valid"], -1)
        kept.add(position.masked_fill(batch["replaced"], -1), batch)
        none = torch.full((len(position), 1), -1)
        gathered = [
            gather_rows(part)
            for part in (
                position.to(device),
                batch["replaced"].to(device),
                encode_images(batch["image"].to(device)).float(),
                _of_equal_width(batch.get(LABELS, none).to(device)),
            )
        ]
        if leads:
            real = gathered[0] >= 0
            for rows, part in zip((positions, replaced, values, labels), gathered, strict=True):
                rows.append(part[real].cpu())
        progressed(title)
        after_batch()
    everything = kept.gathered()
    if not leads:
        return None
    features = _in_order(torch.cat(positions), torch.cat(values), labels)
    usable = ~torch.cat(replaced)[torch.cat(positions).argsort()]
    if left_out := int((~usable).sum()):
        log.warning("%s: %s of %s cannot be used, and are left out", title, left_out, len(features))
    return everything.with_features(features.rows(usable))


def cached_features(
    folder: Path, name: str, about: Mapping[str, Any], compute: Callable[[], Extracted | None]
) -> Extracted | None:
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
    """Changes with any weight. Of an encoder on the CPU."""
    weights = encoder.state_dict()
    return fingerprint(weights, weights.__getitem__)


class _Kept:
    """What this rank's images have besides features, by their positions in the dataset."""

    def __init__(self, pictured: set[int]) -> None:
        self.ids: dict[int, str] = {}
        self.captions: dict[int, str] = {}
        self.pictures: dict[int, Tensor] = {}
        self._pictured = pictured

    def add(self, positions: Int[Tensor, " batch"], batch: Mapping[str, Any]) -> None:
        """Those of a batch, without the rows whose position is -1."""
        for row, position in enumerate(positions.tolist()):
            if position < 0:
                continue
            self.ids[position] = batch[ID][row]
            if CAPTION in batch:
                self.captions[position] = batch[CAPTION][row]
            if position in self._pictured:
                self.pictures[position] = batch["image"][row].to("cpu", copy=True)

    def gathered(self) -> _Kept:
        """Everybody's, on rank 0. A collective."""
        everybody: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(self, everybody)
        for other in everybody or []:
            self.ids |= other.ids
            self.captions |= other.captions
            self.pictures |= other.pictures
        return self

    def with_features(self, features: Features) -> Extracted:
        positions, pictured = sorted(self.ids), sorted(self.pictures)
        return Extracted(
            features,
            tuple(self.ids[position] for position in positions),
            tuple(self.captions[position] for position in positions) if self.captions else (),
            torch.stack([self.pictures[position] for position in pictured]),
            torch.searchsorted(torch.tensor(positions), torch.tensor(pictured)),
        )


def gather_rows(rows: Tensor) -> Tensor:
    """Those of every rank, below one another. A collective; as many on each."""
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


def _read(file: Path) -> Extracted:
    with safe_open(file, "pt") as tensors:
        words = json.loads(bytes(tensors.get_tensor("words").numpy()))
        return Extracted(
            Features(tensors.get_tensor("values"), tensors.get_tensor("labels")),
            tuple(words["ids"]),
            tuple(words["captions"]),
            tensors.get_tensor("pictures"),
            tensors.get_tensor("pictured"),
        )


def _write(file: Path, extracted: Extracted, fingerprint: str) -> None:
    words = json.dumps({"ids": extracted.ids, "captions": extracted.captions}).encode()
    tensors = {
        "values": extracted.features.values,
        "labels": extracted.features.labels,
        "pictures": extracted.pictures,
        "pictured": extracted.pictured,
        "words": torch.frombuffer(bytearray(words), dtype=torch.uint8),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    save_file(tensors, draft, {"about": fingerprint})
    draft.replace(file)
