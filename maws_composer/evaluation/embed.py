"""Image embeddings of a captioned dataset, computed once, as shards that LiT trains on in place of the images.

    maws-composer embed WEIGHTS DATA OUT
    composer -n 8 -m maws_composer.cli embed WEIGHTS DATA OUT       on several GPUs, or processes

In each round every process works off one part of the dataset by itself; then the first makes these parts count, as a
conversion does, so that the same command goes on after any interruption, with any number of processes. Each shard
becomes one shard: the order of training follows from their sizes, and so is that of training on the images. But a
sample that cannot be used is left out here, while training on the images replaces it by another: with any such sample
the shards have other sizes, and the order is another.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from composer.utils import dist as composer_dist
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Precision
from maws_composer.data import columns
from maws_composer.data.columns import CAPTION, DATASET_FILE, ID, IMAGE, IMAGE_EMBEDDING, DatasetFile, DatasetFileError
from maws_composer.data.guards import DataStream, ShardError
from maws_composer.data.index import Index, read_index
from maws_composer.data.loader import wanted_columns
from maws_composer.data.preflight import check_sources
from maws_composer.data.settings import EvalData
from maws_composer.data.sources import evaluation_shards
from maws_composer.data.transforms import ResizeAndCrop
from maws_composer.evaluation.encoder import encoder_at, load_encoder
from maws_composer.evaluation.extraction import encode
from maws_composer.evaluation.parts import Images, Part, PartReader, parts_of
from maws_composer.models.attention import set_attention_kernel
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.precision import build_device, capability, kernel_dtype, require_precision, torch_device
from maws_composer.weights.fingerprint import fingerprint
from streaming_conversion import VERSION
from streaming_conversion import resuming as conversion
from streaming_conversion.destination import INDEX, Destination, open_destination
from streaming_conversion.parts import PartResult, PartWriter, open_part
from streaming_conversion.problems import ConversionError
from streaming_conversion.processes import Progress

log = logging.getLogger(__name__)

PATIENCE = 24 * 3600.0  # seconds that processes wait for the one whose part takes longest

Results = dict[str, PartResult]
Embed = Callable[[UInt8[Tensor, "images 3 height width"]], NDArray[np.float16]]


@dataclass(frozen=True, kw_only=True)
class EmbedJob:
    """What is embedded, and how.

    Args:
        weights: of the encoder, see `encoder_at`.
        data: images with captions.
        out: a folder that all processes see, or an address in object storage.
        image_size: side of the square crop, in pixels. None: that of the weights.
        precision: of the encoder. Embeddings are kept in fp16, since MDS has no bf16.
        keep_images: write the images too.
        batch_size: images at once on one device.
        workers: processes per device that decode.
        part_size: images per part, at least: the unit of work and of resumption.
        max_bad: the largest share of samples that may be left out because they cannot be used.
        overwrite: begin anew in a folder that has been written to.
        scratch: local disk for shards on their way here, and for parts on their way to object storage.
    """

    weights: str
    data: EvalData
    out: str
    image_size: int | None = None
    precision: Precision = "fp32"
    keep_images: bool = False
    batch_size: int = 64
    workers: int = 8
    part_size: int = 10_000
    max_bad: float = 0.01
    overwrite: bool = False
    scratch: Path = Path("/tmp/maws_composer")


@dataclass(frozen=True)
class Plan:
    """What is to be done, the same on every rank.

    Args:
        index: of the source.
        dataset: `dataset.json`, but for what the end shows.
    """

    index: Index
    dataset: DatasetFile

    @property
    def samples(self) -> int:
        return int(self.index.sizes.sum())


def embed(job: EmbedJob) -> None:
    """Embed, or go on where an interrupted run stopped. In every process alike.

    Raises:
        ConfigError: weights or data cannot be read or used, or `out` holds something else or cannot be written.
    """
    began = time.monotonic()
    composer_dist.initialize_dist(build_device(job.precision), timeout=PATIENCE)
    require_precision(job.precision)
    plan = on_rank_zero(lambda: _plan(job))
    destination = open_destination(job.out, job.scratch)
    with ExitStack() as held:
        finished = on_rank_zero(lambda: _begin(held, destination, plan, job))
        if finished is None:
            log.info("%s was finished before", job.out)
            return
        results = _embed_parts(plan, finished, destination, job)
        counts = on_rank_zero(lambda: _conclude(plan, results, destination, job))
    written, seconds = counts["images"] - _images(finished), time.monotonic() - began
    left_out = ""
    if counts["skipped"]:
        left_out = f", {counts['skipped']:,} left out (see {conversion.SKIPPED}): the order is not that of the images"
    log.info("%s: %s embeddings%s; %s/s", job.out, f"{counts['images']:,}", left_out, f"{written / seconds:,.1f}")


def _plan(job: EmbedJob) -> Plan:
    trained = encoder_at(job.weights)
    size = job.image_size or trained.image_size
    problems = check_sources({"DATA": job.data}, (CAPTION,))
    try:
        trained.size.grid(size)
    except ValueError as error:
        problems.append(Problem("--image-size", str(error)))
    if problems:
        raise ConfigError(problems)
    shards = evaluation_shards(job.data, "DATA")[0]
    index = read_index(shards, job.data.download_timeout)
    images = {IMAGE: columns.ENCODINGS[IMAGE][0]} if job.keep_images else {}
    dataset = DatasetFile(
        reader="embed",
        converter_version=VERSION,
        columns={ID: "str", CAPTION: "str", IMAGE_EMBEDDING: f"ndarray:float16:{trained.size.width}", **images},
        source={"dataset": shards.address, "weights": trained.encoder.address},
        source_digest=index.digest,
        settings={
            "image_size": size,
            "resize": job.data.resize or size,
            "max_pixels": job.data.max_pixels,
            "source_columns": dict(job.data.columns),
            "precision": job.precision,
            "part_size": job.part_size,
        },
        counts={"source_images": int(index.sizes.sum())},
        encoder=fingerprint(trained.encoder.shapes, trained.encoder.read),
    )
    return Plan(index, dataset)


def _begin(held: ExitStack, destination: Destination, plan: Plan, job: EmbedJob) -> Results | None:
    """Take the destination for this process; the parts that are finished in it, or None if all is.

    Raises:
        ConfigError: it is in use, or holds anything else than these embeddings or their beginning.
    """
    try:
        held.enter_context(destination.lock())
        if not job.overwrite and destination.read(INDEX) is not None:
            there = DatasetFile.from_json(destination.read(DATASET_FILE) or b"")
            if changed := conversion.differences(there, plan.dataset):
                raise ConversionError(f"{job.out} holds something else; choose another, or --overwrite", changed)
            return None
        conversion.prepare(destination, plan.dataset, job.overwrite)
        return conversion.finished_parts([part.name for part in parts_of(plan.index, job.part_size)], destination)
    except (ConversionError, DatasetFileError) as error:
        raise ConfigError([Problem("OUT", str(error))]) from error


def _embed_parts(plan: Plan, finished: Results, destination: Destination, job: EmbedJob) -> Results:
    """Write the parts that are not finished; the results of all, on rank 0."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    todo = [part for part in parts_of(plan.index, job.part_size) if part.name not in finished]
    results = dict(finished)
    if not todo:
        return results
    embed_images = _encoder(plan, job)
    with _reading(todo[rank::world_size], plan, job) as reading, _progress(plan, finished) as show:
        for begin in range(0, len(todo), world_size):
            at_once = len(todo[begin : begin + world_size])
            outcome: Results | Exception = {}
            if rank < at_once:
                shown = partial(_shown, show=show, before=_samples(results), at_once=at_once)
                outcome = _attempt(partial(_write_next, reading, shown, embed_images, destination, plan))
            outcomes: list[Results | Exception] = [{}] * world_size
            dist.all_gather_object(outcomes, outcome)
            on_rank_zero(partial(_settle, outcomes, results, destination, plan, job))
    return results


