"""Weights of a text tower are looked for before a run begins, and nothing in them is run."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from maws_composer.models.text_tower import TextSettings, read_text_weights
from maws_composer.weights.pretrained_text import text_weight_problems
from tests.text_towers import write_text_tower


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    folder = write_text_tower(tmp_path)
    assert text_weight_problems(str(folder)) == []
    (folder / "model.safetensors").unlink()
    (problem,) = text_weight_problems(str(folder))
    assert problem.path == "model.text.name"
    assert problem.message.startswith(f"{folder} has neither *.safetensors nor pytorch_model.bin")


def test_weights_that_are_not_to_be_had_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (problem,) = text_weight_problems("somebody/encoder")
    assert problem.message.startswith("the weights of somebody/encoder cannot be had (")
    assert "`hf download somebody/encoder --local-dir FOLDER` elsewhere, and name that folder here" in problem.message


def test_weights_in_the_cache_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.try_to_load_from_cache", lambda *, filename, **rest: (
        str(tmp_path) if filename == "pytorch_model.bin" else None
    ))  # fmt: skip
    assert text_weight_problems("somebody/encoder") == []


def test_pickled_text_weights_are_not_run(tmp_path: Path) -> None:
    folder = write_text_tower(tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Harmful(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"the weights of .*pickled cannot be read"):
        read_text_weights(TextSettings(name=str(folder), context_length=20))
    assert not (tmp_path / "ran").exists()


class Harmful:
    """Unpickled in full, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
