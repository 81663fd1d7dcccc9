"""What a rank says at its end."""

from __future__ import annotations

import pytest

from maws_composer.checkpoints.writing import SaveError
from maws_composer.config.problems import ForeseenError
from maws_composer.outages import StorageError
from maws_composer.parallel.leave import work_and_leave
from maws_composer.resilience.bad_samples import TooManyBadSamplesError
from maws_composer.resilience.loss_spikes import DivergedError


@pytest.mark.parametrize("kind", [SaveError, StorageError, TooManyBadSamplesError, DivergedError])
def test_a_foreseen_end_is_one_sentence_and_exit_code_1(kind: type[ForeseenError]) -> None:
    def work() -> None:
        raise kind("the disk is full; make room there")

    with pytest.raises(SystemExit) as left:
        work_and_leave("run.yaml", work)
    # Python prints a text to stderr, without a traceback, and exits with 1
    assert left.value.code == f"{kind.__name__}: the disk is full; make room there"


def test_what_nobody_foresaw_keeps_its_traceback() -> None:
    def work() -> None:
        raise KeyError("image_size")

    with pytest.raises(KeyError):
        work_and_leave("run.yaml", work)
