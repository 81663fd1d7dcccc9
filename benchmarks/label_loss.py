"""Head and loss of a WSP step at many classes: labels as indices, as we have them, against a dense target.

    python -m benchmarks.label_loss [--batch 256] [--classes 28_000] [--width 768] [--labels 8] [--threads 1]

Method: features of a batch -> linear head -> mean loss -> backward to features and head, in fp32, on the GPU if there
is one; and the loss alone, forward and backward from given logits. Ours is `soft_label_cross_entropy`; the dense form
fills a target of all classes with 1/k, as it has to be done for a batch that comes with indices, and gives it to
`torch.nn.functional.cross_entropy`. Images have one to `labels` labels each. Every measurement is a process of its own,
ours and dense in turn, five times; medians are compared. Memory is the peak above what was held before the first step
(weights and features, or logits): resident memory as the system counts it, on a GPU what torch counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from maws_composer.models.classifier import soft_label_cross_entropy


def ours(logits: Tensor, labels: Tensor) -> Tensor:
    return soft_label_cross_entropy(logits, labels).mean()


def dense(logits: Tensor, labels: Tensor) -> Tensor:
    """1/k for each of an image's k labels in a target of all classes."""
    is_label = (labels >= 0).float()
    target = torch.zeros_like(logits, dtype=torch.float32)
    target.scatter_add_(1, labels.clamp(min=0), is_label / is_label.sum(1, keepdim=True))
    return nn.functional.cross_entropy(logits.float(), target)


Form = Callable[[Tensor, Tensor], Tensor]
FORMS: dict[str, Form] = {"ours": ours, "dense": dense}


def measure(part: str, form: str, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of a step and megabytes, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.label_loss", "--only", part, form]
    for key in ("batch", "classes", "width", "labels", "threads", "steps"):
        command += [f"--{key}", str(getattr(options, key))]
    return tuple(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def run_once(part: str, form: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    PARTS[part](FORMS[form], 2, 1000, options, device)()  # torch's first calls
    step = PARTS[part](FORMS[form], options.batch, options.classes, options, device)
    before = _peak(device)
    step()
    megabytes = _peak(device) - before
    print(json.dumps([_median_seconds(step, options.steps, device), megabytes]))


def head_and_loss(
    form: Form, batch: int, classes: int, options: argparse.Namespace, device: torch.device
) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(options.width, classes).to(device)
    features = torch.randn(batch, options.width, generator=generator).to(device).requires_grad_()
    labels = _labels(batch, classes, options.labels, generator).to(device)

    def step() -> None:
        head.zero_grad()
        features.grad = None
        form(head(features), labels).backward()

    return step


def loss_alone(
    form: Form, batch: int, classes: int, options: argparse.Namespace, device: torch.device
) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, generator=generator).to(device).requires_grad_()
    labels = _labels(batch, classes, options.labels, generator).to(device)

    def step() -> None:
        logits.grad = None
        form(logits, labels).backward()

    return step


PARTS = {"head_and_loss": head_and_loss, "loss_alone": loss_alone}


def _labels(batch: int, classes: int, most: int, generator: torch.Generator) -> Tensor:
    """One to `most` different classes per image, filled up with -1. int64 (batch, most)"""
    first = torch.randint(classes, (batch, 1), generator=generator)
    drawn = (first + torch.arange(most) * (classes // most)) % classes
    count = torch.randint(1, most + 1, (batch, 1), generator=generator)
    return drawn.where(torch.arange(most) < count, -1)


def _median_seconds(work: Callable[[], Any], times: int, device: torch.device) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _peak(device: torch.device) -> float:
    """Megabytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256, help="images; 8,192 of the paper are 256 on each of 32 GPUs")
    parser.add_argument("--classes", type=int, default=28_000)
    parser.add_argument("--width", type=int, default=768, help="of the features")
    parser.add_argument("--labels", type=int, default=8, help="most per image")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7, help="per process")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        part, form = options.only
        run_once(part, form, options)
        return
    print(f"batch {options.batch:,}, {options.classes:,} classes, width {options.width:,}, threads {options.threads}")
    for part in PARTS:
        rounds = [{form: measure(part, form, options) for form in FORMS} for _ in range(5)]
        for form in FORMS:
            seconds, megabytes = (statistics.median(each[form][i] for each in rounds) for i in (0, 1))
            print(f"{part:<13}  {form:<5} {seconds * 1e3:9.1f} ms {megabytes:9.1f} MB")
        for i, figure in enumerate(("time", "memory")):
            ratios = [each["dense"][i] / each["ours"][i] for each in rounds]
            print(
                f"{part:<13}  dense / ours, {figure}: {statistics.median(ratios):.2f} "
                f"(rounds {min(ratios):.2f} to {max(ratios):.2f})"
            )


if __name__ == "__main__":
    main()
