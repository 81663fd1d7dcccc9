"""Old checkpoints go only when newer ones are complete."""

from pathlib import Path

from maws_composer.checkpoints.retention import retire
from tests.checkpoints.test_completeness import save


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
