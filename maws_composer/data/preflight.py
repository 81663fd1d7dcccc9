"""What can be known about the data before anything is spent on a run."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from streaming.base.util import bytes_to_int
from streaming.base.world import World

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.class_preflight import class_problems
from maws_composer.data.columns import CAPTION, DATASET_FILE, IMAGE_EMBEDDING, LABELS
from maws_composer.data.device_decoding import device_problems
from maws_composer.data.enlargement import enlargement_note
from maws_composer.data.guards import DataStream, ShardError, cache_problems, needed_cache, readable_size
from maws_composer.data.index import (
    Index,
    column_problems,
    hash_problems,
    read_file,
    read_index,
    with_groups,
)
from maws_composer.data.label_preflight import label_problems
from maws_composer.data.loader import dataset_folder, is_resampled, random_crop, train_order, wanted_columns
from maws_composer.data.loader_processes import loader_processes
from maws_composer.data.order import TrainOrder
from maws_composer.data.own import OwnDataset
from maws_composer.data.own_preflight import look_at_own
from maws_composer.data.own_samples import own_train_order
from maws_composer.data.own_text import text_problems
from maws_composer.data.resampling import describe
from maws_composer.data.settings import EvalData, HeldOutData, Source, TrainData
from maws_composer.data.sources import Shards, evaluation_shards, training_shards
from maws_composer.data.usable import UnusableSampleError, usable
from maws_composer.disks import check_writable, nearest_existing
from maws_composer.outages import OutageError, is_mistake

if TYPE_CHECKING:
    from maws_composer.config.run import Run

log = logging.getLogger(__name__)

_NOT_REPEATED = {
    IMAGE_EMBEDDING: "embeddings cannot be cropped",
    CAPTION: "crops of one image would count as wrong for one another's captions, which are the same",
}
_TRIED_SAMPLES = 16


@dataclass(frozen=True)
class EpochReport:
    """What an epoch of the training data is.

    Args:
        samples: draws, with repeats.
        samples_per_epoch: those that an epoch uses.
        unit: of which an epoch is a multiple.
        source: in words, where they are.
        resampling: in words, if images are repeated unequally.
    """

    samples: int
    samples_per_epoch: int
    unit: int
    source: str
    resampling: str = ""

    @property
    def left_out(self) -> int:
        """Samples that an epoch does not use; others in each epoch."""
        return self.samples - self.samples_per_epoch

    def __str__(self) -> str:
        share = self.left_out / self.samples
        return (
            f"an epoch is {self.samples_per_epoch:,} samples from {self.source}; "
            f"{self.left_out:,} ({share:.2%}) are left out of it, others in each{self.resampling}"
        )


def check_data(run: Run, world_size: int, nodes: int, columns: Sequence[str] = ()) -> list[Problem]:
    """Look for every foreseeable problem of the run's data, in one process of a node.

    `columns` are those that the stage reads besides id, and image or image_embedding.

    Whether the batch and the canonical nodes can be split over the world is `check_world_size`'s question.

    Raises:
        OutageError: object storage is away, so that nothing can be known.
    """
    ranks_of_node = world_size // nodes
    processes = max(loader_processes(run.speed, ranks_of_node), 1) * ranks_of_node
    train, evaluation = run.data.train, run.data.eval
    indexes, problems = _read(training_shards(train), train, columns)
    if train.dataset is not None:
        problems = _own_training_problems(run, columns)
    elif not problems:
        problems = _training_problems(run, indexes, nodes, processes, columns)
    if evaluation is not None:
        problems += _evaluation_problems(evaluation, run, processes, columns)
    if LABELS in columns:
        sources = [*training_shards(train), *(evaluation_shards(evaluation) if evaluation is not None else [])]
        by_frequency = run.model.get("frequency_thirds", False)
        problems += class_problems(run.model["num_classes"], sources, train.download_timeout, by_frequency)
        problems = problems or _label_problems(train, evaluation, run.model["num_classes"])
    if CAPTION in columns:
        problems += text_problems(run.model["text"])
    return problems if IMAGE_EMBEDDING in columns else [*problems, *device_problems(train)]


def _training_problems(
    run: Run, indexes: Sequence[Index], nodes: int, processes: int, columns: Sequence[str]
) -> list[Problem]:
    train = run.data.train
    try:
        order = train_order(train, run.seed, run.images_per_batch, indexes)
    except ConfigError as error:
        return list(error.problems)
    block = train.shuffle_block_size if train.shuffle else 1
    canonical_nodes = max(train.num_canonical_nodes // nodes, 1)
    problems = _left_out_problems(report_epoch(order, indexes, train), run)
    problems += cache_problems(train.cache_limit, indexes, block, canonical_nodes, processes)
    problems += _disk_problems("train", indexes, train, run, needed_cache(indexes, block, canonical_nodes, processes))
    problems += _sample_problems(indexes[0], train, columns)
    problems += repetition_problems(train.repeated_augmentation, columns)
    if IMAGE_EMBEDDING not in columns and not train.central_crop and train.transform is None:
        _note_enlargement(run, indexes)
    return problems


def repetition_problems(crops: int, columns: Sequence[str]) -> list[Problem]:
    """Whether several crops of an image make sense for what a stage reads."""
    return [
        Problem("data.train.repeated_augmentation", f"{why}; set it to 1")
        for column, why in _NOT_REPEATED.items()
        if column in columns and crops > 1
    ]


def _own_training_problems(run: Run, columns: Sequence[str]) -> list[Problem]:
    train = run.data.train
    own, problems = look_at_own(train, "data.train", run, columns)
    if own is None:
        return problems
    epoch = report_own_epoch(own_train_order(train, run.seed, run.global_train_batch_size, own.size), own)
    return [*_left_out_problems(epoch, run), *problems]


def _note_enlargement(run: Run, indexes: Sequence[Index]) -> None:
    notes = (enlargement_note(index, random_crop(run), run.data.train.download_timeout) for index in indexes)
    for note in filter(None, notes):
        log.info("%s", note)


def report_epoch(order: TrainOrder, indexes: Sequence[Index], data: TrainData) -> EpochReport:
    """What an epoch in this order is; `indexes` are those of its streams."""
    resampling = "" if data.resampling is None else f"; {describe(data.resampling, indexes)}"
    shards, size = sum(len(index.shards) for index in indexes), sum(index.bytes for index in indexes)
    source, crops = f"{shards:,} shard{'s' * (shards != 1)} ({size / 1e9:,.1f} GB)", order.crops
    return EpochReport(order.draws * crops, order.size * crops, order.unit * crops, source, resampling)


def report_own_epoch(order: TrainOrder, own: OwnDataset) -> EpochReport:
    """The same of a user's dataset."""
    return EpochReport(order.draws, order.size, order.unit, f"the dataset {own.name}")


