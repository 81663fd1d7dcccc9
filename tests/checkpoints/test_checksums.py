"""A flipped byte is found before it is loaded, by whoever reads that file, and all ranks go on from the one before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from maws_composer.checkpoints.checksums import checksum, find_damage
from maws_composer.checkpoints.completeness import Checkpoint, read_checkpoint
from tests.checkpoints.saved import flip_a_byte, save, save_shards
from tests.processes import run_ranks
from tests.s3_server import S3Server, rclone

needs_rclone = pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")


def choose(url: str, local: Path, processes: int = 1) -> tuple[Path | None, str]:
    """Which checkpoint so many ranks go on from, and what the first of them says."""
    ranks = run_ranks(Path(__file__).parent / "choosing.py", {"url": url, "local": str(local)}, processes)
    assert len({rank["chosen"] for rank in ranks}) == 1
    chosen = ranks[0]["chosen"]
    return Path(chosen) if chosen else None, "\n".join(rank["said"] for rank in ranks)


def test_the_checksum_is_the_crc_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123456789")
    assert checksum(tmp_path / "a") == "cbf43926"  # the check value of CRC-32/ISO-HDLC


def test_each_damaged_file_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "ep0-ba10", a=b"123456789", b=b"b", c=b"c")
    checkpoint = read_checkpoint(folder)
    assert isinstance(checkpoint, Checkpoint)
    assert find_damage(folder, checkpoint, checkpoint.files) == []
    flip_a_byte(folder / "a")
    (folder / "b").unlink()
    damaged, unreadable = find_damage(folder, checkpoint, checkpoint.files)
    assert damaged == f"a is damaged: its CRC-32 is {checksum(folder / 'a')}, cbf43926 was written"
    assert unreadable.startswith("b is not readable: ")


def test_damaged_checkpoints_are_passed_over_by_all_ranks(tmp_path: Path) -> None:
    old = save_shards(tmp_path / "checkpoints" / "ep0-ba10")
    new = {}
    for batch, damaged in ((20, ".metadata"), (30, "__1_0.distcp"), (40, "__2_0.distcp")):
        new[damaged] = save_shards(tmp_path / "checkpoints" / f"ep0-ba{batch}", ranks=3)
        flip_a_byte(new[damaged] / damaged)
    chosen, said = choose(str(tmp_path), tmp_path, processes=2)
    assert chosen == old
    for damaged, folder in new.items():
        assert f"passed over {folder}: {damaged} is damaged" in said
        assert (folder / damaged).exists() and (folder / "complete.json").exists()


def test_one_saved_before_there_were_checksums_is_taken_on_trust(tmp_path: Path) -> None:
    save_shards(tmp_path / "checkpoints" / "ep0-ba10")
    new = save_shards(tmp_path / "checkpoints" / "ep0-ba20", with_checksums=False)
    chosen, said = choose(str(tmp_path), tmp_path)
    assert chosen == new and "saved before there were checksums" in said


@pytest.mark.slow
@needs_rclone
def test_downloads_are_checked_and_damaged_copies_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tmp_path / "local"
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        stored = server.bucket("bucket") / "run" / "checkpoints"
        save_shards(stored / "ep0-ba10")
        save_shards(stored / "ep0-ba20")
        chosen, _ = choose("s3://bucket/run", local)
        assert chosen == local / "checkpoints" / "ep0-ba20"
        flip_a_byte(chosen / "__0_0.distcp")
        chosen, said = choose("s3://bucket/run", local)
        assert chosen == local / "checkpoints" / "ep0-ba20" and "downloading ep0-ba20 again: __0_0.distcp" in said
        assert (chosen / "__0_0.distcp").read_bytes() == (stored / "ep0-ba20" / "__0_0.distcp").read_bytes()
        for place in (stored, local / "checkpoints"):
            flip_a_byte(place / "ep0-ba20" / "__1_0.distcp")
        chosen, said = choose("s3://bucket/run", local)
        assert chosen == local / "checkpoints" / "ep0-ba10"
        assert "passed over s3://bucket/run/checkpoints/ep0-ba20: __1_0.distcp is damaged" in said


@needs_rclone
def test_a_download_that_was_cut_off_goes_on_with_the_files_that_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "local"
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        stored = save_shards(server.bucket("bucket") / "run" / "checkpoints" / "ep0-ba10", ranks=3)
        unfinished = shutil.copytree(stored, local / "checkpoints" / "ep0-ba10.partial")
        (unfinished / "__1_0.distcp").write_bytes(b"cut off")
        flip_a_byte(unfinished / "__2_0.distcp")
        (unfinished / "__3_0.distcp").write_bytes(b"of a larger world")
        inode = (unfinished / "__0_0.distcp").stat().st_ino
        chosen, _ = choose("s3://bucket/run", local)
        assert chosen == local / "checkpoints" / "ep0-ba10"
        assert {path.name: path.read_bytes() for path in chosen.iterdir()} == {
            path.name: path.read_bytes() for path in stored.iterdir()
        }
        assert (chosen / "__0_0.distcp").stat().st_ino == inode
