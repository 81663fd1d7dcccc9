"""Streaming's dataset, in our order, with the position of each sample, and with faults that are errors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import streaming.base.dataset as streaming_dataset
from filelock import FileLock
from numpy.typing import NDArray
from streaming import StreamingDataset
from streaming.base.constant import EPOCH_DATA, TICK
from streaming.base.dataset import _Iterator, _ShardState
from streaming.base.shared import _get_path

from maws_composer.config.problems import ConfigError
from maws_composer.data.columns import ID, IMAGE, LABELS
from maws_composer.data.decode import UndecodableImageError, decode
from maws_composer.data.fingerprint import changes, fingerprint
from maws_composer.data.guards import (
    DataStream,
    ShardError,
    ShardStates,
    cache_problems,
    on_leaders,
    split_problem,
)
from maws_composer.data.index import Index
from maws_composer.data.order import Order, Seat, TrainOrder
from maws_composer.data.read_ahead import Reached, read_ahead
from maws_composer.data.scratch import claim, own_prefix, replaced
from maws_composer.data.settings import Source, TrainData
from maws_composer.data.shard_readers import BisectingIndex, Readers
from maws_composer.data.shared_plan import PlannedSamples, share_plan
from maws_composer.data.transforms import Transform
from maws_composer.data.usable import Sample, UnusableSampleError, undecodable, usable
from maws_composer.data.waiting import Patience

if TYPE_CHECKING:
    from maws_composer.data.encoded import CropLater

log = logging.getLogger(__name__)

MakeOrder = Callable[[Sequence[Index]], Order]


class SampleDataset(StreamingDataset):
    """Samples of one dataset, images decoded and transformed, each with its position in the epoch's global order.

    Args:
        streams: the sets of shards.
        make_order: the order, from the indexes of the streams.
        transform: from a decoded image, epoch and position to uint8 (3, height, width).
        batch_size: images of a batch on one rank.
        global_batch_size: images of a batch over all ranks.
        canonical_nodes: node counts must divide it.
        settings: what is tolerated, and the cache's size.
        folder: of this dataset, this run and this node alone.
        workers: loader processes per rank.
        patience: seconds without a batch after which reading ends with an error; 0: no limit.
        predownload: samples whose shards each of them fetches ahead. None: eight batches.
        num_classes: one more than the largest class index that may come; None: any may come.
        optional: columns that a sample may be without; see `usable`.
        decode: from an image's file and the limit of pixels to what `transform` takes.

    Yields:
        Of each image its crops, mostly one, in a tuple, and each of them is
        {"id": str, "position": int, "epoch": int, "replaced": bool, "valid": bool} and the columns that the streams
        were told to read: `image` as uint8 (3, height, width), `labels` as int64 (labels,), `caption` as str,
        `image_embedding` as float32 (width,).

    Raises:
        ConfigError: at construction, on every rank alike.
        ShardError: while iterating; a shard cannot be had.
    """

    def __init__(
        self,
        streams: Sequence[DataStream],
        make_order: MakeOrder,
        transform: Transform | CropLater,
        *,
        batch_size: int,
        global_batch_size: int,
        canonical_nodes: int,
        settings: Source,
        folder: Path,
        workers: int,
        patience: float,
        predownload: int | None = None,
        num_classes: int | None = None,
        optional: Collection[str] = (),
        decode: Callable[[bytes, int], Any] = decode,
    ) -> None:
        world = streaming_dataset.World.detect()
        if problem := split_problem(global_batch_size, canonical_nodes, world.num_ranks, world.num_nodes):
            raise ValueError(problem)
        on_leaders(lambda: _claim(folder, streams), world)
        names = {
            "Spanner": BisectingIndex,
            "get_shm_prefix": own_prefix(folder),
            "gettempdir": lambda: str(folder),  # for lock files, which pile up otherwise
        }
        with replaced(streaming_dataset, **names):
            super().__init__(
                streams=streams,
                batch_size=batch_size,
                num_canonical_nodes=canonical_nodes,
                shuffle_block_size=1,  # the order is ours
                predownload=8 * batch_size if predownload is None else predownload,
                cache_limit=settings.cache_limit,
            )
        self.shards = Readers(streams)
        self.folder = folder
        self._require_cache(settings, canonical_nodes // world.num_nodes, max(workers, 1) * world.ranks_per_node)
        self.settings = settings
        self.patience = patience
        self.transform = transform
        self.decode = decode
        self.num_classes = num_classes
        self.optional = optional
        self.order = make_order([stream.index for stream in streams])
        self.epoch_size = self.order.size
        self.length = self.order.size // world.num_ranks
        reasons = str(folder / _get_path(self._shm_prefix_int, "failed_shard"))
        self._shard_states: ShardStates = ShardStates(self._shard_states, reasons)
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[tuple[Sample, ...]]:
        if not hasattr(self, "_event"):
            self._event = threading.Event()
            # A thread may wait for a shard of an unfinished epoch that nobody fetches any more, and Python for it.
            threading._register_atexit(self._event.set)  # type: ignore[attr-defined]
        for stream in self.streams:
            stream.stop = self._event
        patience = Patience(self.patience, self.batch_size, self._awaited, self._fail)
        count = 0
        try:
            for count, raw in enumerate(patience.each(super().__iter__()), 1):
                yield self._sample(count - 1, raw)
        except RuntimeError as error:
            raise self._failure or error from None
        if self._failure is not None:
            raise self._failure
        if count != self._count:
            raise ShardError(f"the epoch ended after {count} of {self._count} samples of this worker")

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Have a shard here. For one that is here already, without streaming's lock, which the whole node shares.

        With a limit of the cache the lock is needed: another process may be about to evict the shard.
        """
        state = self._shard_states[shard_id]
        if not blocking and not self.cache_limit and state == _ShardState.LOCAL:
            return
        try:
            super().prepare_shard(shard_id, blocking)
        except BaseException as error:
            self._shard_states.fail(shard_id, error)
            self._cache_filelock.release(force=True)
            raise

    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        """The wanted columns of a sample.

        Raises:
            ShardError: the shard cannot be had, or what it holds there is no sample.
        """
        try:
            return super().get_item(sample_id, retry)
        except (IndexError, ValueError, KeyError) as error:
            raise ShardError(f"{self._place(sample_id)} is damaged: {error}") from error

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        """Where the epoch stands, and what determines its order."""
        state = super().state_dict(num_samples // self.order.crops, from_beginning)
        return {**state, "order": fingerprint(self.order, self.streams)}

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Go on where `state_dict` stood.

        Raises:
            ConfigError: the order would be another one; names what changed.
        """
        state = dict(obj)
        problems = changes(state.pop("order", {}), fingerprint(self.order, self.streams))
        if problems:
            raise ConfigError(problems)
        super().load_state_dict(state)
        self.next_epoch = state["epoch"]  # streaming takes a state of an earlier epoch than the next for an old one

    def on_exception(self, future: Future) -> None:
        """Keep what ended a background thread; the iteration raises it."""
        if error := future.exception():
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._event.set()

    def _each_sample_id(self, it: _Iterator) -> Iterator[int]:
        """As streaming's, which would now wait for the background threads: one may be in a download that hangs."""
        yield from super()._each_sample_id(it)
        if self._failure is not None:
            raise self._failure

    def _prepare_thread(self, it: _Iterator) -> None:
        self._read_ahead(it, "prepare_index", lambda shard: self.prepare_shard(shard, blocking=False))

    def _ready_thread(self, it: _Iterator) -> None:
        self._read_ahead(it, "ready_index", self._wait_for)

    def _read_ahead(self, it: _Iterator, index: Reached, have: Callable[[int], None]) -> None:
        # A shard of a full cache may be evicted while others, of samples behind it, are fetched: then step by step.
        at_once = 16 if self.cache_limit else it.total
        try:
            read_ahead(it, index, self.predownload, at_once, self.spanner, self._event.is_set, have)
        finally:
            it.on_exit()  # else the iteration would wait for it

    def _wait_for(self, shard: int) -> None:
        while (state := self._shard_states[shard]) != _ShardState.LOCAL and not self._event.is_set():
            if state == _ShardState.REMOTE:  # evicted since it was prepared, or while it is waited for
                self.prepare_shard(shard, blocking=False)
            else:
                sleep(TICK)

    def _get_work(self, epoch: int, sample_in_epoch: int) -> Sequence[int]:
        """This worker's samples. Each node's leader plans for its node, from where the epoch begins or goes on."""
        if not hasattr(self._shared_barrier, "lock"):
            self._shared_barrier.lock = FileLock(self._shared_barrier.filelock_path)
        world = self._parallel_worker_world
        seat = Seat(
            world.node, world.num_nodes, world.rank_of_node, world.ranks_per_node,
            world.worker_of_rank, world.workers_per_rank, self.batch_size,
        )  # fmt: skip
        size = self.order.node_samples(sample_in_epoch, world.num_nodes)
        self._seat, self._start, self._count = seat, sample_in_epoch, seat.count(size)
        self._epoch = epoch if isinstance(self.order, TrainOrder) else 0
        if not size:  # resumed at the end of an epoch
            return ()
        if hasattr(self, "_iterator"):
            self._iterator.sample_ids = ()  # of the epoch before: not two plans at one time
        plan = share_plan(
            self.folder / _get_path(self._shm_prefix_int, EPOCH_DATA),
            size,
            lambda plan: self.order.fill_node_plan(plan, epoch, sample_in_epoch, world.node, world.num_nodes),
            self._unique_worker_world.is_local_leader,
            lambda: self._shared_barrier(self._unique_worker_world.workers_per_node),
        )
        return PlannedSamples(plan, seat)

    def _sample(self, index: int, raw: Sample) -> tuple[Sample, ...]:
        world = self._parallel_worker_world
        of_image = self.order.positions(self._seat.row(index), self._start, world.node, world.num_nodes)
        positions = self.order.crop_positions(of_image)
        sample_id = int(self._iterator.sample_ids[index])
        samples, replaced_by = self._usable(sample_id, raw, positions)
        valid = bool(self.order.valid(of_image))
        for sample, position in zip(samples, positions, strict=True):
            if LABELS in sample:
                sample[LABELS] = self._labels(sample, sample_id if replaced_by is None else replaced_by)
            sample |= {
                ID: str(sample[ID]),
                "position": position,
                "epoch": self._epoch,
                "replaced": replaced_by is not None,
                "valid": valid,
            }
        return samples

    def _labels(self, sample: Sample, sample_id: int) -> NDArray[np.int64]:
        """The class indices of a sample.

        Raises:
            ShardError: one of them is no class.
        """
        try:
            return class_indices(sample[LABELS], self.num_classes)
        except ValueError as error:
            raise ShardError(f"{sample[ID]} ({self._place(sample_id)}) {error}") from error

    def _usable(self, sample_id: int, raw: Sample, positions: Sequence[int]) -> tuple[tuple[Sample, ...], int | None]:
        """Crops of the sample, or of the next of its shard that can be used; and its id if it is another."""
        try:
            return self._transformed(raw, positions), None
        except UnusableSampleError as error:
            first_reason = str(error)
        shard, index = self.spanner[sample_id]
        size = len(self.shards[shard])
        for step in range(1, size):
            other = sample_id - index + (index + step) % size
            try:
                samples = self._transformed(self[other], positions)
            except UnusableSampleError:
                continue
            log.warning(
                "sample %s cannot be used: %s (%s); %s takes its place",
                raw[ID], first_reason, self._place(sample_id), samples[0][ID],
            )  # fmt: skip
            return samples, other
        raise ShardError(f"no sample of {self._address(shard)} can be used; {raw[ID]}: {first_reason}")

    def _transformed(self, raw: Sample, positions: Sequence[int]) -> tuple[Sample, ...]:
        """The sample once for each position, with a crop of its own. Raises UnusableSampleError."""
        sample = usable(raw, self.settings.max_pixels, self.optional, self.decode)
        if IMAGE not in sample:
            return tuple({**sample} for _ in positions)
        image = sample[IMAGE]
        try:
            crops = [self.transform(image, self._epoch, position) for position in positions]
        except UndecodableImageError as error:  # of what is decoded only now
            raise undecodable(error) from error
        return tuple({**sample, IMAGE: crop} for crop in crops)

    def _place(self, sample_id: int) -> str:
        shard, index = self.spanner[sample_id]
        return f"sample {index} of {self._address(shard)}"

    def _address(self, shard: int) -> str:
        return self.streams[self.stream_per_shard[shard]].source.path(self.shards[shard].raw_data.basename)

    def _awaited(self) -> str:
        """What the next sample needs."""
        it = getattr(self, "_iterator", None)
        if it is None or it.yield_index >= it.total:
            return "waiting for the other loader processes of this node"
        shard, _ = self.spanner[int(it.sample_ids[it.yield_index])]
        stream, file = self.streams[self.stream_per_shard[shard]], self.shards[shard].raw_data
        parts = [path.stat().st_size for path in Path(stream.local).glob(f"{file.basename}*")]
        return (
            f"waiting for {self._address(shard)}, of which {max(parts, default=0):,} of {file.bytes:,} bytes are here"
        )

    def _require_cache(self, settings: Source, canonical_nodes: int, processes: int) -> None:
        block = settings.shuffle_block_size if isinstance(settings, TrainData) and settings.shuffle else 1
        indexes = [stream.index for stream in self.streams]
        if problems := cache_problems(settings.cache_limit, indexes, block, canonical_nodes, processes):
            raise ConfigError(problems)


def _claim(folder: Path, streams: Sequence[DataStream]) -> None:
    """Take the folder, and the caches that the user placed elsewhere, and have each stream's index there."""
    claim(folder, "speed.scratch_folder")
    for stream in streams:
        if stream.source.is_cached:
            claim(Path(stream.local), f"{stream.source.key}.local")
        stream.fetch_index()


def class_indices(value: Any, num_classes: int | None) -> NDArray[np.int64]:
    """What the column `labels` holds of a sample.

    Raises:
        ValueError: one of them is no class; a device would read beyond its tables, or fail without a name.
    """
    labels = np.asarray(value)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"has labels that are no list of integers: {labels!r:.80}")
    highest = len(labels) and int(labels.max())
    if num_classes is not None and highest >= num_classes:
        raise ValueError(f"has label {highest}; there are classes 0 to {num_classes - 1}")
    if len(labels) and (lowest := int(labels.min())) < 0:
        raise ValueError(f"has label {lowest}; classes are numbered from 0")
    return labels.astype(np.int64)
