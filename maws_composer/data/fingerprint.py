"""What determines the order of an epoch, kept with a checkpoint so that a resumed run cannot go on in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maws_composer.config.problems import Problem
from maws_composer.data.guards import DataStream
from maws_composer.data.order import Order, TrainOrder
from maws_composer.data.own import OwnDataset

_KEYS = {
    "seed": "seed",
    "global_train_batch_size": "global_train_batch_size",
    "repeated_augmentation": "data.train.repeated_augmentation",
    "num_canonical_nodes": "data.train.num_canonical_nodes",
    "shuffle": "data.train.shuffle",
    "shuffle_block_size": "data.train.shuffle_block_size",
}
_ADVICE = "; the order of samples would change. Set it back, or start a new run in another save_folder"


def fingerprint(order: Order, streams: Sequence[DataStream]) -> dict[str, Any]:
    """Everything that determines the order, as plain values; where the shards are is no part of it."""
    if not isinstance(order, TrainOrder):
        return {}
    parts = [
        {
            "name": stream.source.name,
            "repeat": stream.source.repeat,
            "samples": int(stream.index.sizes.sum()),
            "shards": stream.index.digest,
        }
        for stream in streams
    ]
    resampling = None
    if any(stream.index.groups for stream in streams):
        groups = zip(order.shards_per_stream, order.repeats, strict=True)
        resampling = {"draws": order.draws, "groups": [list(group) for group in groups]}
    return {**order.fingerprint(), "streams": parts, "resampling": resampling}


def own_fingerprint(order: Order, own: OwnDataset) -> dict[str, Any]:
    """The same of a user's dataset: its length, and what it says of itself; its arguments are compared as keys are."""
    if not isinstance(order, TrainOrder):
        return {}
    part = {
        "name": "train",
        "repeat": order.repeats[0],
        "samples": own.size,
        "shards": None,
        "dataset": own.name,
        "fingerprint": own.fingerprint,
    }
    return {**order.fingerprint(), "streams": [part], "resampling": None}


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[Problem]:
    """What makes the order another one than the checkpoint's."""
    if not now:
        return []
    if saved.get("algorithm") != now["algorithm"]:
        message = f"the checkpoint's order is of version {saved.get('algorithm')}, this program's of {now['algorithm']}"
        return [Problem("data.train", message)]
    saved = {"repeated_augmentation": 1, **saved}  # an older checkpoint knows nothing else
    problems = [
        Problem(key, f"was {saved[name]}, is {now[name]}{_ADVICE}")
        for name, key in _KEYS.items()
        if saved[name] != now[name]
    ]
    before, after = ([stream["name"] for stream in part["streams"]] for part in (saved, now))
    if before != after:
        return [*problems, Problem("data.train.streams", f"were {', '.join(before)}, are {', '.join(after)}{_ADVICE}")]
    for was, stream in zip(saved["streams"], now["streams"], strict=True):
        problems += _stream_changes(was, stream)
    if not problems and saved.get("resampling") != now["resampling"]:
        was, is_now = (_drawn(part.get("resampling")) for part in (saved, now))
        problems.append(Problem("data.train.resampling", f"was {was}, is {is_now}{_ADVICE}"))
    return problems


def _drawn(resampling: Mapping[str, Any] | None) -> str:
    return "none" if resampling is None else f"{resampling['draws']:,} draws per epoch"


def _stream_changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Problem]:
    key = "data.train" if now["name"] == "train" else f"data.train.streams.{now['name']}"
    problems = []
    if was["repeat"] != now["repeat"]:
        problems.append(Problem(f"{key}.repeat", f"was {was['repeat']:g}, is {now['repeat']:g}{_ADVICE}"))
    same = ("shards", "samples", "dataset", "fingerprint")
    if [was.get(name) for name in same] == [now.get(name) for name in same]:
        return problems
    if was["shards"] and now["shards"]:
        told = f"held {was['samples']} samples, holds {now['samples']} in other shards"
    else:
        told = f"was {_content(was)}, is {_content(now)}"
    return [*problems, Problem(key, told + _ADVICE)]


def _content(stream: Mapping[str, Any]) -> str:
    if stream["shards"]:
        return f"{stream['samples']} samples in shards"
    told = f"{stream['samples']} samples of the dataset {stream['dataset']}"
    return told if stream["fingerprint"] is None else f"{told}, fingerprint {stream['fingerprint']!r:.80}"
