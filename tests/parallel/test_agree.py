"""A failure on one rank is the same failure on all of them."""

from pathlib import Path

from tests.processes import run_ranks


def test_every_rank_raises_what_one_raised() -> None:
    sentence = ["save_folder: is not writable (here, line 3)"]
    for rank in run_ranks(Path(__file__).parent / "agreeing.py", {}, world_size=2):
        assert rank["answers"] == [sentence, sentence, 0]
