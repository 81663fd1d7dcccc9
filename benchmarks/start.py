"""How long commands take that only say something, against `import composer`, which is what they cannot do without.

    python -m benchmarks.start [--rounds 5]

Method: each command is a process of its own, all of them in turn, so that a busy machine slows all alike; medians of
the CPU seconds that the process used are compared. Seconds on the clock are given too, and mean something on an idle
machine only. The first round fills the disk's cache, and is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RECIPE = "yamls/mae_vitb.yaml"
WITHOUT = "import composer"
COMMANDS = {
    WITHOUT: ["-c", "import composer"],
    "train.py --help": ["train.py", "--help"],
    "maws-composer --help": ["-m", "maws_composer.cli", "--help"],
    "train.py --print": ["train.py", RECIPE, "data.train.local=/images", "--print"],
    "evaluate.py --print": ["evaluate.py", "yamls/eval/imagenet.yaml", "weights=/w", "data.train.local=/i",
                            "data.test.local=/i", "--print"],
}  # fmt: skip


class Took(NamedTuple):
    """Seconds of one process."""

    cpu: float
    clock: float


def measure(arguments: list[str]) -> Took:
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(cpu, time.perf_counter() - began)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    rounds = [{name: measure(command) for name, command in COMMANDS.items()} for _ in range(options.rounds + 1)][1:]
    cpu = {name: statistics.median(each[name].cpu for each in rounds) for name in COMMANDS}
    for name in COMMANDS:
        clock = statistics.median(each[name].clock for each in rounds)
        beyond = cpu[name] - cpu[WITHOUT]
        print(
            f"{name:<22} {cpu[name]:6.2f} s of CPU ({cpu[name] / cpu[WITHOUT]:.2f} x, {beyond:+.2f} s)  {clock:.2f} s"
        )


if __name__ == "__main__":
    main()
