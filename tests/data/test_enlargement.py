"""How many crops of resized pictures have fewer pixels than are made of them, and that a run is told."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from maws_composer.data.columns import DatasetFile
from maws_composer.data.enlargement import enlarged_share, smallest_side_without
from maws_composer.data.loader import random_crop
from maws_composer.data.preflight import check_data
from maws_composer.data.transforms import RandomCropAndFlip
from tests.data import reader
from tests.data.shards import write_shards


def crop(size: int, smallest: float, ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> RandomCropAndFlip:
    return RandomCropAndFlip(seed=0, size=size, scale=(smallest, 1.0), ratio=ratio, flip=True)


@pytest.mark.parametrize(("side", "smallest"), [(256, 0.2), (320, 0.2), (400, 0.2), (256, 0.5)])
def test_square_crops_of_square_pictures_follow_the_closed_form(side: int, smallest: float) -> None:
    """Areas are uniform between the limits, and none of these crops has to be drawn anew."""
    expected = min(max((224**2 / side**2 - smallest) / (1 - smallest), 0), 1)
    assert enlarged_share(crop(224, smallest, (1.0, 1.0)), (side, side)) == pytest.approx(expected, abs=0.025)


def test_from_the_stated_side_on_no_crop_is_enlarged() -> None:
    for smallest, side in ((0.2, 501), (0.4, 355)):
        assert smallest_side_without(crop(224, smallest)) == side
        assert enlarged_share(crop(224, smallest), (side + 2, side + 2)) == 0  # crops have whole pixels
        assert enlarged_share(crop(224, smallest), (int(0.9 * side), int(0.9 * side))) > 0


@pytest.mark.parametrize(
    ("settings", "source", "said"),
    [
        ({"resize": 12}, {}, "resized to a shorter side of 12 pixels; "),
        ({}, {"resize": 12}, "resized to a shorter side of 12 pixels; "),
        ({"resize": 18}, {}, None),
        ({}, {}, None),
    ],
)
def test_a_run_is_told_what_its_data_records(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    source: dict[str, Any],
    said: str | None,
) -> None:
    folder = write_shards(tmp_path / "data")
    columns = {"image": "bytes", "id": "str"}
    (folder / "dataset.json").write_text(DatasetFile("folder", "1", columns, source, "", settings).to_json())
    run = reader.settings({"train": {"local": str(folder), "num_canonical_nodes": 4}, "scratch": str(tmp_path)})
    with caplog.at_level(logging.INFO, logger="maws_composer"):
        assert check_data(run, 1, 1) == []
    assert (said in caplog.text) if said else not caplog.messages
    if said:
        share = enlarged_share(random_crop(run), (16, 12))
        assert f"where one is 16 x 12, {share:.0%} of its crops have fewer than the 8 x 8 pixels" in caplog.text
        assert "with a shorter side of 18, none would" in caplog.text


def test_a_damaged_record_is_no_problem_of_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_shards(tmp_path / "data")
    (folder / "dataset.json").write_text(json.dumps({"format_version": 1}))
    run = reader.settings({"train": {"local": str(folder), "num_canonical_nodes": 4}, "scratch": str(tmp_path)})
    with caplog.at_level(logging.INFO, logger="maws_composer"):
        assert check_data(run, 1, 1) == [] and not caplog.messages
