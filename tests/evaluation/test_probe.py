"""`maws-composer probe` on a run of a miniature MAE."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from streaming import MDSWriter

from maws_composer import registry
from maws_composer.cli import main
from maws_composer.models.sizes import ViTSize
from tests.weights.saved import autoencoder, image_size, save_run

SIZE = ViTSize(width=32, depth=1, heads=2, patch_size=4)


def write_tagged(folder: Path, count: int, seed: int) -> Path:
    """Squares whose hashtag is their color."""
    rng = np.random.default_rng(seed)
    columns = {"image": "bytes", "id": "str", "hashtags": "json"}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for number in range(count):
            color = number % 2
            pixels = np.clip((60, 180)[color] + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            sample = {"image": buffer.getvalue(), "id": str(number), "hashtags": [("dark", "light")[color]]}
            writer.write(sample)
    return folder


def test_the_figures_are_of_the_runs_encoder_and_of_a_random_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = registry.Entry("size", "twin", SIZE, "here")
    monkeypatch.setitem(registry._entries, ("size", entry.name), {entry.origin: entry})
    model = autoencoder(SIZE)
    with torch.no_grad():
        model.encoder.norm.weight.zero_()  # an encoder that sees nothing
    save_run(tmp_path / "run", model, "twin")
    config = {"stage": "mae", "seed": 0, "model": {"size": "twin", "image_size": image_size(SIZE)}}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "run" / "metrics.jsonl").touch()
    train, test = (write_tagged(tmp_path / name, 60, seed) for seed, name in enumerate(("train", "test")))
    assert main(["probe", str(tmp_path / "run"), "--train", str(train), "--test", str(test)]) == 0
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert [(row["encoder"], row["held-out mAP"]) for row in figures["rows"]] == [
        ("random encoder", 1.0),  # light from dark is easy
        ("MAE encoder", 0.5),
    ]
    assert "random encoder   mAP 1.000 over 2 hashtags" in capsys.readouterr().out
