"""Checkpoints without a model: files with something in them, and a marker."""

from __future__ import annotations

from pathlib import Path

from maws_composer.checkpoints.checksums import checksum
from maws_composer.checkpoints.completeness import write_marker


def save(folder: Path, with_checksums: bool = True, **files: bytes) -> Path:
    """A complete checkpoint of these files."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sizes = {name: len(content) for name, content in files.items()}
    checksums = {name: checksum(folder / name) for name in files} if with_checksums else {}
    write_marker(folder, sizes, samples=64, world_size=2, checksums=checksums)
    return folder


def save_shards(folder: Path, ranks: int = 2, with_checksums: bool = True) -> Path:
    """The same with the names that torch gives to the files of ranks."""
    shards = {f"__{rank}_0.distcp": bytes([rank]) * 100_000 for rank in range(ranks)}
    return save(folder, with_checksums, **{".metadata": b"names", **shards})


def flip_a_byte(file: Path) -> None:
    """As bad memory or a bad disk does: size and time of the file stay what they are."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
