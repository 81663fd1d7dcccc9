"""The contract between converted data and training."""

from __future__ import annotations

import pytest

from maws_composer.data.columns import DatasetFile, DatasetFileError, allows, read_hashtags


def test_columns_have_safe_encodings_only() -> None:
    assert allows("image", "bytes") and allows("hashtags", "json") and allows("hashtags", "str")
    assert allows("labels", "ndarray:int32") and allows("image_embedding", "ndarray:float16:768")
    assert not allows("hashtags", "pkl") and not allows("image", "pkl") and not allows("other", "str")


def test_hashtags_are_read_from_json_and_from_text() -> None:
    assert read_hashtags(["cat"]) == read_hashtags('["cat"]') == ["cat"]
    with pytest.raises(ValueError, match="hashtags must be a JSON list of strings, not "):
        read_hashtags('"cat"')


def test_dataset_json_comes_back_and_a_later_format_is_refused() -> None:
    file = DatasetFile("folder", "1", {"image": "bytes"}, {"folder": "x"}, "abc", {"part_size": 10}, {"images": 3})
    assert DatasetFile.from_json(file.to_json()) == file
    assert DatasetFile.from_json(file.to_json().replace('"counts"', '"groups": [], "counts"')) == file
    with pytest.raises(DatasetFileError, match=r"dataset.json has format version 2; this maws_composer reads up to 1"):
        DatasetFile.from_json(file.to_json().replace('"format_version": 1', '"format_version": 2'))
    for damaged in ("", "[]", '{"format_version": 1}'):
        with pytest.raises(DatasetFileError):
            DatasetFile.from_json(damaged)
