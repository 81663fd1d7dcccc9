"""A user's dataset in our order: the same samples at the same positions, however many ranks and workers read it.

Each rank's main process plans the epoch, and loader workers fetch what they are told: nothing depends on who they are.
The plan costs every rank 65 bytes per sample of the dataset, and 0.3 s per million samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from streaming.base.world import World
from torch.utils.data import Dataset, DistributedSampler

from maws_composer.config.problems import ConfigError
from maws_composer.data.columns import ID, IMAGE, LABELS
from maws_composer.data.dataset import class_indices
from maws_composer.data.decode import UndecodableImageError, decode
from maws_composer.data.fingerprint import changes, own_fingerprint
from maws_composer.data.guards import split_problem
from maws_composer.data.order import Order, Seat, TrainOrder
from maws_composer.data.own import OwnDataset, SampleError
from maws_composer.data.randomness import Purpose, sample_words
from maws_composer.data.settings import EvalData, TrainData
from maws_composer.data.transforms import Transform, global_generators
from maws_composer.data.usable import Sample, UnusableSampleError, undecodable, usable
from maws_composer.data.waiting import Patience

if TYPE_CHECKING:
    from maws_composer.data.encoded import CropLater

log = logging.getLogger(__name__)

_TRIED = 100  # samples that may take the place of a bad one


class Draw(NamedTuple):
    """What a loader worker has to fetch.

    Attributes:
        epoch, position: what everything random about it follows from.
        number: of the sample in the dataset.
        valid: whether it is a sample, rather than padding.
    """

    epoch: int
    position: int
    number: int
    valid: bool


class Draws(DistributedSampler):
    """This rank's samples, batch after batch and epoch after epoch. Composer takes no other sampler on several ranks.

    Args:
        order: of the epochs.
        batch_size: samples of a batch on one rank.
        world: whose rank this is.
    """

    def __init__(self, order: Order, batch_size: int, world: World) -> None:
        super().__init__(range(order.size), world.num_ranks, world.rank, shuffle=False)  # type: ignore[arg-type]
        self.order = order
        self._seat = Seat(world.node, world.num_nodes, world.rank_of_node, world.ranks_per_node, 0, 1, batch_size)
        self.current = 0  # epoch
        self.following = 0, 0  # epoch, and position in it, that is read next

    def __len__(self) -> int:
        return self.order.size // self.num_replicas

    def __iter__(self) -> Iterator[Draw]:
        self.current, start = self.following
        self.following = self.current + 1, 0
        order, node, nodes = self.order, self._seat.node, self._seat.nodes
        plan = np.empty(order.node_samples(start, nodes), np.int64)
        if not len(plan):  # resumed at the end of an epoch
            return
        order.fill_node_plan(plan, self.current, start, node, nodes)
        rows = self._seat.rows(len(plan))
        positions = order.positions(rows, start, node, nodes)
        epoch = self.current if isinstance(order, TrainOrder) else 0
        for position, number, valid in zip(positions, plan[rows], order.valid(positions), strict=True):
            yield Draw(epoch, int(position), int(number), bool(valid))


class OwnSamples(Dataset):
    """Samples of a user's dataset, images decoded and transformed, as `SampleDataset` has them.

    Args:
        own: the dataset.
        order: of its epochs.
        transform: from a decoded image, epoch and position to uint8 (3, height, width).
        columns: our name -> the dataset's, of what is read.
        settings: what is tolerated.
        seed: of the run.
        global_batch_size: samples of a batch over all ranks.
        canonical_nodes: node counts must divide it.
        patience: seconds without a batch after which it is said what is waited for, as an error; 0: no limit.
        num_classes: one more than the largest class index that may come; None: any may come.
        decode: from an image and the limit of pixels to what `transform` takes.
    """

    def __init__(
        self,
        own: OwnDataset,
        order: Order,
        transform: Transform | CropLater,
        columns: Mapping[str, str],
        settings: EvalData | TrainData,
        *,
        seed: int,
        global_batch_size: int,
        canonical_nodes: int,
        patience: float,
        num_classes: int | None = None,
        decode: Callable[[Any, int], Any] = decode,
    ) -> None:
        world = World.detect()
        if problem := split_problem(global_batch_size, canonical_nodes, world.num_ranks, world.num_nodes):
            raise ValueError(problem)
        self.own, self.order, self.transform, self.columns = own, order, transform, columns
        self.max_pixels, self.seed, self.num_classes = settings.max_pixels, seed, num_classes
        self.decode, self.patience = decode, patience
        self.batch_size = global_batch_size // world.num_ranks
        self.draws = Draws(order, self.batch_size, world)

    def __getitems__(self, draws: Sequence[Draw]) -> list[tuple[Sample]]:
        """The samples of a batch, each alone in a tuple, as `collate` takes the crops of an image."""
        samples: list[tuple[Sample]] = []

        def awaited() -> str:
            return f"waiting for sample {draws[min(len(samples), len(draws) - 1)].number} of {self.own}"

        # Nothing interrupts somebody else's code: this only says what the loader's timeout will end.
        patience = Patience(self.patience, len(draws), awaited, lambda error: log.error("%s", error))
        for sample in patience.each(map(self.__getitem__, draws)):
            samples.append((sample,))
        return samples

    def __getitem__(self, draw: Draw) -> Sample:
        sample, replaced = self._usable(draw)
        return {
            **sample,
            ID: str(sample[ID]),
            "position": draw.position,
            "epoch": draw.epoch,
            "replaced": replaced,
            "valid": draw.valid,
        }

    def state_dict(self, num_samples: int, from_beginning: bool = True) -> dict[str, Any]:
        """Where the epoch stands after `num_samples` of it, as Composer counts, and what determines its order."""
        return {
            "epoch": self.draws.current,
            "sample_in_epoch": num_samples,
            "order": own_fingerprint(self.order, self.own),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` stood.

        Raises:
            ConfigError: the order would be another one; names what changed.
        """
        if problems := changes(state.get("order", {}), own_fingerprint(self.order, self.own)):
            raise ConfigError(problems)
        self.draws.current = state["epoch"]
        self.draws.following = state["epoch"], state["sample_in_epoch"]

    def _usable(self, draw: Draw) -> tuple[Sample, bool]:
        """The sample, or the next that can be used; and whether it is another."""
        try:
            return self._read(draw.number, draw), False
        except UnusableSampleError as error:
            first_reason = str(error)
        for step in range(1, min(self.own.size, _TRIED)):
            other = (draw.number + step) % self.own.size
            try:
                sample = self._read(other, draw)
            except UnusableSampleError:
                continue
            log.warning("%s: sample %d: %s; %s takes its place", self.own, draw.number, first_reason, sample[ID])
            return sample, True
        raise SampleError(f"{self.own}: sample {draw.number}, and those after it, cannot be used: {first_reason}")

    def _read(self, number: int, draw: Draw) -> Sample:
        """Raises UnusableSampleError, SampleError."""
        word = sample_words(self.seed, draw.epoch, draw.position, Purpose.READ)[0]
        with global_generators(word):
            raw = self.own.read(number, self.columns)
        sample = usable(raw, self.max_pixels, decode=self.decode)
        if IMAGE in sample:
            try:
                sample[IMAGE] = self.transform(sample[IMAGE], draw.epoch, draw.position)
            except UndecodableImageError as error:  # of what is decoded only now
                raise undecodable(error) from error
        if LABELS in sample:
            try:
                sample[LABELS] = class_indices(sample[LABELS], self.num_classes)
            except ValueError as error:
                raise SampleError(f"sample {number} of {self.own} {error}") from error
        return sample


def own_train_order(data: TrainData, seed: int, global_batch_size: int, samples: int) -> TrainOrder:
    """The order of a dataset's samples: each is a shard of its own, so that an epoch is shuffled as a whole."""
    return TrainOrder(
        np.ones(samples, np.int64),
        (samples,),
        (data.repeat,),
        seed,
        data.num_canonical_nodes,
        global_batch_size,
        data.shuffle,
        data.shuffle_block_size,
    )
