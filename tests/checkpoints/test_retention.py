"""Old checkpoints go only when newer ones are complete."""

from pathlib import Path

import pytest

from maws_composer.checkpoints.ranges import s3_client
from maws_composer.checkpoints.retention import abort_cut_off_uploads, retire
from maws_composer.checkpoints.run_folder import open_path
from tests.checkpoints.saved import save
from tests.s3_server import S3Server, rclone


def names(folder: Path) -> list[int]:
    return sorted(int(path.name.partition("-ba")[2]) for path in folder.iterdir())


def test_the_newest_stay_and_every_so_many_batches_one_forever(tmp_path: Path) -> None:
    for batch in range(10, 110, 10):
        save(tmp_path / f"ep0-ba{batch}", a=b"x")
    retire(tmp_path, newest=100, keep=2, keep_every=40)
    assert names(tmp_path) == [40, 80, 90, 100]


def test_a_broken_newest_one_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    for batch in (10, 20, 30):
        save(tmp_path / f"ep0-ba{batch}", a=b"x")
    (tmp_path / "ep0-ba30" / "a").unlink()
    retire(tmp_path, newest=30, keep=1, keep_every=None)
    assert names(tmp_path) == [20, 30]  # the broken one is left for somebody to look at


def test_what_was_cut_off_goes_once_something_newer_is_complete(tmp_path: Path) -> None:
    for batch in (10, 20, 30):
        save(tmp_path / f"ep0-ba{batch}", a=b"x")
    (tmp_path / "ep0-ba20" / "complete.json").unlink()
    (tmp_path / "ep0-ba40").mkdir()
    retire(tmp_path, newest=10, keep=3, keep_every=None)
    assert names(tmp_path) == [10, 20, 30, 40]
    retire(tmp_path, newest=30, keep=3, keep_every=None)
    assert names(tmp_path) == [10, 30, 40]


def test_later_ones_that_a_resume_passed_over_do_not_push_out_the_new_one(tmp_path: Path) -> None:
    for batch in (10, 20, 30):
        save(tmp_path / f"ep0-ba{batch}", a=b"x")
    retire(tmp_path, newest=20, keep=1, keep_every=None)
    assert names(tmp_path) == [20, 30]


@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
def test_what_killed_uploads_left_in_object_storage_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        stored = server.bucket("bucket") / "run" / "checkpoints"
        for batch in (10, 20, 30):
            save(stored / f"ep0-ba{batch}", a=b"x")
        (stored / "ep0-ba20" / "complete.json").unlink()
        client = s3_client(server.environment["S3_ENDPOINT_URL"])
        for key in ("run/checkpoints/ep0-ba20/__0_0.distcp", "run2/checkpoints/ep0-ba20/__0_0.distcp"):
            client.create_multipart_upload(Bucket="bucket", Key=key)
        abort_cut_off_uploads(open_path("s3://bucket/run/checkpoints"))
        left = client.list_multipart_uploads(Bucket="bucket").get("Uploads", [])
        assert [upload["Key"] for upload in left] == ["run2/checkpoints/ep0-ba20/__0_0.distcp"]
        retire(open_path("s3://bucket/run/checkpoints"), newest=30, keep=3, keep_every=None)
        assert [int(folder.name[6:]) for folder in sorted(stored.iterdir()) if any(folder.iterdir())] == [10, 30]


def test_storage_that_does_not_list_uploads_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    abort_cut_off_uploads(open_path("s3://bucket/run/checkpoints"))
