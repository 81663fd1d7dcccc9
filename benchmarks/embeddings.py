"""Steps/s of LiT on images, and on image embeddings computed once, as a ratio.

    python -m benchmarks.embeddings [yamls/lit_vitb.yaml] [key=value ...] [--steps 20]

Method: that of benchmarks.training_step, with the recipe as it stands and with model.image_embeddings=true, each in a
process of its own, in turn, three times; medians are compared. The batch is on the device already: decoding, which
embeddings save as well, is not in the ratio. Both embed the same random captions, of the context's full length.
"""

from __future__ import annotations

import argparse
import statistics

from benchmarks import training_step

CONFIG = "yamls/lit_vitb.yaml"
VARIANTS = {"images": "", "embeddings": "model.image_embeddings=true"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=CONFIG)
    parser.add_argument("overrides", nargs="*", help="key=value, as for train.py")
    parser.add_argument("--depth", type=int, help="blocks of the image tower, instead of the recipe's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_intermixed_args(arguments)
    rounds = [
        {name: training_step.measure(options, variant) for name, variant in VARIANTS.items()}
        for _ in range(options.rounds)
    ]
    first = rounds[0]["images"]
    print(f"{options.config} {' '.join(options.overrides)} on {first['device']}, {first['batch']} pairs per step")
    pace = {name: statistics.median(each[name]["images/s"] for each in rounds) / first["batch"] for name in VARIANTS}
    for name in VARIANTS:
        memory = max(each[name]["peak GB"] for each in rounds)
        print(f"from {name:<12} {pace[name]:8.3f} steps/s  {memory:.1f} GB")
    print(f"embeddings / images: {pace['embeddings'] / pace['images']:.2f} times as many steps")


if __name__ == "__main__":
    main()
