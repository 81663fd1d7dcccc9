"""Matrix products are as exact as `precision` says, whatever Composer switches on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from composer.utils import get_device

from maws_composer.parallel.precision import build_device, insist_on_precision, require_precision


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretended."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [kind.allow_tf32 for kind in kinds]
    yield
    for kind, allowed in zip(kinds, before, strict=True):
        kind.allow_tf32 = allowed


def test_the_device_that_composer_makes_for_itself_does_not_decide() -> None:
    build_device("fp32")
    get_device()  # as its Trainer does, to look at a sharded model
    with pytest.raises(RuntimeError, match="TF32 was switched on after the device was built"):
        require_precision("fp32")
    insist_on_precision("fp32")
    require_precision("fp32")
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["tf32", "amp_bf16"])
def test_others_allow_it(precision: str) -> None:
    build_device(precision)
    insist_on_precision(precision)
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