def check_sources(
    sources: Mapping[str, EvalData], columns: Sequence[str], optional: Collection[str] = ()
) -> list[Problem]:
    """Look for problems of data that an evaluation reads, in one process of a node.

    Args:
        sources: by the key of their section, such as "data.test".
        columns: that they need beside id, and image or image_embedding.
        optional: those that a sample may be without; see `usable`.
    """
    problems: list[Problem] = []
    for key, data in sources.items():
        indexes, wrong = _read(evaluation_shards(data, key), data, columns)
        problems += wrong or _sample_problems(indexes[0], data, columns, optional)
    return problems


def _evaluation_problems(data: HeldOutData, run: Run, processes: int, columns: Sequence[str]) -> list[Problem]:
    indexes, problems = _read(evaluation_shards(data), data, columns)
    size = run.model["image_size"]
    if data.resize is not None and data.resize < size:
        problems.append(Problem("data.eval.resize", f"{data.resize} is less than the model's image_size, {size}"))
    if data.dataset is not None:
        problems += look_at_own(data, "data.eval", run, columns)[1]
    if indexes and not problems:
        problems += cache_problems(data.cache_limit, indexes, 1, 1, processes)
        problems += _disk_problems("eval", indexes, data, run, needed_cache(indexes, 1, 1, processes))
        problems += _sample_problems(indexes[0], data, columns)
    return problems


