"""What the commands of a page find when they are typed: pictures, shards and runs in miniature, here and in a bucket.

Names are those of the pages. What a command of the page makes is not made before it, but where training would: then the
quick tests find a run that looks as if it had been trained.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from streaming import MDSWriter

from maws_composer import registry
from streaming_conversion.cli import main as convert
from tests.captioned import write_captioned
from tests.data.shards import png
from tests.evaluation.lit import write_lit
from tests.processes import ROOT
from tests.streaming_conversion.test_labels import write_wordnet
from tests.text_towers import write_text_tower
from tests.weights.foreign import mae_state
from tests.weights.saved import autoencoder, classifier, save_run, save_wsp_run

CLASSES = 3
BESIDE = ("yamls", "clusters", "callbacks", "train.py", "evaluate.py", "Makefile")


def pictures(folder: Path) -> None:
    """Images with hashtags and captions."""
    folder.mkdir()
    lines = []
    for number in range(24):
        Image.effect_noise((32, 32), 40 + number).convert("RGB").save(folder / f"{number}.jpg")
        tags = [["brownbear"], ["polarbear", "brownbear"], ["bank"]][number % CLASSES]
        lines.append({"file_name": f"{number}.jpg", "hashtags": tags, "caption": f"bear {number}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))


def folders(folder: Path) -> None:
    """A folder per class."""
    folder.mkdir()
    for name in ("bear", "tench"):
        pictures(folder / name)
        (folder / name / "metadata.jsonl").unlink()


def tagged(folder: Path) -> None:
    """Shards with hashtags that one can see."""
    columns = {"image": "bytes", "id": "str", "hashtags": "json"}
    with MDSWriter(out=str(folder), columns=columns, hashes=["sha1"]) as writer:
        for number in range(40):
            writer.write({"image": png(number), "id": str(number), "hashtags": [("dark", "light")[number % 2]]})


def labelled(folder: Path) -> None:
    """Shards with labels, and classes.json."""
    source = folder.with_name(f"{folder.name}-pictures")
    pictures(source)
    assert convert(["label", str(source), str(folder), "--canonical", "none", "--processes", "1"]) == 0


def captioned(folder: Path) -> None:
    write_captioned(folder, 64)


def mae_run(folder: Path) -> None:
    save_run(folder, autoencoder(registry.lookup("size", "vit_micro").builder), "vit_micro")
    config = {"stage": "mae", "seed": 0, "model": {"size": "vit_micro", "image_size": 24}}
    _as_trained(folder, config)


def wsp_run(folder: Path) -> None:
    save_wsp_run(folder, classifier(registry.lookup("size", "vit_micro").builder, CLASSES), "vit_micro")
    model = {"size": "vit_micro", "image_size": 24, "num_classes": CLASSES}
    _as_trained(folder, {"stage": "wsp", "seed": 0, "model": model})


def _as_trained(folder: Path, config: dict) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    steps = [{"batch": b, "samples": 8 * b, "loss": 1 / b, "seconds": b, "world_size": 1} for b in range(1, 11)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))


def lit_run(folder: Path) -> None:
    parts = folder.with_name(f"{folder.name}-parts")
    parts.mkdir(parents=True)
    write_lit(parts)
    shutil.copytree(parts / "lit", folder)


def released(file: Path) -> None:
    torch.save({"model": mae_state(16, 1, 4, 2, 8, 1)}, file)


Make = Callable[[Path], object]
BUCKET = "s3://bucket/"
_ALWAYS: dict[str, Make] = {"wordnet": write_wordnet, "small-tower": write_text_tower}
_RUNS: dict[str, Make] = {"runs/mae-b": mae_run, "runs/wsp-b": wsp_run}
WORLDS: dict[str, dict[str, Make]] = {
    "data": {"pictures": pictures, "held-out": pictures, "imagenet/train": folders, "imagenet/val": folders},
    "evaluations": {
        **_RUNS, "imagenet/train": labelled, "imagenet/val": labelled, BUCKET + "lit-b": lit_run,
        BUCKET + "food101/train": labelled, BUCKET + "food101/test": labelled,
        "data/train": tagged, "data/test": tagged,
    },
    "getting-started": {BUCKET + "images": tagged, BUCKET + "held-out": tagged},
    "lit": {BUCKET + "captioned": captioned, BUCKET + "wsp-b": wsp_run, "data/pairs": captioned},
    "mae": {BUCKET + "images": tagged},
    "looking": {"runs/mae": mae_run, "runs/scratch": wsp_run, "runs/mae-wsp": wsp_run, BUCKET + "mae-6.5b": mae_run,
                BUCKET + "mae-wsp": wsp_run},
    "resume": {BUCKET + "images": tagged, BUCKET + "mae-b": mae_run, "data/quickstart/train": tagged,
               "data/quickstart/val": tagged},
    "weights": {**_RUNS, "mae_pretrain_vit_base.pth": released},
    "wsp": {BUCKET + "labelled": labelled, BUCKET + "mae-b": mae_run, BUCKET + "wsp-b": wsp_run, "more": pictures},
    "README": {
        **_RUNS, "pictures": pictures, "held-out": pictures, BUCKET + "images": tagged, BUCKET + "mae-b": mae_run,
        BUCKET + "wsp-b": wsp_run, BUCKET + "captioned": captioned, "imagenet/train": labelled,
        "imagenet/val": labelled, "FILE": lit_run, "RUN": mae_run,
    },
}  # fmt: skip


def make_world(page: str, folder: Path, bucket: Path, without: set[str]) -> None:
    """Fill the working directory of a page, and the folder behind s3://bucket; `without` what will be trained."""
    torch.manual_seed(0)
    np.random.seed(0)
    folder.mkdir()
    for name in BESIDE:
        (folder / name).symlink_to(ROOT / name)
    for address, make in {**_ALWAYS, **WORLDS.get(page, {})}.items():
        if address not in without:
            path = bucket / address.removeprefix(BUCKET) if address.startswith(BUCKET) else folder / address
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
