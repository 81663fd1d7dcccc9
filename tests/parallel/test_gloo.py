"""torch 2.7's gloo returns sums for averages; the cure, and when it can go."""

from pathlib import Path

import pytest
import torch

from tests.processes import run_ranks


def test_averages_are_averages_and_sums_stay_sums() -> None:
    for rank in run_ranks(Path(__file__).parent / "gloo_average.py", {}, world_size=2):
        assert rank["after"] == [4.5, 1.5, 3.0]


@pytest.mark.skipif(torch.__version__ >= "2.8", reason="about torch 2.7")
def test_without_the_cure_they_are_sums() -> None:
    """When this fails, `parallel/gloo.py` has nothing to do any more and can go."""
    assert run_ranks(Path(__file__).parent / "gloo_average.py", {}, world_size=2)[0]["before"]