def _read(shards: Sequence[Shards], data: Source, columns: Sequence[str]) -> tuple[list[Index], list[Problem]]:
    """The index of each stream, as far as they can be read, and what is wrong with them."""
    indexes: list[Index] = []
    problems: list[Problem] = []
    for source in shards:
        try:
            index = read_index(source, data.download_timeout)
            if is_resampled(data):
                index = with_groups(index, read_file(source, DATASET_FILE, data.download_timeout))
        except OutageError:
            raise
        except ConfigError as error:
            problems += error.problems
        else:
            indexes.append(index)
            problems += column_problems(index, wanted_columns(data, columns)) + hash_problems(index, data.validate_hash)
    return indexes, problems


def _label_problems(train: TrainData, evaluation: HeldOutData | None, num_classes: int) -> list[Problem]:
    problems = label_problems(training_shards(train), train, num_classes)
    if evaluation is not None:
        problems += label_problems(evaluation_shards(evaluation), evaluation, num_classes)
    return problems


def _left_out_problems(epoch: EpochReport, run: Run) -> list[Problem]:
    multiple = (
        f"an epoch is a multiple of {epoch.unit:,}, thus of global_train_batch_size ({run.global_train_batch_size:,}) "
        f"and num_canonical_nodes ({run.data.train.num_canonical_nodes:,}); lower one of them"
    )
    if epoch.samples_per_epoch == 0:
        return [Problem("data.train", f"{epoch.samples:,} samples are too few: {multiple}")]
    share, allowed = epoch.left_out / epoch.samples, run.data.train.max_left_out_share
    if share <= allowed:
        return []
    message = (
        f"{allowed:g} is passed: {epoch.left_out:,} of {epoch.samples:,} samples ({share:.1%}) would be left out of "
        f"each epoch; {multiple}"
    )
    return [Problem("data.train.max_left_out_share", message)]


def _disk_problems(name: str, indexes: Sequence[Index], data: Source, run: Run, needed: int) -> list[Problem]:
    """Whether the disks hold the caches, beside what they hold already."""
    shards = [index.source for index in indexes]
    folder = dataset_folder(run, name, shards, World.detect().node)
    wanted: dict[Path, int] = defaultdict(int)
    for index in indexes:
        if index.source.is_cached:
            cache = Path(index.source.local or folder / "cache" / index.source.name)
            key = f"{index.source.key}.local" if index.source.local else "speed.scratch_folder"
            if unusable := check_writable(key, cache):
                return unusable
            wanted[nearest_existing(cache)] += index.bytes - _taken(cache)
    problems = []
    for place, size in wanted.items():
        limit = bytes_to_int(data.cache_limit) if data.cache_limit else size
        free = shutil.disk_usage(place).free
        if min(size, limit) > free:
            message = (
                f"the shards take {readable_size(min(size, limit))}, {place} has {readable_size(free)} free; "
                f"{readable_size(min(needed, size))} is the least that works"
            )
            problems.append(Problem(f"{shards[0].section}.cache_limit", message))
    return problems


def _taken(folder: Path) -> int:
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


def _sample_problems(
    index: Index, data: Source, columns: Sequence[str], optional: Collection[str] = ()
) -> list[Problem]:
    """Whether the first samples of the smallest shard can be used; one that can will do."""
    source = index.source
    shard = index.shards[index.smallest]
    with tempfile.TemporaryDirectory() as folder:
        # Always in a cache of its own, which is empty again afterwards: two runs may check at one time.
        place = replace(source, local=None) if source.is_cached else source
        stream = DataStream(place, Path(folder), wanted_columns(data, columns), data)
        reader = stream.reader(shard)
        try:
            stream.prepare_shard(reader)
            samples = [reader.get_item(i) for i in range(min(_TRIED_SAMPLES, shard["samples"]))]
        except (ShardError, ValueError, IndexError, OSError) as error:
            problem = Problem(source.where, str(error))
            if source.is_cached and not is_mistake(error):
                raise OutageError([problem]) from error
            return [problem]
    errors = []
    for sample in samples:
        try:
            usable(sample, data.max_pixels, optional)
        except UnusableSampleError as error:
            errors.append(error)
        else:
            return []
    path = source.path(shard["raw_data"]["basename"])
    message = f"none of the first {len(samples)} samples of {path} can be used: {errors[0]}"
    return [Problem(f"{source.section}.columns.{errors[0].column}", message)]