def _encoder(plan: Plan, job: EmbedJob) -> Embed:
    """From images to the class token after the final norm, on this rank's device."""
    device = torch_device()
    encoder = load_encoder(plan.dataset.source["weights"], plan.dataset.settings["image_size"])
    set_attention_kernel(encoder, "auto", device.type, kernel_dtype(job.precision), capability())
    encoder.to(device)

    @torch.no_grad()
    def embed_images(pixels: Tensor) -> NDArray[np.float16]:
        with torch.autocast(device.type, torch.bfloat16, enabled=job.precision == "amp_bf16"):
            values = encode(encoder, "class_token", pixels.to(device, non_blocking=True))
        return values.half().cpu().numpy()

    return embed_images


@contextmanager
def _reading(parts: Sequence[Part], plan: Plan, job: EmbedJob) -> Iterator[Iterator[tuple[Part, Iterator[Images]]]]:
    """Batches of these parts, through a cache that is gone afterwards."""
    name = hashlib.blake2b(job.out.encode(), digest_size=8).hexdigest()
    cache = job.scratch / f"embed-{name}-rank{dist.get_rank()}"
    shutil.rmtree(cache, ignore_errors=True)  # what a killed run left
    source = replace(plan.index.source, local=None) if plan.index.source.is_cached else plan.index.source
    size, resize = plan.dataset.settings["image_size"], plan.dataset.settings["resize"]
    reader = PartReader(
        DataStream(source, cache, wanted_columns(job.data, (CAPTION,)), job.data),
        plan.index,
        ResizeAndCrop(size, resize),
        job.data.max_pixels,
        keep_images=job.keep_images,
        batch_size=job.batch_size,
        workers=job.workers,
    )
    try:
        yield reader.read(parts)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _write_next(
    reading: Iterator[tuple[Part, Iterator[Images]]],
    shown: Callable[[Iterable[Images]], Iterator[Images]],
    embed_images: Embed,
    destination: Destination,
    plan: Plan,
) -> Results:
    part, batches = next(reading)
    folder, remote = destination.part(part.name)
    with open_part(folder, remote, plan.dataset.columns, shard_bytes=None) as writer:
        images, skipped = _write(shown(batches), embed_images, writer)
    return {part.name: PartResult(writer.shards, skipped, images, without={})}


