"""Seconds to save and to restore a checkpoint, by size and number of ranks, against torch.save of the same tensors.

    python -m benchmarks.checkpoints [--sizes vit_micro vit_b16] [--ranks 1 2] [--rounds 2] [--folder /tmp]

Method: ranks build an MAE and its two moments, sharded as in training. In turn, all ranks together write a checkpoint
as a run does (copy to host memory, which is all that training waits for; then writing, checksums, marker), and restore
it as a run does (checksums of all bytes, then the restricted reader); and the first rank alone writes the same tensors,
whole, by torch.save, and reads them by torch.load. The clock is the wall's, since disks are what is measured; medians.
Files are read back from the kernel's cache. vit_l16 needs 4 GB of disk and 20 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from benchmarks.ranks import run_ranks

PARTS = ("wait", "save", "restore", "torch.save", "torch.load")


def measure(size: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Of this rank: bytes of the state, and medians of seconds."""
    from torch.distributed.checkpoint import FileSystemWriter

    from maws_composer.checkpoints.checksums import find_damage_together
    from maws_composer.checkpoints.completeness import Checkpoint, read_checkpoint
    from maws_composer.checkpoints.safe_reading import SafePlanner, SafeReader
    from maws_composer.checkpoints.writing import CheckpointWriter, Draft
    from maws_composer.parallel.agree import cpu_group

    state = build_state(size)
    whole = {f"{part}.{name}": _on_first_rank(each) for part, some in state.items() for name, each in some.items()}
    writer, times = CheckpointWriter(True, [], cpu_group(600)), {part: list[float]() for part in PARTS}

    def clocked(part: str, work: Callable[..., Any], *given: Any) -> Any:
        dist.barrier()
        began = time.perf_counter()
        done = work(*given)
        dist.barrier()
        times[part].append(time.perf_counter() - began)
        return done

    def restore(place: Path) -> None:
        checkpoint = read_checkpoint(place)
        assert isinstance(checkpoint, Checkpoint), checkpoint
        assert not find_damage_together(place, checkpoint, True)
        dcp.load({"state": state}, storage_reader=SafeReader(place), planner=SafePlanner())

    def alone(work: Callable[..., Any], *given: Any) -> None:
        if dist.get_rank() == 0:
            work(*given)

    for number in range(rounds):
        place, file = folder / f"ep0-ba{number}", folder / "whole.pt"
        draft = Draft(place, number, number, {"state": state}, FileSystemWriter(place))
        writer.prepare(draft)
        copied = clocked("wait", draft.copied_to_host)
        clocked("save", writer.write, copied)
        clocked("restore", restore, place)
        clocked("torch.save", alone, _save, whole, file)
        clocked("torch.load", alone, partial(torch.load, weights_only=True), file)
        alone(shutil.rmtree, place)
        alone(file.unlink)
    count = sum(each.nbytes for some in state.values() for each in some.values())
    return {"bytes": count, **{part: statistics.median(values) for part, values in times.items()}}


def _on_first_rank(tensor: Any) -> torch.Tensor | None:
    whole: torch.Tensor = tensor.full_tensor()
    return whole if dist.get_rank() == 0 else None


def _save(whole: dict[str, Any], file: Path) -> None:
    """On the disk, as torch's writer of checkpoints sees to it."""
    with file.open("wb") as stream:
        torch.save(whole, stream)
        os.fsync(stream.fileno())


def build_state(size: str) -> dict[str, dict[str, Any]]:
    """Weights and moments, as DTensors."""
    from torch.nn import ModuleList

    from maws_composer.models.mae import MaskedAutoencoder
    from maws_composer.models.sizes import SIZES
    from maws_composer.models.vit import VisionTransformer
    from maws_composer.parallel.settings import Speed
    from maws_composer.parallel.shard import shard

    class Stage(ModuleList):
        def blocks(self) -> list[Any]:
            model: Any = self[0]
            return [*model.encoder.blocks, *model.decoder_blocks]

        def initialize_parameter(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
            tensor.zero_()  # how they begin is not what is measured

    with torch.device("meta"):
        image_size = 48 if size == "vit_micro" else 224
        stage = Stage([MaskedAutoencoder(VisionTransformer(SIZES[size], image_size, fixed_positions=True))])
    shard(stage, Speed(), "fp32", 0, torch.device("cpu"))
    moments = {
        f"{name}.{moment}": torch.zeros_like(each)
        for name, each in stage.named_parameters()
        if each.requires_grad
        for moment in ("exp_avg", "exp_avg_sq")
    }
    return {"model": {name: each.detach() for name, each in stage.named_parameters()}, "moments": moments}


def be_a_rank(options: argparse.Namespace) -> None:
    from maws_composer.parallel.leave import leave_process_group

    dist.init_process_group("gloo")
    figures = measure(options.sizes[0], options.rounds, options.folder)
    print(json.dumps(figures), flush=True)
    leave_process_group()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["vit_micro", "vit_b16"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank:
        be_a_rank(options)
        return
    print(f"{'':<12}{'ranks':>6}{'GB':>8}{''.join(f'{part:>12}' for part in PARTS)}{'save':>8}{'restore':>9}")
    for size in options.sizes:
        for ranks in options.ranks:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                given = ["--sizes", size, "--rounds", f"{options.rounds}", "--folder", folder]
                took = run_ranks("benchmarks.checkpoints", given, ranks)
            save = took["torch.save"] / (took["wait"] + took["save"])
            restore = took["torch.load"] / took["restore"]
            seconds = "".join(f"{took[part]:>10.2f} s" for part in PARTS)
            print(
                f"{size:<12}{ranks:>6}{took['bytes'] / 1e9:>8.3f}{seconds}{save:>6.2f} x{restore:>7.2f} x", flush=True
            )


if __name__ == "__main__":
    main()
