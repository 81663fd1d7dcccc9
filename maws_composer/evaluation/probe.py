"""`maws-composer probe`: has the encoder of a run learned something that a random one has not?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from jaxtyping import Float, Int
from streaming import LocalDataset
from torch import Tensor
from tqdm import tqdm

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.columns import HASHTAGS, read_hashtags
from maws_composer.data.decode import decode
from maws_composer.data.transforms import resize_and_crop
from maws_composer.evaluation.encoder import load_encoder
from maws_composer.evaluation.ridge_probe import ProbeResult, ridge_probe
from maws_composer.models.initialization import initialize
from maws_composer.models.vit import VisionTransformer
from maws_composer.stages.pixels import normalize

_BATCH = 256
_EXPECTED = {"config.yaml": "the local folder of a run", "index.json": "a local folder of MDS shards"}
_MAX_PIXELS = 178_956_970  # Pillow's limit


def probe(run_folder: Path, train: str, test: str, min_images: int) -> dict[str, ProbeResult]:
    """Ridge probes of hashtags on the mean of the patch tokens, for a random encoder and for the run's.

    Not the class token: nothing in MAE's loss asks it to say anything.

    The figures go to <run_folder>/figures.json, from where the report takes them.

    Args:
        run_folder: local folder of a run.
        train, test: local MDS folders with the columns `image` and `hashtags`.
        min_images: hashtags on fewer training images are left out.

    Raises:
        ConfigError: if the run has no complete checkpoint, or the data no such hashtags.
    """
    if problems := [
        *_missing(run_folder, "config.yaml"),
        *_missing(train, "index.json"),
        *_missing(test, "index.json"),
    ]:
        raise ConfigError(problems)
    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    encoder = load_encoder(str(run_folder))
    image_size, _ = encoder.patch_embed.img_size
    train_set, test_set = _Tagged(train, image_size), _Tagged(test, image_size)
    labels = train_set.frequent(min_images)
    if not labels:
        raise ConfigError([Problem(train, f"no hashtag is on {min_images} images or more")])
    results = {}
    for name, each in (
        ("random encoder", _random_like(encoder, config["seed"])),
        (f"{config['stage'].upper()} encoder", encoder),
    ):
        results[name] = ridge_probe(
            train_set.features(each, name), train_set.targets(labels),
            test_set.features(each, name), test_set.targets(labels),
        )  # fmt: skip
    _write_figures(run_folder, results, len(train_set.tags), len(test_set.tags))
    return results


def _missing(folder: str | Path, file: str) -> Iterator[Problem]:
    if not (Path(folder) / file).exists():
        yield Problem(str(folder), f"has no {file}; name " + _EXPECTED[file])


class _Tagged:
    """A small local dataset with hashtags, in memory: pixels (uint8) and tags."""

    def __init__(self, folder: str, image_size: int) -> None:
        samples = list(LocalDataset(folder))
        if samples and HASHTAGS not in samples[0]:
            raise ConfigError([Problem(folder, f"has no column {HASHTAGS}; it has {', '.join(sorted(samples[0]))}")])
        images = [resize_and_crop(decode(sample["image"], _MAX_PIXELS), image_size) for sample in samples]
        self.pixels = torch.stack(images)
        self.tags = [set(read_hashtags(sample["hashtags"])) for sample in samples]

    def frequent(self, min_images: int) -> list[str]:
        counts = Counter(tag for tags in self.tags for tag in tags)
        return sorted(tag for tag, count in counts.items() if count >= min_images)

    def targets(self, labels: list[str]) -> Int[Tensor, "images labels"]:
        return torch.tensor([[int(label in tags) for label in labels] for tags in self.tags])

    @torch.no_grad()
    def features(self, encoder: VisionTransformer, name: str) -> Float[Tensor, "images width"]:
        """The mean of each image's patch tokens, after the final norm."""
        batches = tqdm(self.pixels.split(_BATCH), desc=f"features, {name}", leave=False, mininterval=2)
        return torch.cat([encoder.forward_features(normalize(batch))[:, 1:].mean(1) for batch in batches])


def _random_like(encoder: VisionTransformer, seed: int) -> VisionTransformer:
    """One of the same shape as training began with, positions fixed."""
    size, (image_size, _) = encoder.size, encoder.patch_embed.img_size
    random = VisionTransformer(size, image_size, fixed_positions=True, qk_norm=encoder.qk_norm)
    initialize(random, seed)
    return random.eval()


def _write_figures(run_folder: Path, results: dict[str, ProbeResult], trained: int, held_out: int) -> None:
    figures = {
        "title": "Linear probe of hashtags",
        "rows": [
            {"encoder": name, "held-out mAP": round(result.mean_average_precision, 3), "hashtags": result.labels}
            for name, result in results.items()
        ],
        "note": f"Ridge regression on the frozen encoder's mean token; {trained:,} images, {held_out:,} held out. "
        "A random encoder is no zero: its features keep much of the pixels.",
    }
    (run_folder / "figures.json").write_text(json.dumps(figures, indent=1))
