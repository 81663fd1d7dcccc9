"""Reads batches as a rank of a real run does: a script for tests, and how they start it.

    python -m tests.data.reader '[{…}, …]'

Each object is one loader, built, read and dropped; see `read`. Prints a JSON list of what each gave.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from tests.processes import ROOT, free_port, rank_environment

SIZE = 8


def settings(scenario: dict[str, Any]) -> Any:
    """The `Run` of a scenario."""
    from maws_composer.config.run import Run
    from maws_composer.data.settings import Data, EvalData, StreamSource, TrainData
    from maws_composer.parallel.settings import Speed

    train = dict(scenario["train"])
    train["streams"] = {name: StreamSource(**stream) for name, stream in train.get("streams", {}).items()}
    return Run(
        stage="mae",
        data=Data(train=TrainData(**train), eval=EvalData(**scenario["eval"]) if "eval" in scenario else None),
        global_train_batch_size=scenario.get("batch", 16),
        max_duration="1000sp",
        model={"image_size": SIZE},
        seed=scenario.get("seed", 7),
        save_folder="runs/reader",
        speed=Speed(
            workers=scenario.get("workers", 0),
            predownload=scenario.get("predownload"),
            device_eval_batch_size=scenario.get("eval_batch", 4),
            loader_timeout=60,
            scratch_folder=scenario["scratch"],
        ),
    )


def read(scenario: dict[str, Any]) -> dict[str, Any]:
    """Read `epochs` epochs, or `batches` batches, from the start or from the state `resume`."""
    from maws_composer.data.loader import build_eval_loader, build_train_loader

    began = time.monotonic()
    result: dict[str, Any] = {"rows": [], "sizes": [], "error": None, "state": None}
    try:
        build = build_eval_loader if "eval" in scenario else build_train_loader
        spec = build(settings(scenario))
        loader = spec.dataloader
        result["length"], result["samples"] = len(loader), spec.num_samples
        if scenario.get("resume"):
            loader.load_state_dict(scenario["resume"])
        _read_batches(loader, scenario, result)
    except Exception as error:
        result["error"], result["kind"] = str(error), type(error).__name__
    result["seconds"] = time.monotonic() - began
    return result


def _read_batches(loader: Any, scenario: dict[str, Any], result: dict[str, Any]) -> None:
    for _ in range(scenario.get("epochs", 1)):
        for batch in loader:
            result["sizes"].append(len(batch["image"]))
            names = ("epoch", "position", "replaced", "valid")
            numbers = zip(*(batch[name].tolist() for name in names), strict=True)
            pixels = [zlib.crc32(image.numpy().tobytes()) for image in batch["image"]]
            result["rows"] += [[*row, name, crc] for row, name, crc in zip(numbers, batch["id"], pixels, strict=True)]
            if len(result["sizes"]) == scenario.get("batches"):
                result["state"] = loader.state_dict()
                return
            _meet(scenario, len(result["sizes"]))
    result["state"] = loader.state_dict()


def _meet(scenario: dict[str, Any], batches: int) -> None:
    """After `meet_after` batches say so, and go on when the test has said so."""
    if batches == scenario.get("meet_after"):
        Path(scenario["meet"], "here").touch()
        while not Path(scenario["meet"], "go").exists():
            time.sleep(0.01)


def start(
    scenarios: list[dict[str, Any]], world_size: int = 1, nodes: int = 1, environment: dict[str, str] | None = None
) -> list[subprocess.Popen]:
    """Start the ranks."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.data.reader", json.dumps(scenarios)],
            env={**rank_environment(rank, world_size, port, nodes), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(world_size)
    ]


def collect(ranks: list[subprocess.Popen], timeout: float = 100) -> list[list[dict[str, Any]]]:
    """What each scenario gave, by rank: result[scenario][rank]. Whoever does not end in time is killed, and fails."""
    try:
        outputs = []
        for rank in ranks:
            out, err = rank.communicate(timeout=timeout)
            assert rank.returncode == 0, err[-4000:]
            outputs.append(json.loads(out.splitlines()[-1]))
            outputs[-1][0]["log"] = err
    finally:
        for rank in ranks:
            rank.kill()
    return [list(results) for results in zip(*outputs, strict=True)]


def run(
    scenarios: list[dict[str, Any]], world_size: int = 1, nodes: int = 1, **options: Any
) -> list[list[dict[str, Any]]]:
    return collect(start(scenarios, world_size, nodes, **options))


def main() -> None:
    import torch.distributed as dist
    from streaming.base.world import World

    logging.basicConfig(level=logging.WARNING)
    if World.detect().num_ranks > 1:
        dist.init_process_group("gloo")
    print(json.dumps([read(scenario) for scenario in json.loads(sys.argv[1])]))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
