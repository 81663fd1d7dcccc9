"""What a dataset folder holds: the columns of its MDS shards, and `dataset.json`.

This is the contract between whoever writes shards (`streaming_conversion`) and whoever reads them (`data`). It imports
nothing heavy, so that both can share it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

IMAGE = "image"  # the encoded picture, as it came
ID = "id"  # stable and unique within the dataset
HASHTAGS = "hashtags"  # list of str, raw, in any order; [] for none
LABELS = "labels"  # class indices, as `classes.json` numbers them
CAPTION = "caption"  # "" for none
IMAGE_EMBEDDING = "image_embedding"  # the image tower's output, before the projection

# MDS encodings per column; an entry that ends in ":" stands for that encoding with any type and shape. The first is
# what we write. Never `pkl`: reading it runs code.
ENCODINGS: Mapping[str, tuple[str, ...]] = {
    IMAGE: ("bytes",),
    ID: ("str",),
    HASHTAGS: ("json", "str"),
    LABELS: ("ndarray", "ndarray:"),
    CAPTION: ("str",),
    IMAGE_EMBEDDING: ("ndarray", "ndarray:"),
}

DATASET_FILE = "dataset.json"
CAPTIONS_FILE = "captions.json"  # id -> language -> caption, for those beside the column `caption`
RESIZE = "resize"  # of `settings`, or of `source` where another dataset was resized before: see `shortest_side`
FORMAT_VERSION = 1


class DatasetFileError(ValueError):
    """`dataset.json` is not what this version can read."""


def allows(column: str, encoding: str) -> bool:
    """Whether `column` may be stored in the MDS encoding `encoding`."""
    allowed = ENCODINGS.get(column, ())
    return encoding in allowed or any(name.endswith(":") and encoding.startswith(name) for name in allowed)


def read_hashtags(value: object) -> list[str]:
    """The hashtags of a sample, from a column in the encoding `json` (a list already) or `str` (JSON text).

    Raises:
        ValueError: the value is not a JSON list of strings.
    """
    tags = json.loads(value) if isinstance(value, str) else value
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"hashtags must be a JSON list of strings, not {value!r:.80}")
    return tags


@dataclass(frozen=True, slots=True)
class Group:
    """Shards that follow one another in `index.json`, of images that an epoch repeats alike.

    How often an image is repeated depends on its rarest class (FACTS 3: resampling), so a group holds the images whose
    rarest classes are about equally frequent. A frequency is the share of images that have a class.

    Args:
        shards: how many.
        images: how many.
        lowest, highest: frequencies of the rarest classes of its images.
        mean_inverse_root: mean over its images of 1 / sqrt(frequency of the rarest class).
    """

    shards: int
    images: int
    lowest: float
    highest: float
    mean_inverse_root: float


@dataclass(frozen=True)
class DatasetFile:
    """`dataset.json`: where a dataset came from and how it was made. Equal inputs and settings give equal bytes.

    Args:
        reader: name of the reader in `streaming_conversion/readers`.
        converter_version: version of `streaming_conversion`.
        columns: column -> MDS encoding.
        source: what the reader says of its source (path, license, …).
        source_digest: changes when any sample of the source changes.
        settings: everything else that decides which bytes are written.
        counts: images, shards, bytes, skipped, resized, and images without a hashtag or caption.
        encoder: fingerprint of the encoder that `image_embedding` is of; None without embeddings.
        classes: `Classes.digest()` of the `classes.json` that the labels are numbered by; None without labels.
        groups: for resampling, all shards in the order of `index.json`; [] without.
    """

    reader: str
    converter_version: str
    columns: dict[str, str]
    source: dict[str, Any]
    source_digest: str
    settings: dict[str, Any]
    counts: dict[str, int] = field(default_factory=dict)
    encoder: str | None = None
    classes: str | None = None
    groups: list[Group] = field(default_factory=list)
    format_version: int = FORMAT_VERSION

    @property
    def shortest_side(self) -> int | None:
        """Pixels that the shorter side of a picture has at most, if larger ones were resized; None if they were not."""
        told = [each[RESIZE] for each in (self.settings, self.source) if isinstance(each.get(RESIZE), int)]
        return min(told, default=None)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> DatasetFile:
        """Read `dataset.json`; keys that a later version added are left out.

        Raises:
            DatasetFileError: not JSON, of a later format, or incomplete.
        """
        try:
            content = json.loads(text)
            version = int(content["format_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetFileError(f"{DATASET_FILE} is damaged: {error!r}") from error
        if version > FORMAT_VERSION:
            raise DatasetFileError(
                f"{DATASET_FILE} has format version {version}; this maws_composer reads up to {FORMAT_VERSION}"
            )
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        try:
            known["groups"] = [Group(**group) for group in known.get("groups", [])]
            return cls(**known)
        except TypeError as error:
            raise DatasetFileError(f"{DATASET_FILE} is incomplete: {error}") from error
