"""Image embeddings are read in place of images: in the same order, and only those of the run's own image tower."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maws_composer.data.columns import DATASET_FILE, DatasetFile
from maws_composer.data.embeddings import embedding_problems
from maws_composer.data.preflight import check_data
from maws_composer.data.settings import EvalData
from maws_composer.data.sources import evaluation_shards
from streaming_conversion.parts import PartWriter
from tests.data import reader
from tests.data.shards import index_of, shard_files, write_index, write_shards
from tests.text_towers import train_tokenizer

COUNT, PER_SHARD, WIDTH = 100, 12, 6
VALUES = np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float16)
COLUMNS = ["caption", "image_embedding"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embeddings(tmp_path_factory.mktemp("embeddings") / "data")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([f"caption {number}" for number in range(COUNT)]).save_pretrained(folder)
    return folder


def write_embeddings(folder: Path, bad: dict[int, np.ndarray] | None = None) -> Path:
    """Embeddings with captions, as many in each shard as `write_shards` has pictures."""
    columns = {"id": "str", "caption": "str", "image_embedding": f"ndarray:float16:{WIDTH}"}
    with PartWriter(out=str(folder), columns=columns, hashes=["sha1"], size_limit=None) as writer:
        for number, values in enumerate(VALUES):
            embedding = (bad or {}).get(number, values).astype(np.float16)
            writer.write({"id": f"{number:03}", "caption": f"caption {number:03}", "image_embedding": embedding})
            if number % PER_SHARD == PER_SHARD - 1:
                writer.end_shard()
    return folder


def scenario(scratch: Path, train: Path, tokenizer: Path, **changes: Any) -> dict[str, Any]:
    data = {"local": str(train), "num_canonical_nodes": 4, "shuffle_block_size": 32}
    return {"train": data, "scratch": str(scratch), "columns": COLUMNS, "tokenizer": str(tokenizer), **changes}


def test_the_order_is_that_of_the_images_from_the_start_and_resumed_by_two(
    folder: Path, tokenizer: Path, tmp_path: Path
) -> None:
    images = write_shards(tmp_path / "images", COUNT, PER_SHARD + 1)
    sizes = [[shard["samples"] for shard in index_of(each)["shards"]] for each in (images, folder)]
    assert sizes[0] == sizes[1]
    of_images = scenario(tmp_path / "i", images, tokenizer, columns=[], epochs=2)
    of_embeddings = scenario(tmp_path / "e", folder, tokenizer, epochs=2)
    begun = {**of_embeddings, "batches": 2, "scratch": str(tmp_path / "b")}
    (expected,), (found,), (first,) = reader.run([of_images, of_embeddings, begun])
    assert not found["error"] and not expected["error"]
    places = [[(epoch, position, int(name)) for epoch, position, _, _, name, *_ in each["rows"]] for each in
              (expected, found)]  # fmt: skip
    assert places[0] == places[1]
    for *_, name, checksum, caption, ids, mask in found["rows"]:
        assert checksum == zlib.crc32(VALUES[int(name)].astype(np.float32).tobytes())
        assert caption == f"caption {name}" and ids[0] == 0 and mask[0] == 1
    resumed = {**of_embeddings, "resume": first["state"], "epochs": 1}
    ((one, two),) = reader.run([resumed], world_size=2)
    together = sorted([*row[:2], int(row[4])] for result in (one, two) for row in result["rows"])
    size = found["samples"]
    assert together == sorted([*place] for place in places[1][:size] if place[1] >= 32)


def test_embeddings_that_are_not_finite_are_replaced_and_named(tokenizer: Path, tmp_path: Path) -> None:
    broken = write_embeddings(tmp_path / "data", bad={7: np.full(WIDTH, np.nan)})
    evaluated = scenario(tmp_path / "s", broken, tokenizer, eval={"local": str(broken)})
    ((result,),) = reader.run([evaluated])
    assert [row[4] for row in result["rows"] if row[2]] == ["008"]
    assert "sample 007 cannot be used: image_embedding is not finite" in result["log"]


def test_a_dataset_without_embeddings_is_told(folder: Path, tokenizer: Path, tmp_path: Path) -> None:
    def check(data: Path) -> list[str]:
        run = reader.settings(scenario(tmp_path / "scratch", data, tokenizer))
        return [f"{problem.path}: {problem.message}" for problem in check_data(run, 1, 1, COLUMNS)]

    assert check(folder) == []
    images = write_shards(tmp_path / "images", COUNT, PER_SHARD + 1)
    assert check(images) == [
        f"data.train.columns.{name}: {images} has no column {name}; it has id, image" for name in COLUMNS
    ]
    integers = shutil.copytree(folder, tmp_path / "integers")
    index = index_of(integers)
    for shard in index["shards"]:
        shard["column_encodings"] = [name.replace("float16", "int16") for name in shard["column_encodings"]]
    write_index(integers, index)
    assert check(integers) == [
        f"data.train.columns.image_embedding: image_embedding of {integers} is ndarray:int16:{WIDTH}, which is not "
        "read as image_embedding"
    ]
    assert len(shard_files(integers)) == len(index["shards"])


def test_embeddings_of_another_encoder_or_of_none_are_refused(folder: Path, tmp_path: Path) -> None:
    def told(encoder: str | None, image_size: int = 224) -> list[str]:
        data = shutil.copytree(folder, tmp_path / "data", dirs_exist_ok=True)
        source, settings = {"weights": "runs/other"}, {"image_size": image_size}
        (data / DATASET_FILE).write_text(DatasetFile("embed", "1", {}, source, "", settings, encoder=encoder).to_json())
        problems = embedding_problems(evaluation_shards(EvalData(local=str(data))), "runs/wsp", "a" * 64, 224, 5)
        return [f"{problem.path}: {problem.message.removeprefix(f'{data}/')}" for problem in problems]

    assert told("a" * 64) == []
    assert told("b" * 64) == [
        "data.eval.local: dataset.json has embeddings of another encoder: of runs/other (bbbbbbbbbbbb), and not of "
        "runs/wsp (aaaaaaaaaaaa)"
    ]
    assert told("a" * 64, image_size=336) == [
        "data.eval.local: dataset.json has embeddings of images of 336 pixels, model.image_size is 224"
    ]
    assert told(None) == [
        "data.eval.local: dataset.json does not say whose embeddings these are; make them with `maws-composer embed`"
    ]
    shards = evaluation_shards(EvalData(local=str(folder)))
    (missing,) = embedding_problems(shards, "runs/wsp", "a" * 64, 224, timeout=5)
    assert missing.message.startswith(f"{folder}/dataset.json is missing, which says whose embeddings these are")
