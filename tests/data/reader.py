"""Real processes that read batches as the ranks of a run do. A scenario is one loader, built, read and dropped."""

from __future__ import annotations

import atexit
import faulthandler
import json
import logging
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist

from maws_composer.parallel.leave import leave_process_group
from tests.processes import free_port, rank_environment

SIZE = 8
READ = ".read"  # beside the output of a rank that stays when it has read


def settings(scenario: dict[str, Any]) -> Any:
    """The `Run` of a scenario."""
    from maws_composer.config.check import extended
    from maws_composer.config.run import Run
    from maws_composer.data.settings import Data, DatasetSettings, HeldOutData, StreamSource, TrainData
    from maws_composer.parallel.settings import Speed
    from maws_composer.registry import load_plugins, lookup

    def named(data: dict[str, Any]) -> dict[str, Any]:
        """With the arguments of the dataset checked, as `config.load` does."""
        if "dataset" not in data:
            return data
        schema = extended(DatasetSettings, lookup("dataset", data["dataset"]["name"]).builder)
        return {**data, "dataset": schema(**data["dataset"])}

    assert not load_plugins(scenario.get("code_paths", []))
    train = dict(scenario["train"])
    train["streams"] = {name: StreamSource(**stream) for name, stream in train.get("streams", {}).items()}
    return Run(
        stage="mae",
        data=Data(
            train=TrainData(**named(train)),
            eval=HeldOutData(**named(scenario["eval"])) if "eval" in scenario else None,
        ),
        global_train_batch_size=scenario.get("batch", 16),
        max_duration="1000sp",
        model={
            "image_size": SIZE,
            "num_classes": scenario.get("classes"),
            "text": SimpleNamespace(
                name=scenario.get("tokenizer"), context_length=scenario.get("context_length", 8), arguments={}
            ),
        },
        seed=scenario.get("seed", 7),
        save_folder="runs/reader",
        speed=Speed(
            workers=scenario.get("workers", 0),
            predownload=scenario.get("predownload"),
            device_eval_batch_size=scenario.get("eval_batch", 4),
            loader_timeout=scenario.get("loader_timeout", 60),
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
        spec = build(settings(scenario), scenario.get("columns", ()))
        loader = spec.dataloader
        result["length"], result["samples"] = len(loader), spec.num_samples
        if scenario.get("resume"):
            _stateful(loader).load_state_dict(scenario["resume"])
        try:
            _read_batches(spec, scenario, result)
        finally:
            # Else garbage collection does it, at any time, in the workers of the next loader too: seconds of waiting.
            if loader._iterator is not None:
                loader._iterator._shutdown_workers()
    except Exception as error:
        result["error"], result["kind"] = str(error), type(error).__name__
    result["seconds"] = time.monotonic() - began
    return result


def _read_batches(spec: Any, scenario: dict[str, Any], result: dict[str, Any]) -> None:
    loader = spec.dataloader
    for _ in range(scenario.get("epochs", 1)):
        for batch in map(spec.batch_transforms, loader):
            result["sizes"].append(len(batch["valid"]))
            names = ("epoch", "position", "replaced", "valid")
            numbers = zip(*(batch[name].tolist() for name in names), strict=True)
            (content,) = {"image", "image_embedding"} & set(batch)
            sums = [zlib.crc32(values.numpy().tobytes()) for values in batch[content]]
            rows = [[*row, name, crc] for row, name, crc in zip(numbers, batch["id"], sums, strict=True)]
            if "caption" in batch:
                tokens = batch["input_ids"].tolist(), batch["attention_mask"].tolist()
                texts = zip(batch["caption"], *tokens, strict=True)
                rows = [[*row, *of_image] for row, of_image in zip(rows, texts, strict=True)]
            if "labels" in batch:
                labels = [[label for label in row if label >= 0] for row in batch["labels"].tolist()]
                rows = [[*row, of_image] for row, of_image in zip(rows, labels, strict=True)]
            result["rows"] += rows
            if len(result["sizes"]) == scenario.get("batches"):
                result["state"] = _state(loader, scenario, len(result["sizes"]))
                return
            _meet(scenario, len(result["sizes"]))
    result["state"] = _state(loader, scenario, len(loader))


def _stateful(loader: Any) -> Any:
    """What Composer asks, of datasets that have no loader of streaming's."""
    return loader if hasattr(loader, "state_dict") else loader.dataset


def _state(loader: Any, scenario: dict[str, Any], batches: int) -> dict[str, Any]:
    stateful = _stateful(loader)
    return stateful.state_dict() if stateful is loader else stateful.state_dict(batches * scenario.get("batch", 16))


def _meet(scenario: dict[str, Any], batches: int) -> None:
    """After `meet_after` batches say so, and go on when the test has said so."""
    if batches == scenario.get("meet_after"):
        Path(scenario["meet"], "here").touch()
        while not Path(scenario["meet"], "go").exists():
            time.sleep(0.01)


@dataclass
class Rank:
    """One process, and the file that it writes to."""

    process: multiprocessing.process.BaseProcess
    output: Path


def start(
    scenarios: list[dict[str, Any]], world_size: int = 1, nodes: int = 1, environment: dict[str, str] | None = None
) -> list[Rank]:
    """Start the ranks: forked from a server that has done the imports, which take longer than all else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "maws_composer.data.loader"])
    folder, port = Path(tempfile.mkdtemp()), free_port()
    ranks = []
    for rank in range(world_size):
        variables = {**rank_environment(rank, world_size, port, nodes), **(environment or {})}
        output = folder / str(rank)
        process = context.Process(target=_rank, args=(scenarios, variables, output))
        process.start()
        ranks.append(Rank(process, output))
    return ranks


def collect(ranks: list[Rank], timeout: float = 120) -> list[list[dict[str, Any]]]:
    """What each scenario gave, by rank: result[scenario][rank]. Whoever does not end in time is killed, and fails."""
    give_up = time.monotonic() + timeout
    processes = [rank.process for rank in ranks]
    try:
        while any(process.is_alive() for process in processes) and not any(process.exitcode for process in processes):
            if time.monotonic() > give_up:
                for process in processes:
                    os.kill(process.pid, signal.SIGABRT)  # says where it hangs
                    process.join()
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.join()
    texts = [rank.output.read_text() for rank in ranks]
    assert all(process.exitcode == 0 for process in processes), "\n\n".join(text[-6000:] for text in texts)
    return _results(texts)


def collect_and_kill(ranks: list[Rank], timeout: float = 120) -> list[list[dict[str, Any]]]:
    """As `collect`, of ranks that stay: once all of them have read, they are killed, whatever they are doing."""
    give_up = time.monotonic() + timeout
    try:
        while not all(rank.output.with_suffix(READ).exists() for rank in ranks):
            assert all(rank.process.is_alive() for rank in ranks) and time.monotonic() < give_up, "\n\n".join(
                rank.output.read_text()[-6000:] for rank in ranks
            )
            time.sleep(0.05)
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.join()
    return _results([rank.output.read_text() for rank in ranks])


def _results(texts: list[str]) -> list[list[dict[str, Any]]]:
    outputs = [json.loads(text.splitlines()[-1]) for text in texts]
    for output, text in zip(outputs, texts, strict=True):
        output[0]["log"] = text
    return [list(results) for results in zip(*outputs, strict=True)]


def run(
    scenarios: list[dict[str, Any]], world_size: int = 1, nodes: int = 1, **options: Any
) -> list[list[dict[str, Any]]]:
    return collect(start(scenarios, world_size, nodes, **options))


def _rank(scenarios: list[dict[str, Any]], variables: dict[str, str], output: Path) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    multiprocessing.set_start_method("fork", force=True)  # a run's default; in here it would be the server's
    os.environ.update(variables)
    logging.basicConfig(level=logging.WARNING, force=True)
    if int(variables["WORLD_SIZE"]) > 1:
        dist.init_process_group("gloo")
    results = [read(scenario) for scenario in scenarios]
    sys.stderr.flush()
    print("\n" + json.dumps(results), flush=True)
    if scenarios[-1].get("stays"):
        output.with_suffix(READ).touch()
        signal.pause()
    if dist.is_initialized():
        leave_process_group()
    threading._shutdown()  # as a Python of its own ends
    atexit._run_exitfuncs()  # multiprocessing leaves it out; streaming's shared memory is removed there
