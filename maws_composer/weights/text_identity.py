"""Whether a text tower is given the tokens, and computes in the way, that it was trained with.

A folder may hold another tokenizer today than when a run began; its weights would not tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from maws_composer.data.own_text import is_own, tokenizer_of
from maws_composer.models.text_tower import TextSettings, text_config

# Of configurations: where they are from, and who wrote them.
_WITHOUT_EFFECT = ("_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype")
_SHOWN = 4  # keys that differ


def text_identity(settings: TextSettings) -> dict[str, Any]:
    """What `text.json` keeps: the name, whether it is a plugin's, the tokenizer's digest, and the configuration but for
    dropout; of a plugin, its arguments.

    Raises:
        ConfigError: there is no such tokenizer.
        ValueError: see `text_config`.
    """
    told = settings.arguments if is_own(settings) else text_config(settings).to_dict()
    config = json.loads(json.dumps(told, default=str))
    return {
        "name": settings.name,
        "is_plugin": is_own(settings),
        "tokenizer": tokenizer_of(settings).digest(),
        "config": {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT and "dropout" not in key},
    }


def text_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How two differ, as a sentence about `now`; None if they do not.

    Only what both configurations name is compared: versions of transformers add keys of their own.
    """
    if before["tokenizer"] != now["tokenizer"]:
        return f"{now['name']} has another tokenizer than {before['name']} had, with which the text tower was trained"
    was, config = before["config"], now["config"]
    if changed := [key for key in was if key in config and was[key] != config[key]]:
        told = ", ".join(f"{key} was {was[key]}, is {config[key]}" for key in changed[:_SHOWN])
        return f"{now['name']} has another configuration than {before['name']} had: {told}"
    return None
