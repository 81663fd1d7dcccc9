"""Small models and checkpoints of them, as a run leaves them: model, optimizer, configuration, marker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import yaml
from torch import Tensor

from maws_composer.checkpoints.completeness import MARKER, write_marker
from maws_composer.models.initialization import initialize
from maws_composer.models.mae import MaskedAutoencoder
from maws_composer.models.sizes import DecoderSize, ViTSize
from maws_composer.models.vit import VisionTransformer

PATCHES = 4  # along one side


def image_size(size: ViTSize) -> int:
    return PATCHES * size.patch_size


def autoencoder(size: ViTSize, qk_norm: bool = False) -> MaskedAutoencoder:
    """Every parameter differs from what it starts as: biases are not zero, norms not one."""
    model = MaskedAutoencoder(
        VisionTransformer(size, image_size(size), fixed_positions=True, qk_norm=qk_norm), DecoderSize(32, 1, 2)
    )
    initialize(model, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def save_run(folder: Path, model: MaskedAutoencoder, size_name: str) -> Path:
    """A run with one complete checkpoint, at its batch 10; returns the checkpoint's folder."""
    tensors = {f"mae.{name}": tensor for name, tensor in model.state_dict().items()}
    config = {"stage": "mae", "model": {"size": size_name, "image_size": image_size(model.encoder.size)}}
    return save_checkpoint(folder, tensors, config)


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    """The tensors of a stage, and moments of all of them, as a run's only checkpoint."""
    checkpoint = folder / "checkpoints" / "ep0-ba10"
    moments = {f"0.{which}.{name}": torch.ones_like(tensor) for which in "mv" for name, tensor in tensors.items()}
    dcp.save({"state": {"model": tensors, "optimizers": moments}}, checkpoint_id=checkpoint, no_dist=True)
    (checkpoint / "config.yaml").write_text(yaml.safe_dump(config))
    files = {path.name: path.stat().st_size for path in checkpoint.iterdir() if path.name != MARKER}
    write_marker(checkpoint, files, samples=160, world_size=1)
    return checkpoint


def same_bytes(there: dict[str, Tensor], here: dict[str, Tensor]) -> None:
    assert set(there) == set(here)
    for name, tensor in there.items():
        assert tensor.dtype == here[name].dtype and torch.equal(tensor, here[name]), name
