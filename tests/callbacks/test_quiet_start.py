"""What Composer warns of at each start, and nobody can do anything about, is not shown; all else is."""

from __future__ import annotations

import warnings
from pathlib import Path

from maws_composer.parallel.shard import already_sharded
from tests.callbacks.training import fit


def shown(caught: list[warnings.WarningMessage]) -> list[str]:
    texts = [str(warning.message) for warning in caught]
    return [text for text in texts if "_fsdp_wrap" in text or "FSDP2" in text or "is not in the state_dict" in text]


def test_a_start_and_a_resumption_are_quiet(tmp_path: Path) -> None:
    algorithms = "algorithms.gradient_clipping.clipping_threshold=0.1"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path / "a", {}, 4, "save_interval=2ba", algorithms)
        half = str(tmp_path / "a" / "checkpoints" / "ep0-ba2")
        fit(tmp_path / "b", {}, 4, algorithms, resume_from=half)
        assert shown(caught) == []
        warnings.warn("FSDP2 is what my callback warns of", stacklevel=1)
    assert shown(caught) == ["FSDP2 is what my callback warns of"]


def test_asking_for_the_settings_leaves_filters_as_they_were() -> None:
    before = list(warnings.filters)
    already_sharded()
    assert warnings.filters == before
