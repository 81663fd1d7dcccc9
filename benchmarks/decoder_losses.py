"""Does `decode: fast` train as `exact` does? Two decoders and several seeds of one miniature MAE run.

    python -m benchmarks.decoder_losses [--steps 400] [--seeds 2]

The quickstart's pictures and model, but the pictures drawn large and stored as JPEGs, so that `fast` scales them while
it decodes. Runs of one seed have the same crops, masks and initial weights: their losses differ by their pixels alone.
Printed: training loss (mean of the last tenth of the steps) and held-out loss, which all read through the exact route.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from PIL import Image
from streaming import MDSWriter

from maws_composer.reporting.metrics_file import read_metrics
from streaming_conversion.readers import openmoji

ROOT = Path(__file__).parents[1]
SIDE = 288  # six times the crop's 48: the smallest crops are made at half scale, the largest at a quarter
BATCH = 64


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        for seed in range(options.seeds):
            for decoder in ("exact", "fast"):
                training, held_out = train(Path(folder), decoder, seed, options.steps)
                print(f"seed {seed}  {decoder:<6} training {training:.4f}  held out {held_out:.4f}", flush=True)


def write_pictures(folder: Path) -> None:
    for split, source in openmoji.read(Namespace(size=SIDE, languages=("en",))).items():
        with MDSWriter(out=str(folder / split), columns={"image": "bytes", "id": "str"}, hashes=["sha1"]) as writer:
            for entry in source.entries:
                jpeg = io.BytesIO()
                Image.open(io.BytesIO(source.load(entry.key))).convert("RGB").save(jpeg, "JPEG", quality=90)
                writer.write({"image": jpeg.getvalue(), "id": entry.id})


def train(folder: Path, decoder: str, seed: int, steps: int) -> tuple[float, float]:
    """Training and held-out loss."""
    run = folder / f"{decoder}-{seed}"
    overrides = {
        "data.train.local": folder / "train",
        "data.eval.local": folder / "val",
        "data.train.decode": decoder,
        "seed": seed,
        "global_train_batch_size": BATCH,
        "max_duration": f"{steps * BATCH}sp",
        "eval_interval": f"{steps}ba",
        "save_interval": f"{steps}ba",
        "save_folder": run,
        "speed.scratch_folder": folder / "scratch",
        "callbacks": {},
        "loggers": {},
    }
    command = [sys.executable, "train.py", "yamls/quickstart/mae.yaml", *(f"{k}={v}" for k, v in overrides.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = read_metrics(str(run))
    return mean(line["loss"] for line in lines[-steps // 10 :]), lines[-1]["metrics/eval/loss"]


if __name__ == "__main__":
    main()
