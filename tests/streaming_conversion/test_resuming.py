"""A conversion that is interrupted leaves nothing that looks whole, and the same command goes on with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from streaming import MDSWriter

from streaming_conversion.cli import main
from tests.processes import ROOT
from tests.streaming_conversion.conftest import Convert, command, content, save_images

IMAGES, PART = 600, 20


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Enough pictures to be interrupted."""
    save_images(tmp_path / "photos", IMAGES, size=160)
    return tmp_path / "photos"


def interrupted(tmp_path: Path, how: signal.Signals, processes: int) -> tuple[int, str, set[str]]:
    """Convert photos to mds until some parts are finished, then send a signal to the main process.

    Returns its exit code, what it said, and the parts that were finished.
    """
    process = subprocess.Popen(
        command("folder", "photos", "mds", "--part-size", PART, "--processes", processes),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "mds/.conversion").glob("part-*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(process.pid), "processes of the conversion are still there"
    return process.returncode, said, {path.stem for path in (tmp_path / "mds/.conversion").glob("part-*.json")}


def _alive(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_after_sigkill_the_same_command_goes_on(photos: Path, tmp_path: Path, convert: Convert, processes: int) -> None:
    code, _, finished = interrupted(tmp_path, signal.SIGKILL, processes)
    assert code == -signal.SIGKILL
    assert 3 <= len(finished) < IMAGES // PART
    assert not (tmp_path / "mds/index.json").exists() and not (tmp_path / "mds/dataset.json").exists()
    kept = {name: (tmp_path / "mds" / name / "shard.00000.mds").stat().st_mtime_ns for name in finished}

    assert convert("folder", "photos", "mds", "--part-size", PART, "--processes", processes).returncode == 0
    assert convert("folder", "photos", "whole", "--part-size", PART, "--processes", 1).returncode == 0
    assert content(tmp_path / "mds") == content(tmp_path / "whole")
    for name, time_written in kept.items():
        assert (tmp_path / "mds" / name / "shard.00000.mds").stat().st_mtime_ns == time_written, "was done again"


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_ends_it_in_order(photos: Path, tmp_path: Path, how: signal.Signals) -> None:
    code, said, finished = interrupted(tmp_path, how, processes=2)
    assert code == 130
    assert said.endswith("interrupted; the same command goes on where it stopped\n")
    assert "Traceback" not in said
    assert finished and not (tmp_path / "mds/index.json").exists()


def test_a_damaged_part_is_written_again(images: Path, tmp_path: Path) -> None:
    mds = _half_done(images, tmp_path)
    (mds / "part-000000/shard.00000.mds").write_bytes(b"cut off")
    assert main(["folder", str(images), str(mds), "--part-size", "25", "--processes", "1"]) == 0
    assert main(["folder", str(images), str(tmp_path / "whole"), "--part-size", "25", "--processes", "1"]) == 0
    assert content(mds) == content(tmp_path / "whole")


def _half_done(images: Path, tmp_path: Path) -> Path:
    """A conversion that ended because a picture could not be read."""
    last = sorted(images.glob("*/*"))[-1]
    moved = last.rename(images / "moved")
    last.symlink_to(images / "moved")
    original = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == last.name:
            raise PermissionError(13, "Permission denied")
        return original(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        assert main(["folder", str(images), str(tmp_path / "mds"), "--part-size", "25", "--processes", "1"]) == 2
    assert moved.exists() and not (tmp_path / "mds/index.json").exists()
    return tmp_path / "mds"


def test_a_picture_that_cannot_be_read_ends_it(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _half_done(images, tmp_path)
    name = sorted(str(path.relative_to(images)) for path in images.glob("*/*"))[-1]
    assert capsys.readouterr().err.endswith(f"{name} cannot be read: Permission denied\n")


def test_changed_settings_or_source_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mds = _half_done(images, tmp_path)
    save_images(images / "new", 1)
    capsys.readouterr()
    assert main(["folder", str(images), str(mds), "--part-size", "30", "--shard-size", "1mb"]) == 2
    assert capsys.readouterr().err == (
        f"{mds} holds the beginning of another conversion; go on with the same source and settings, or begin anew with "
        "--overwrite:\n\n  part_size was 25, is 30\n  shard_bytes was 67108864, is 1048576\n"
        "  the source has changed: 60 images then, 61 now\n"
    )
    assert main(["folder", str(images), str(mds), "--part-size", "30", "--processes", "1", "--overwrite"]) == 0
    assert main(["folder", str(images), str(tmp_path / "whole"), "--part-size", "30", "--processes", "1"]) == 0
    assert content(mds) == content(tmp_path / "whole")


def test_a_finished_dataset_is_replaced_only_when_asked(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mds = tmp_path / "mds"
    assert main(["folder", str(images), str(mds), "--processes", "1"]) == 0
    before = content(mds)
    capsys.readouterr()
    assert main(["folder", str(images), str(mds), "--processes", "1"]) == 2
    assert capsys.readouterr().err == f"{mds} holds a finished dataset; --overwrite replaces it\n"
    assert content(mds) == before
    assert main(["folder", str(images), str(mds), "--processes", "1", "--limit", "10", "--overwrite"]) == 0
    assert json.loads((mds / "dataset.json").read_text())["counts"]["images"] == 10


def test_two_conversions_into_one_destination_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from streaming_conversion.destination import Folder

    with Folder(tmp_path / "mds").lock():
        assert main(["folder", str(images), str(tmp_path / "mds"), "--processes", "1"]) == 2
    assert capsys.readouterr().err == f"another conversion is writing to {tmp_path / 'mds'}\n"


def test_streaming_still_writes_an_index_after_an_exception(tmp_path: Path) -> None:
    """When this fails, parts may be written in a `with MDSWriter`."""
    with pytest.raises(RuntimeError), MDSWriter(columns={"id": "str"}, out=str(tmp_path / "mds")) as writer:
        writer.write({"id": "half of it"})
        raise RuntimeError
    assert (tmp_path / "mds/index.json").exists()
