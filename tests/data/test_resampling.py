"""Epochs of groups of shards hold each class as often as the closed form says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import contradictions
from maws_composer.data.columns import Group
from maws_composer.data.fingerprint import changes
from maws_composer.data.index import read_file, read_index, with_groups
from maws_composer.data.loader import train_order
from maws_composer.data.order import TrainOrder
from maws_composer.data.resampling import draws, factor_bounds, quantization, threshold_of
from maws_composer.data.settings import Resampling, TrainData
from maws_composer.data.sources import Shards
from tests.data import reader
from tests.labelled import long_tailed, write_labelled

CLASSES, IMAGES = 12, 600
LABELS = long_tailed(IMAGES, CLASSES)
COUNTS = np.bincount(np.concatenate(LABELS), minlength=CLASSES)
RAREST = np.array([COUNTS[labels].min() / IMAGES for labels in LABELS])


def factors(threshold: float) -> np.ndarray:
    """FACTS 3, written out for each image."""
    return np.maximum(1, np.sqrt(threshold / RAREST))


@pytest.fixture(scope="module", params=[CLASSES, 4])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """With as many groups as frequencies, so that nothing is rounded, and with few."""
    folder = write_labelled(tmp_path_factory.mktemp("grouped") / "data", LABELS, groups=request.param)
    source = Shards("data.train", "train", None, str(folder))
    return with_groups(read_index(source, 10), read_file(source, "dataset.json", 10))


def order_of(index, resampling: Resampling, **changes) -> TrainOrder:
    settings = {"local": index.source.local, "resampling": resampling, "num_canonical_nodes": 1, **changes}
    return train_order(TrainData(**settings), 7, 1, [index])


def epochs(order: TrainOrder, count: int) -> np.ndarray:
    """How often each sample comes in each epoch."""
    drawn = np.zeros((count, int(order.shard_sizes.sum())), int)
    plan = np.empty(order.size, np.int64)
    for epoch in range(count):
        order.fill_node_plan(plan, epoch, 0, 0, 1)
        drawn[epoch] = np.bincount(plan, minlength=drawn.shape[1])
    return drawn


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.3])
def test_draws_of_an_epoch_are_those_of_the_closed_form(index, threshold):
    order = order_of(index, Resampling(threshold=threshold))
    exact, groups = factors(threshold).sum(), len(index.groups)
    unsure = sum(np.diff(factor_bounds(group, threshold))[0] / 2 * group.images for group in index.groups)
    assert abs(order.draws - exact) <= groups + unsure
    if groups > 4:
        assert unsure == 0 and quantization([index], threshold) == pytest.approx(0)


def test_classes_come_as_often_as_the_closed_form_says(index):
    threshold, count = 0.3, 200
    drawn = epochs(order_of(index, Resampling(threshold=threshold)), count)
    images = images_in_order(index)
    tolerance = quantization([index], threshold)
    for number in range(CLASSES):
        having = [place for place, image in enumerate(images) if number in LABELS[image]]
        expected = factors(threshold)[images[having]].sum()
        found = drawn[:, having].sum(1).mean()
        assert found == pytest.approx(expected, rel=tolerance + 0.02)


def test_fractions_are_drawn_afresh_each_epoch(index):
    order = order_of(index, Resampling(threshold=0.3))
    drawn = epochs(order, 100)
    repeat = np.repeat(order.repeats, [group.images for group in index.groups])
    assert ((drawn == np.floor(repeat)) | (drawn == np.floor(repeat) + 1)).all()
    assert len({row.tobytes() for row in drawn}) == 100
    fraction = repeat % 1
    spread = np.sqrt(fraction * (1 - fraction) / 100)
    assert (abs(drawn.mean(0) - repeat) <= 5 * spread + 0.03).all()  # the group's draws are a whole number


def test_a_wanted_size_gives_the_threshold(index):
    for size in (IMAGES, 700, 1000):
        order = order_of(index, Resampling(epoch_size=size))
        assert abs(order.draws - size) <= len(index.groups)
    given = threshold_of(Resampling(epoch_size=1000), [index])
    assert draws([index], given) == pytest.approx(1000)
    if len(index.groups) > 4:
        assert factors(given).sum() == pytest.approx(1000)
    images = factors(given)[images_in_order(index)]
    ends = np.cumsum([group.images for group in index.groups])
    repeats = order_of(index, Resampling(epoch_size=1000)).repeats
    for group, own, repeat in zip(index.groups, np.split(images, ends[:-1]), repeats, strict=True):
        unsure = np.diff(factor_bounds(group, given))[0] / 2  # nothing, where a group is of one frequency
        assert repeat == pytest.approx(own.mean(), abs=unsure + 1e-9)
        assert unsure == 0 or group.lowest < given < group.highest
    with pytest.raises(ConfigError, match="100 cannot be had: an epoch has 600 draws without resampling and at most"):
        order_of(index, Resampling(epoch_size=100))


def test_the_mean_factor_of_a_group_lies_between_its_bounds():
    rng = np.random.default_rng(0)
    for _ in range(200):
        frequencies = np.exp(rng.uniform(-8, 0, rng.integers(1, 20)))
        mean = float((frequencies**-0.5).mean())
        group = Group(1, len(frequencies), float(frequencies.min()), float(frequencies.max()), mean)
        threshold = float(np.exp(rng.uniform(-8, 0)))
        low, high = factor_bounds(group, threshold)
        exact = np.maximum(1, np.sqrt(threshold / frequencies)).mean()
        assert low - 1e-9 <= exact <= high + 1e-9


def test_groups_must_be_there_and_be_those_of_the_shards(index, tmp_path: Path):
    plain = read_index(index.source, 10)
    text = read_file(index.source, "dataset.json", 10).decode()
    path = index.source.path("dataset.json")
    shards, images = index.groups[0].shards, index.groups[0].images
    cases = {
        text.replace('"groups"', '"none"'): f"data.train.resampling: {path} names no groups of shards, "
        "which resampling needs: it was made without --groups",
        text.replace(f'"shards": {shards}', f'"shards": {shards + 1}', 1): "they are of two datasets",
        text.replace(f'"images": {images}', f'"images": {images + 1}', 1): "other numbers of images than index.json",
        "{": "damaged",
    }
    for changed, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            with_groups(plain, changed.encode())


def test_every_world_reads_the_same_and_a_repeated_image_gets_another_crop(tmp_path: Path):
    folder = write_labelled(tmp_path / "data", LABELS)
    train = {"remote": str(folder), "num_canonical_nodes": 4, "resampling": Resampling(threshold=0.3)}
    scenario = {"train": train, "columns": ["labels"], "classes": CLASSES}
    rows = {}
    for world_size in (1, 2):
        (ranks,) = reader.run([{**scenario, "scratch": str(tmp_path / f"s{world_size}")}], world_size)
        assert [rank["error"] for rank in ranks] == [None] * world_size
        rows[world_size] = sorted(row for rank in ranks for row in rank["rows"])
        assert all(labels == LABELS[int(name)] for *_, name, _, labels in rows[world_size])
    assert rows[1] == rows[2]
    of_image: dict[str, list[int]] = {}
    for *_, name, crc, _ in rows[1]:
        of_image.setdefault(name, []).append(crc)
    repeated = [crcs for crcs in of_image.values() if len(crcs) > 1]
    assert len(repeated) > 50
    assert np.mean([len(set(crcs)) == len(crcs) for crcs in repeated]) > 0.99


@pytest.mark.parametrize("resampling", [Resampling(), Resampling(threshold=0.1, epoch_size=10)])
def test_threshold_or_size_is_needed_not_both(resampling):
    run = reader.settings({"train": {"local": "data", "resampling": resampling}, "scratch": "scratch"})
    assert Problem("data.train.resampling", "needs threshold or epoch_size, one of them") in contradictions(run)


def test_a_changed_resampling_is_refused_at_resume():
    same = {"algorithm": 1, "streams": [], "seed": 0, "global_train_batch_size": 8, "num_canonical_nodes": 1}
    same |= {"repeated_augmentation": 1, "shuffle": True, "shuffle_block_size": 1}
    first = {**same, "resampling": {"draws": 1200, "groups": [[3, 1.5]]}}
    second = {**same, "resampling": {"draws": 1300, "groups": [[3, 1.6]]}}
    assert changes(first, first) == changes(same, {**same, "resampling": None}) == []
    for saved, message in ((first, "was 1,200 draws per epoch, is 1,300"), (same, "was none, is 1,300")):
        (problem,) = changes(saved, second)
        assert problem.path == "data.train.resampling" and problem.message.startswith(message)


def images_in_order(index) -> np.ndarray:
    """Which image lies at each place of the shards: see `write_labelled`."""
    order = np.array(sorted(range(IMAGES), key=lambda i: -RAREST[i]))
    assert [group.images for group in index.groups] == [
        int(((group.lowest <= RAREST) & (group.highest >= RAREST)).sum()) for group in index.groups
    ]
    return order
