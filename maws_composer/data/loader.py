"""Loaders for Composer: batches of training and evaluation data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from composer.core import DataSpec
from streaming.base.world import World

from maws_composer.config.build import build_named
from maws_composer.data.batches import Batch, Tokenize, collate, count_samples, count_training_samples, split_batch
from maws_composer.data.columns import CAPTION, ID, IMAGE, IMAGE_EMBEDDING, LABELS
from maws_composer.data.copy_ahead import OwnLoader, ShardLoader
from maws_composer.data.crossing import Slots
from maws_composer.data.dataset import MakeOrder, SampleDataset
from maws_composer.data.decode import decode
from maws_composer.data.device_decoding import DeviceDecoder
from maws_composer.data.encoded import CropLater, collate_encoded, open_encoded
from maws_composer.data.guards import DataStream
from maws_composer.data.index import Index
from maws_composer.data.loader_processes import loader_processes
from maws_composer.data.order import EvalOrder, Order, TrainOrder
from maws_composer.data.own import open_together
from maws_composer.data.own_samples import OwnSamples, own_train_order
from maws_composer.data.own_text import tokenizer_of
from maws_composer.data.resampling import mean_factor, threshold_of
from maws_composer.data.scratch import run_folder
from maws_composer.data.settings import EvalData, HeldOutData, Source, TrainData
from maws_composer.data.sources import Shards, evaluation_shards, training_shards
from maws_composer.data.transforms import Chosen, RandomCropAndFlip, ResizeAndCrop, Transform
from maws_composer.data.worker import be_a_worker
from maws_composer.parallel.precision import torch_device

if TYPE_CHECKING:
    from maws_composer.config.run import Run
    from maws_composer.parallel.settings import ForwardSpeed


class Reads(Protocol):
    """What a loader asks of a configuration: a `Run`, or an `Evaluation`."""

    @property
    def speed(self) -> ForwardSpeed: ...

    @property
    def save_folder(self) -> str: ...


def build_train_loader(run: Run, columns: Sequence[str] = ()) -> DataSpec:
    """Batches of training samples, without end of data within an epoch of `TrainOrder`.

    A batch: `image` uint8 (batch, 3, size, size), `id` list of str, `position` and `epoch` int64 (batch,), `replaced`
    and `valid` bool (batch,). `valid` is all True. With `labels`, int64 (batch, labels), filled up with NO_LABEL. With
    `caption`, list of str, and its `input_ids` and `attention_mask` int64 (batch, context). With `image_embedding`,
    float32 (batch, width), and no image.

    On a GPU the image is there already, and the rest on the CPU; with `decode: gpu` after the DataSpec's
    `batch_transforms`, before which it is files.

    Args:
        run: its data, batch size and image size.
        columns: what the stage reads besides id, and image or image_embedding.

    Raises:
        ConfigError: see `SampleDataset`.
    """
    data = run.data.train
    decoder = _device_decoder(run) if IMAGE_EMBEDDING not in columns else None
    if data.dataset is not None:
        own = _own_samples(
            data, "data.train", run,
            transform=_train_transform(run),
            make_order=partial(own_train_order, data, run.seed, run.global_train_batch_size),
            global_batch_size=run.global_train_batch_size,
            canonical_nodes=data.num_canonical_nodes,
            columns=columns,
            decode=_decoder(data),
        )  # fmt: skip
        return _data_spec(own, run.speed, _tokenizer(run, columns), count_training_samples, decoder)
    dataset = _dataset(
        "train", training_shards(data), data, run,
        transform=_train_transform(run),
        make_order=partial(train_order, data, run.seed, run.images_per_batch),
        global_batch_size=run.images_per_batch,
        canonical_nodes=data.num_canonical_nodes,
        columns=columns,
        num_classes=_num_classes(run, columns),
        decode=_decoder(data),
    )  # fmt: skip
    return _data_spec(dataset, run.speed, _tokenizer(run, columns), count_training_samples, decoder)


def build_eval_loader(run: Run, columns: Sequence[str] = ()) -> DataSpec | None:
    """Batches that hold every sample of `data.eval` once, the last rows filled up and marked not `valid`; None without.

    `position` is the sample's ordinal, `epoch` 0.
    """
    data = run.data.eval
    if data is None:
        return None
    if data.dataset is not None:
        world, size = World.detect(), run.model["image_size"]
        batch_size = run.speed.device_eval_batch_size * world.num_ranks
        own = _own_samples(
            data, "data.eval", run,
            transform=ResizeAndCrop(size, data.resize or size),
            make_order=partial(EvalOrder, global_batch_size=batch_size),
            global_batch_size=batch_size,
            canonical_nodes=world.num_nodes,
            columns=columns,
        )  # fmt: skip
        return _data_spec(own, run.speed, _tokenizer(run, columns), count_samples)
    return build_loader_of_each_once(
        data, "data.eval", run.model["image_size"], run, columns, _num_classes(run, columns), _tokenizer(run, columns)
    )


def build_loader_of_each_once(
    data: EvalData,
    key: str,
    image_size: int,
    run: Reads,
    columns: Sequence[str] = (),
    num_classes: int | None = None,
    tokenizer: Tokenize | None = None,
) -> DataSpec:
    """Batches that hold every sample of `data` once, as `build_eval_loader` has them.

    Args:
        data: the samples.
        key: of the section that names them, such as "data.eval"; no other loader of the run may have it.
        image_size: side of the central crop.
        run: whose loader it is.
        columns: to be read beside id, and image or image_embedding.
        num_classes: labels at or above it are an error. None: any may come.
        tokenizer: of captions. None: they stay text, and may be empty.
    """
    world = World.detect()
    global_batch_size = run.speed.device_eval_batch_size * world.num_ranks
    dataset = _dataset(
        key.removeprefix("data.").replace(".", "-"), evaluation_shards(data, key), data, run,
        transform=ResizeAndCrop(image_size, data.resize or image_size),
        make_order=partial(eval_order, global_batch_size),
        global_batch_size=global_batch_size,
        canonical_nodes=world.num_nodes,
        columns=columns,
        num_classes=num_classes,
        optional=(CAPTION,) if tokenizer is None else (),
    )  # fmt: skip
    return _data_spec(dataset, run.speed, tokenizer, count_samples)


def train_order(
    data: TrainData,
    seed: int,
    global_batch_size: int,
    indexes: Sequence[Index],
) -> TrainOrder:
    """The order of training images, `global_batch_size` of them in a batch, as the settings say.

    With resampling, each group of shards is a stream of its own.

    Raises:
        ConfigError: no resampling gives an epoch of the wanted size.
    """
    parts = [(len(index.shards), index.source.repeat) for index in indexes]
    if data.resampling is not None:
        threshold = threshold_of(data.resampling, indexes)
        parts = [
            (group.shards, index.source.repeat * mean_factor(group, threshold))
            for index in indexes
            for group in index.groups
        ]
    return TrainOrder(
        np.concatenate([index.sizes for index in indexes]),
        tuple(shards for shards, _ in parts),
        tuple(repeat for _, repeat in parts),
        seed,
        data.num_canonical_nodes,
        global_batch_size,
        data.shuffle,
        data.shuffle_block_size,
        data.repeated_augmentation,
    )


def eval_order(global_batch_size: int, indexes: Sequence[Index]) -> EvalOrder:
    """The order of evaluation samples."""
    return EvalOrder(sum(int(index.sizes.sum()) for index in indexes), global_batch_size)


def wanted_columns(data: Source, columns: Sequence[str]) -> dict[str, str]:
    """Our name -> name in the shards, of what is read: `columns`, the id, and the image unless its embedding is."""
    image = () if IMAGE_EMBEDDING in columns else (IMAGE,)
    return {name: data.columns.get(name, name) for name in (*image, ID, *columns)}


def is_resampled(data: Source) -> bool:
    """Whether groups of shards are repeated unequally."""
    return isinstance(data, TrainData) and data.resampling is not None


def dataset_folder(run: Reads, name: str, shards: Sequence[Shards], node: int) -> Path:
    """Where a dataset of the run keeps its cache and its locks on this node."""
    return run_folder(run.speed.scratch_folder, run.save_folder, name, [part.address for part in shards], node)


def _dataset(
    name: str,
    shards: Sequence[Shards],
    data: TrainData | EvalData,
    run: Reads,
    *,
    transform: Transform | CropLater,
    make_order: MakeOrder,
    global_batch_size: int,
    canonical_nodes: int,
    columns: Sequence[str],
    num_classes: int | None,
    optional: Collection[str] = (),
    decode: Callable[[bytes, int], Any] = decode,
) -> SampleDataset:
    world = World.detect()
    folder = dataset_folder(run, name, shards, world.node)
    return SampleDataset(
        [DataStream(part, folder, wanted_columns(data, columns), data, is_resampled(data)) for part in shards],
        make_order,
        transform,
        batch_size=global_batch_size // world.num_ranks,
        global_batch_size=global_batch_size,
        canonical_nodes=canonical_nodes,
        settings=data,
        folder=folder,
        workers=loader_processes(run.speed, world.ranks_per_node),
        patience=run.speed.loader_timeout,
        predownload=run.speed.predownload,
        num_classes=num_classes,
        optional=optional,
        decode=decode,
    )


def _own_samples(
    data: TrainData | HeldOutData,
    section: str,
    run: Run,
    *,
    transform: Transform | CropLater,
    make_order: Callable[[int], Order],
    global_batch_size: int,
    canonical_nodes: int,
    columns: Sequence[str],
    decode: Callable[[Any, int], Any] = decode,
) -> OwnSamples:
    assert data.dataset is not None
    own = open_together(data.dataset, f"{section}.dataset", run)
    return OwnSamples(
        own, make_order(own.size), transform, wanted_columns(data, columns), data,
        seed=run.seed,
        global_batch_size=global_batch_size,
        canonical_nodes=canonical_nodes,
        patience=run.speed.loader_timeout,
        num_classes=_num_classes(run, columns),
        decode=decode,
    )  # fmt: skip


def _decoder(data: TrainData) -> Callable[[bytes, int], Any]:
    if data.decode == "exact":
        return decode
    if data.decode == "gpu":
        return open_encoded
    from maws_composer.data.fast_jpeg import open_jpeg  # OpenCV is an extra

    return open_jpeg


def _device_decoder(run: Run) -> DeviceDecoder | None:
    if run.data.train.decode != "gpu":
        return None
    return DeviceDecoder(run.model["image_size"], run.data.train.max_pixels, torch_device())


def _train_transform(run: Run) -> Transform | CropLater:
    size, data = run.model["image_size"], run.data.train
    if data.transform is not None:
        name = data.transform.name
        return Chosen(name, build_named("transform", data.transform, name, run), run.seed, size)
    if data.central_crop:
        return ResizeAndCrop(size, size)
    crop = random_crop(run)
    return CropLater(crop) if data.decode == "gpu" else crop


def random_crop(run: Run) -> RandomCropAndFlip:
    """What a picture is cropped by, unless a run names a transform or crops the middle."""
    data = run.data.train
    return RandomCropAndFlip(run.seed, run.model["image_size"], data.crop_scale, data.crop_ratio, data.flip)


def _num_classes(run: Run, columns: Sequence[str]) -> int | None:
    return run.model["num_classes"] if LABELS in columns else None


def _tokenizer(run: Run, columns: Sequence[str]) -> Tokenize | None:
    return tokenizer_of(run.model["text"]) if CAPTION in columns else None


def _data_spec(
    dataset: SampleDataset | OwnSamples,
    speed: ForwardSpeed,
    tokenizer: Tokenize | None,
    count: Callable[[Batch], int],
    decoder: DeviceDecoder | None = None,
) -> DataSpec:
    workers, pin_memory = loader_processes(speed, World.detect().ranks_per_node), torch.cuda.is_available()
    room = _images_bytes(dataset, decoder) + _rows(dataset) * _other_bytes(tokenizer)
    slots = Slots(workers, speed.prefetch_factor, room, pin_memory) if workers else None
    options: dict[str, Any] = {
        "num_workers": workers,
        "collate_fn": partial(collate if decoder is None else collate_encoded, tokenizer=tokenizer, slots=slots),
        "pin_memory": pin_memory,
        "worker_init_fn": be_a_worker,
    }
    if workers:  # a loader without has nobody to wait for, and PyTorch refuses these
        options |= {
            "multiprocessing_context": "fork",
            "prefetch_factor": speed.prefetch_factor,
            # The worker knows better what it waits for, and has the same limit.
            "timeout": speed.loader_timeout and speed.loader_timeout + 60,
            "persistent_workers": True,
        }
    loader: OwnLoader | ShardLoader
    if isinstance(dataset, OwnSamples):
        loader = OwnLoader(dataset, dataset.batch_size, sampler=dataset.draws, **options)
    else:
        loader = ShardLoader(dataset, batch_size=dataset.batch_size, **options)
    if decoder is None and torch.cuda.is_available():
        loader.images_to = torch_device()
    return DataSpec(
        loader,
        num_samples=dataset.order.size * dataset.order.crops,
        batch_transforms=decoder,
        split_batch=split_batch,
        get_num_samples_in_batch=count,
    )


def _rows(dataset: SampleDataset | OwnSamples) -> int:
    """Of a rank's batch."""
    return dataset.batch_size * dataset.order.crops


def _images_bytes(dataset: SampleDataset | OwnSamples, decoder: DeviceDecoder | None) -> int:
    """Of the images of a rank's batch, as they cross: pixels; or files, with room for much larger ones."""
    as_pixels = _rows(dataset) * 3 * dataset.transform.size**2
    if decoder is None:
        return as_pixels
    if isinstance(dataset, OwnSamples):
        return max(as_pixels, dataset.batch_size * 2**20)  # nobody knows how large its files are
    indexes = [stream.index for stream in dataset.streams]
    on_average = sum(index.bytes for index in indexes) / sum(int(index.sizes.sum()) for index in indexes)
    return max(as_pixels, int(4 * dataset.batch_size * on_average))


def _other_bytes(tokenizer: Tokenize | None) -> int:
    """Of a row, beside its image, at most: tokens and their mask, labels. Pages that nothing fills cost nothing."""
    return 1024 + (2 * 8 * tokenizer.context_length if tokenizer is not None else 0)
