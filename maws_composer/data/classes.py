"""`classes.json`: what the numbers of the column `labels` mean.

Part of the contract between whoever writes shards and whoever reads them, so nothing heavy is imported.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

CLASSES_FILE = "classes.json"
FORMAT_VERSION = 1


class ClassesFileError(ValueError):
    """`classes.json` is not what this version can read."""


@dataclass(frozen=True, slots=True)
class LabelClass:
    """One class; its index is its place in the list.

    Args:
        name: for people.
        count: images that have it.
        synset: WordNet's identifier, such as "n02132136"; None for a class that is not from WordNet.
        gloss: WordNet's definition, or "".
        hashtags: normalised hashtag -> images that have it, of all that were merged into this class.
    """

    name: str
    count: int
    synset: str | None = None
    gloss: str = ""
    hashtags: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Classes:
    """All classes of a dataset. Equal inputs and settings give equal bytes.

    Args:
        classes: by index.
        images: how many have at least one of the classes; `count / images` is a class's frequency.
        settings: how the classes were made.
    """

    classes: tuple[LabelClass, ...]
    images: int
    settings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.classes)

    def digest(self) -> str:
        """Changes when an index means something else: of names and synsets, in order."""
        meaning = json.dumps([(each.name, each.synset) for each in self.classes], ensure_ascii=False)
        return hashlib.sha256(meaning.encode()).hexdigest()

    def to_json(self) -> str:
        """One class per line, with its index."""
        lines = [
            json.dumps({"index": index, **asdict(each)}, ensure_ascii=False) for index, each in enumerate(self.classes)
        ]
        head = {"format_version": FORMAT_VERSION, "images": self.images, "settings": self.settings}
        classes = ",\n  ".join(lines)
        return f'{json.dumps(head, sort_keys=True, ensure_ascii=False)[:-1]}, "classes": [\n  {classes}\n]}}\n'

    @classmethod
    def from_json(cls, text: str | bytes) -> Classes:
        """Read `classes.json`.

        Raises:
            ClassesFileError: not JSON, of a later format, incomplete, or its indices are not 0, 1, 2, ….
        """
        try:
            content = json.loads(text)
            version = int(content["format_version"])
            if version > FORMAT_VERSION:
                raise ClassesFileError(
                    f"{CLASSES_FILE} has format version {version}; this maws_composer reads up to {FORMAT_VERSION}"
                )
            indices = [entry.pop("index") for entry in content["classes"]]
            classes = tuple(LabelClass(**entry) for entry in content["classes"])
            found = cls(classes, int(content["images"]), dict(content["settings"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, ClassesFileError):
                raise
            raise ClassesFileError(f"{CLASSES_FILE} is damaged: {error!r}") from error
        if indices != list(range(len(classes))):
            raise ClassesFileError(f"{CLASSES_FILE} is damaged: its indices are not 0 to {len(classes) - 1} in order")
        return found
