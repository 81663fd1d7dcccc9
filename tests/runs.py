"""Real training runs for tests: `composer -n N train.py ...` in miniature, killed and started again."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from streaming import MDSWriter

from maws_composer.reporting.metrics_file import read_metrics
from tests.processes import ROOT, free_port

IMAGES = 512
GLOBAL_BATCH = 16


def write_images(
    folder: Path, count: int = IMAGES, size: int = 40, shard_size: int = 1 << 19, broken: dict[int, bytes] | None = None
) -> Path:
    """MDS shards of generated pictures: smooth color fields, as PNG, so that every machine decodes the same pixels.

    Args:
        broken: number of an image -> what stands in its place.
    """
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 2 * np.pi, size)
    columns = {"image": "bytes", "id": "str"}
    with MDSWriter(out=str(folder), columns=columns, hashes=["sha1"], size_limit=shard_size) as writer:
        for number in range(count):
            waves = [np.sin(a * grid[:, None] + b * grid[None] + c) for a, b, c in rng.uniform(0, 3, (3, 3))]
            pixels = ((np.stack(waves, -1) + 1) * 127.5).astype(np.uint8)
            writer.write({"image": (broken or {}).get(number) or _png(pixels), "id": f"{number:05d}"})
    return folder


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Finished:
    """What a run left behind."""

    code: int
    output: str
    folder: Path

    @property
    def steps(self) -> list[dict]:
        """The steps of metrics.jsonl, each once."""
        return read_metrics(self.folder)

    @property
    def losses(self) -> list[float]:
        return [step["loss"] for step in self.steps]

    @property
    def status(self) -> dict:
        """What status.json says."""
        return json.loads((self.folder / "status.json").read_text())


# (launcher, run folder, log) -> whether the moment had come, and the signals are sent
Notify = Callable[[int, Path, Path], bool]


class Runs:
    """Starts runs of one miniature recipe; what a test changes is given as overrides.

    Args:
        folder: of the runs.
        images: see `write_images`.
        environment: more of it.
        inside: a command that runs its arguments, and stands before the launcher.
        launcher: the module that starts the ranks, and its arguments.
    """

    def __init__(
        self,
        folder: Path,
        images: Path,
        environment: dict[str, str] | None = None,
        inside: tuple[str, ...] = (),
        launcher: tuple[str, ...] = ("composer.cli",),
    ) -> None:
        self.folder = folder
        self.launcher = (*inside, sys.executable, "-m", *launcher)
        self.environment = environment or {}
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(_recipe(images)))

    def __call__(
        self,
        name: str,
        *overrides: str,
        processes: int = 1,
        nodes: int = 1,
        until_node: int = 0,
        kill_after: int | None = None,
        kill_after_saving: int | None = None,
        notify: Notify | None = None,
        config: Path | None = None,
        timeout: float = 240,
    ) -> Finished:
        """Run `composer -n processes train.py` to its end, or SIGKILL all of it.

        Args:
            nodes: launchers that share the processes, as if each were on a machine of its own.
            until_node: whose launcher's end is waited for, and whose code and output are returned.
            kill_after: once so many steps are in metrics.jsonl.
            kill_after_saving: once the checkpoint of this batch is announced.
            notify: tried again and again until it has sent its signals; the run has to end by itself then.
        """
        run_folder = self.folder / name
        port = free_port()
        launchers = [
            self._start(name, config or self.recipe, overrides, processes, node, nodes, port) for node in range(nodes)
        ]
        log, process = launchers[until_node]
        try:
            if kill_after is not None:
                wait_until(lambda: steps_done(run_folder) >= kill_after, process, timeout)
            elif kill_after_saving is not None:
                wait_until(lambda: f"-ba{kill_after_saving}: " in log.read_text(), process, timeout)
            else:
                if notify is not None:
                    wait_until(lambda: notify(process.pid, run_folder, log), process, timeout)
                process.wait(timeout)
                wait_for_ranks(process.pid, timeout)
        finally:
            for _, launcher in launchers:
                kill_session(launcher.pid)
        return Finished(process.wait(), log.read_text(), run_folder)

    def _start(
        self,
        name: str,
        config: Path,
        overrides: tuple[str, ...],
        processes: int,
        node: int = 0,
        nodes: int = 1,
        port: int | None = None,
    ) -> tuple[Path, subprocess.Popen[bytes]]:
        here = processes // nodes
        command = [
            *self.launcher, "-n", str(here), "--world_size", str(processes),
            "--node_rank", str(node), "--base_rank", str(node * here),
            "--master_addr", "127.0.0.1", "--master_port", str(port or free_port()),
            str(ROOT / "train.py"), str(config), f"save_folder={self.folder / name}", f"run_name={name}", *overrides,
        ]  # fmt: skip
        log = self.folder / f"{name}-{node}-{time.monotonic_ns()}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                cwd=ROOT,
                start_new_session=True,
            )
        return log, process

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **self.environment}


def _recipe(images: Path) -> dict:
    return {
        "stage": "mae",
        "model": {"size": "vit_micro", "image_size": 24, "decoder": {"width": 32, "depth": 1, "heads": 2}},
        "data": {"train": {"local": str(images), "num_canonical_nodes": 4, "shuffle_block_size": 128}},
        "global_train_batch_size": GLOBAL_BATCH,
        "max_duration": f"{50 * GLOBAL_BATCH}sp",
        "optimizer": {"base_lr": 0.02},
        "gradient_clip": 0.5,
        "save_interval": "10ba",
        "speed": {"workers": 0, "scratch_folder": str(images.parent / "scratch")},
    }


def wait_until(happened: Callable[[], bool], process: subprocess.Popen, timeout: float) -> None:
    """Wait for something that a run does before it ends."""
    until = time.monotonic() + timeout
    while not happened():
        assert process.poll() is None and time.monotonic() < until, "the run ended, or hung, before that"
        time.sleep(0.02)


def wait_for_ranks(launcher: int, timeout: float) -> None:
    """Ranks may outlive a launcher that was ended, to save."""
    until = time.monotonic() + timeout
    while session(launcher) and time.monotonic() < until:
        time.sleep(0.05)


def steps_done(run_folder: Path) -> int:
    """Lines of steps in metrics.jsonl, repeated ones included."""
    metrics = run_folder / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.exists() else 0


def session(leader: int) -> list[int]:
    """Living processes that a launcher started: its ranks and their loader workers."""
    living = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                if os.getsid(int(process.name)) == leader and state != "Z":
                    living.append(int(process.name))
            except (ProcessLookupError, FileNotFoundError, PermissionError):
                continue
    return living


def ranks(launcher: int) -> list[int]:
    """Processes of the ranks, the first rank first."""
    found = []
    for process in session(launcher):
        with suppress(OSError, IndexError):
            parent = int((Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher:
                found.append(process)
    return sorted(found)


def kill_session(leader: int) -> None:
    for process in session(leader):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
