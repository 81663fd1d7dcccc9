"""Which differences between two configurations change results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from maws_composer.config.secrecy import MASK, mask

# What changes speed, reports, or where things lie. Not max_duration: the learning rate's schedule follows from it.
# What is done about the next loss spike may change: what was done about the last ones is kept with the run.
_WITHOUT_EFFECT = re.compile(
    r"(speed|loggers|callbacks|preemption|watchdog)(\.|$)"
    r"|(code_paths|run_name|save_\w+|storage_patience|eval_interval|allow_changed_config)$"
    r"|loss_spikes\.(action|skip_\w+|max_\w+)$"
    r"|data\.eval(\.|$)|data\.train\.(max_bad_share|max_left_out_share)$"
    r"|data\.train\.(streams\.[^.]+\.)?(remote|local|download_\w+|cache_limit|validate_hash)$"
)

# Keys that came later -> what was done before, where that is not null, false or an empty section.
_LATER = {"data.train.repeated_augmentation": 1, "data.train.decode": "exact"}


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted keys that affect results and differ, sorted. Credentials, which a saved configuration hides, are equal."""
    before, now = ({**_LATER, **leaves(mask(config))} for config in (old, new))
    return [key for key in sorted({*before, *now}) if _differ(key, before, now)]


def _differ(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if _WITHOUT_EFFECT.match(key):
        return False
    # A checkpoint may be older than a key: null, false and an empty section are as good as absent.
    old, new = (None if value is False or value == {} else value for value in (before.get(key), now.get(key)))
    return old != new and not (MASK in str(old) or MASK in str(new))


def leaves(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = {} if isinstance(value, Mapping) else value
    return found
