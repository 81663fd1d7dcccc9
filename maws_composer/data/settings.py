"""Settings of the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Column = Literal["image", "id", "hashtags", "labels", "caption", "image_embedding"]


def _in_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"[{limits[0]}, {limits[1]}] is not in order; the smaller comes first")
    return limits


PositiveFloat = Annotated[float, Field(gt=0)]
AreaShare = Annotated[float, Field(gt=0, le=1)]
Areas = Annotated[tuple[AreaShare, AreaShare], AfterValidator(_in_order)]
Ratios = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_in_order)]


@dataclass(frozen=True, kw_only=True)
class StreamSource:
    """One of several sets of shards that are trained on together.

    Args:
        remote: folder of the shards in object storage.
        local: folder of the shards on this machine; with `remote`, the cache of the shards.
        repeat: how often each sample comes in an epoch, on average.
    """

    remote: str | None = None
    local: str | None = None
    repeat: PositiveFloat = 1.0


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How often images of rare classes are repeated: max(1, sqrt(threshold / frequency of the rarest class)) times.

    Args:
        threshold: frequency, as a share of the images, below which classes are repeated.
        epoch_size: instead: draws that an epoch shall have; the threshold follows.
    """

    threshold: PositiveFloat | None = None
    epoch_size: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where samples are read, and what is tolerated.

    Args:
        remote: folder of the shards: s3://, gs://, oci://, hf:// or another that streaming reads.
        local: folder of the shards on this machine; with `remote`, the cache of the shards.
        columns: our name of a column -> its name in the shards, where that differs.
        max_pixels: larger images are refused; the default is Pillow's limit for decompression bombs.
        download_retry: attempts to download a shard.
        download_timeout: seconds that one attempt may take.
        cache_limit: room for cached shards, such as "500gb". Null: no limit.
        validate_hash: hash that downloaded shards are checked with. Null: no check.
    """

    remote: str | None = None
    local: str | None = None
    columns: dict[Column, str] = field(default_factory=dict)
    max_pixels: Positive = 178_956_970
    download_retry: Positive = 6
    download_timeout: PositiveFloat = 60
    cache_limit: str | Positive | None = None
    validate_hash: str | None = "sha1"


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """A dataset of one's own; its arguments stand beside its name.

    Args:
        name: as it is registered.
    """

    name: str


@dataclass(frozen=True, kw_only=True)
class TransformSettings:
    """A transform; its arguments stand beside its name.

    Args:
        name: as it is registered.
    """

    name: str


@dataclass(frozen=True, kw_only=True)
class TrainData(Source):
    """What is trained on, in which order, and how it is cropped. See `Source` for the rest.

    Args:
        streams: several sources by name, instead of `remote` and `local`.
        dataset: one that is registered, by name, with its arguments: instead of shards. Null: shards.
        repeat: how often each sample comes in an epoch, on average.
        resampling: repeat images of rare classes more often, of datasets with groups of shards. Null: all alike.
        num_canonical_nodes: the order of samples is planned for this many nodes; node counts that divide it are legal.
        shuffle: draw a new order for each epoch.
        shuffle_block_size: samples that are shuffled together; larger mixes better and caches more shards.
        crop_scale: smallest and largest share of the picture's area in a crop.
        crop_ratio: smallest and largest width / height of a crop.
        flip: mirror every second crop.
        decode: `exact`: whole pictures and bicubic resizing, by Pillow; `fast`: JPEGs at the scale that their crop
            needs, by OpenCV (the extra `fast`), in half of the time or less, pixels 1 to 3 of 255 off on average;
            `gpu`: JPEGs go to the GPU as files, and nvJPEG decodes them between two steps; not run on a GPU by us yet.
        repeated_augmentation: crops of each image in a batch, of which it is decoded once. Each is a sample wherever
            samples are counted, so that a batch has so many times fewer images.
        central_crop: nothing random: resize the shorter side and crop the middle, as embeddings are made.
        transform: by name, with its arguments: in the place of the crop and the mirroring above. Null: these.
        max_bad_share: share of samples that cannot be used above which the run stops.
        max_left_out_share: share of an epoch that may be left out to make whole batches.
    """

    streams: dict[str, StreamSource] = field(default_factory=dict)
    dataset: DatasetSettings | None = None
    repeat: PositiveFloat = 1.0
    resampling: Resampling | None = None
    num_canonical_nodes: Positive = 768
    shuffle: bool = True
    shuffle_block_size: Positive = 262_144
    crop_scale: Areas = (0.2, 1.0)
    crop_ratio: Ratios = (0.75, 1.3333333)
    flip: bool = True
    decode: Literal["exact", "fast", "gpu"] = "exact"
    repeated_augmentation: Positive = 1
    central_crop: bool = False
    transform: TransformSettings | None = None
    max_bad_share: Share = 0.01
    max_left_out_share: Share = 0.1


@dataclass(frozen=True, kw_only=True)
class EvalData(Source):
    """What is evaluated on: every sample once, resized and cropped in the middle. See `Source` for the rest.

    Args:
        resize: shorter side before the crop, in pixels. Null: the crop's side.
    """

    resize: Positive | None = None


@dataclass(frozen=True, kw_only=True)
class HeldOutData(EvalData):
    """What is evaluated on while training. See `EvalData` for the rest.

    Args:
        dataset: one that is registered, by name, with its arguments: instead of shards. Null: shards.
    """

    dataset: DatasetSettings | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    """Datasets for training and, if any, for evaluation.

    Args:
        train: what is trained on.
        eval: what is evaluated on while training. Null: nothing is.
    """

    train: TrainData
    eval: HeldOutData | None = None
