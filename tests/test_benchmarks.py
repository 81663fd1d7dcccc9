"""Every measurement runs, in miniature, as `python -m benchmarks.NAME`, and prints figures of what it compares."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

SMALL: dict[str, tuple[str, str]] = {  # arguments, and what stands at least once among the figures
    "callbacks": ("--steps 2 --rounds 1", "of the speed"),
    "checkpoints": ("--sizes vit_micro --ranks 1 --rounds 1 --folder {folder}", "vit_micro"),
    "decoder_losses": ("--steps 2 --seeds 1", "fast"),
    "decoding": ("--rounds 1 --seconds 0.02", "ours, decode: fast"),
    "epoch_order": ("--samples 8_000_000 --nodes 8", "streaming / ours"),
    "label_loss": ("--batch 64 --classes 20_000 --width 64 --labels 4 --steps 1", "dense / ours, memory"),
    "labels": ("--records 100_000", "bytes per record"),
    "loader": ("--pictures 192 --rounds 1", "plain streaming"),
    "peer_step": ("--batch 1 --rounds 1 --stages mae wsp", "wsp: ours"),
    "reading": ("--processes 2 --seconds 0.2 --rounds 1", "2 processes, streaming"),
    "scale": ("--samples 8_000_000 --cover 8_000_000 --only coverage", "each once"),
    "sharding": ("--batch 2 --steps 1 --rounds 1", "replicate 2"),
    "start": ("--rounds 1", "train.py --print"),
    "visible_patches": ("--batch 2 --rounds 1", "saved of the step"),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name: str, tmp_path: Path) -> None:
    arguments, expected = SMALL[name]
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments.format(folder=tmp_path).split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert expected in done.stdout


def test_none_is_forgotten() -> None:
    """Of those that `python -m benchmarks` runs."""
    run = set(re.findall(r"^    (\w+)\.main\(", (ROOT / "benchmarks/__main__.py").read_text(), re.MULTILINE))
    assert run == SMALL.keys() - {"decoder_losses"}