def _attempt(action: Callable[[], Results]) -> Results | Exception:
    """What it returns, or raises: an error is told to all processes, which would wait for this one."""
    try:
        return action()
    except (ConfigError, ConversionError, ShardError) as error:
        return error


def _write(batches: Iterable[Images], embed_images: Embed, writer: PartWriter) -> tuple[int, list[dict[str, str]]]:
    """A shard for each shard that is read; how many images were written, and what was left out.

    Raises:
        ConfigError: an embedding is not finite in fp16.
    """
    images, skipped = 0, []
    for _, of_shard in groupby(batches, key=lambda batch: batch.shard):
        for batch in of_shard:
            skipped += batch.unusable
            images += len(batch.samples)
            embeddings: Iterable[Any] = [] if batch.pixels is None else embed_images(batch.pixels)
            for sample, embedding in zip(batch.samples, embeddings, strict=True):
                if not np.isfinite(embedding).all():
                    message = f"the embedding of {sample[ID]} is not finite in fp16; are these weights sound?"
                    raise ConfigError([Problem("WEIGHTS", message)])
                writer.write({**sample, IMAGE_EMBEDDING: embedding})
        writer.end_shard()
    return images, skipped


def _settle(
    outcomes: Sequence[Results | Exception], results: Results, destination: Destination, plan: Plan, job: EmbedJob
) -> None:
    """Make the parts of a round count, and name what they left out.

    Raises:
        ConfigError: one of them failed, or more was left out than is allowed.
    """
    for outcome in outcomes:
        if isinstance(outcome, ConfigError):
            raise outcome
        if isinstance(outcome, Exception):
            raise ConfigError([Problem("DATA" if isinstance(outcome, ShardError) else "OUT", str(outcome))])
        for name, result in outcome.items():
            conversion.settle(name, result, destination)
            results[name] = result
            for record in result.skipped:
                log.warning("%s is left out: %s (%s)", record["id"], record["reason"], record["source"])
    bad = sum(len(result.skipped) for result in results.values())
    if bad > job.max_bad * plan.samples:
        conversion.write_skipped([*results.values()], destination)
        message = (
            f"{bad:,} of {plan.samples:,} samples cannot be used so far, more than --max-bad {job.max_bad:g}; all of "
            f"them are in {job.out}/{conversion.SKIPPED}; nothing was finished"
        )
        raise ConfigError([Problem("DATA", message)])


def _conclude(plan: Plan, results: Results, destination: Destination, job: EmbedJob) -> dict[str, int]:
    """Write what makes the parts a dataset; its counts."""
    in_order = {part.name: results[part.name] for part in parts_of(plan.index, job.part_size)}
    shards = conversion.shards_of(in_order)
    counts = plan.dataset.counts | {
        "images": _images(in_order),
        "skipped": _samples(in_order) - _images(in_order),
        "shards": len(shards),
        "bytes": sum(shard["raw_data"]["bytes"] for shard in shards),
    }
    conversion.write_skipped([*in_order.values()], destination)
    conversion.write_index(replace(plan.dataset, counts=counts), shards, destination)
    return counts


@contextmanager
def _progress(plan: Plan, finished: Results) -> Iterator[Callable[[int], None]]:
    """A bar of all samples, on rank 0; nothing elsewhere."""
    if dist.get_rank() != 0:
        yield lambda done: None
        return
    before = _samples(finished)
    with Progress(plan.samples, before) as bar:
        yield lambda done: bar.show(done - before)


def _shown(batches: Iterable[Images], show: Callable[[int], None], before: int, at_once: int) -> Iterator[Images]:
    """The batches; the other processes are taken to be as far with their parts as this one."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.samples) + len(batch.unusable)
        show(before + done * at_once)


def _images(results: Results) -> int:
    return sum(result.images for result in results.values())


def _samples(results: Results) -> int:
    return _images(results) + sum(len(result.skipped) for result in results.values())
