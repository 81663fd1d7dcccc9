"""The losses of 50 steps on generated arrays, as they have been since the golden file was written.

A change that should not alter results leaves tests/golden/ untouched. One that should renews the file of its torch
version with `python -m pytest tests/test_golden_losses.py --renew-golden`, and says why in its message.
"""

import json
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose

from tests.processes import run_ranks

STEPS = Path(__file__).parent / "golden_steps.py"


def test_losses_are_the_golden_ones(request: pytest.FixtureRequest) -> None:
    version = ".".join(torch.__version__.split(".")[:2])
    golden = Path(__file__).parent / "golden" / f"mae-torch{version}.json"
    losses = run_ranks(STEPS, {}, world_size=1)[0]["losses"]
    assert len(losses) == 50
    if request.config.getoption("--renew-golden"):
        golden.write_text(json.dumps([round(loss, 7) for loss in losses], indent=1) + "\n")
    if not golden.exists():
        pytest.skip(f"no golden losses for torch {version}")
    assert_allclose(losses, json.loads(golden.read_text()), rtol=1e-4)
