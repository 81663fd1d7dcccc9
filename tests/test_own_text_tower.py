"""A user's own text tower: trained as LiT, kept, evaluated, and told what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from maws_composer import registry
from maws_composer.checkpoints.saving import TEXT_FILE
from maws_composer.config.problems import ConfigError
from maws_composer.data.own_text import has_dropout, text_problems, tokenizer_of
from maws_composer.evaluation.towers import find_image_text, load_towers
from maws_composer.models.text_tower import TextSettings
from maws_composer.parallel.materialize import materialize
from maws_composer.stages.lit import LitStage
from maws_composer.weights import image_text
from maws_composer.weights.export import export
from maws_composer.weights.text_identity import text_difference, text_identity
from tests.evaluation.lit import NAMES, write_captioned, write_lit
from tests.evaluation.test_evaluate import evaluate
from tests.runs import Runs
from tests.test_lit_training import lit  # noqa: F401
from tests.test_training import same_curve

USER = Path(__file__).parent / "plugins" / "user" / "text.py"
CONTEXT = 12
TEXT = TextSettings(name="my_bytes", arguments={"width": 16, "depth": 2}, pretrained=False, context_length=CONTEXT)
TEXTS = ["a red square", "ein rotes Quadrat", "赤い四角"]


@pytest.fixture(autouse=True)
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers goes again."""
    registry.load_plugins(["maws_composer.stages", "maws_composer.weights.export", USER])
    monkeypatch.setattr(registry, "_entries", {named: dict(places) for named, places in registry._entries.items()})


def make_stage() -> LitStage:
    with torch.device("meta"):
        stage = LitStage("vit_micro", 24, text=TEXT, embed_dim=8, run=SimpleNamespace(seed=3))
    materialize(stage, torch.device("cpu"), seed=3)
    return stage


def test_a_step_is_that_of_the_closed_form_and_trains_all_of_the_tower() -> None:
    stage = make_stage()
    tokens = tokenizer_of(TEXT)(TEXTS)
    generator = torch.Generator().manual_seed(0)
    batch: dict[str, Any] = {
        "image": torch.randint(256, (3, 3, 24, 24), dtype=torch.uint8, generator=generator),
        "epoch": torch.zeros(3, dtype=torch.int64),
        "position": torch.arange(3),
        **tokens,
    }
    pairs = stage(batch)
    loss = stage.loss(pairs, batch)
    tower, projection = stage.clip.text, stage.clip.text_projection
    one_by_one = [tower(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64)) for ids in cut(TEXTS)]
    expected = normalize(projection(torch.cat(one_by_one)), dim=1)  # without filling up
    torch.testing.assert_close(pairs.text, expected)
    logits = pairs.image @ expected.T / 0.07
    target = torch.arange(3)
    torch.testing.assert_close(loss, (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in tower.parameters())


def cut(texts: list[str]) -> list[list[int]]:
    return [[byte + 1 for byte in text.encode()][:CONTEXT] for text in texts]


def test_tokens_are_cut_filled_up_and_masked() -> None:
    tokens = tokenizer_of(TEXT)([TEXTS[0], "ab"])
    assert tokens["input_ids"].dtype == tokens["attention_mask"].dtype == torch.int64
    assert tokens["input_ids"].tolist() == [cut(TEXTS)[0], [98, 99] + [0] * 10]
    assert tokens["attention_mask"].sum(1).tolist() == [12, 2]


def test_what_it_costs_is_counted_and_its_blocks_are_sharded() -> None:
    stage = make_stage()
    workload = LitStage.workload("vit_micro", 24, False, TEXT, 8, True, False, "softmax", False)
    assert workload.parameters.total == sum(parameter.numel() for parameter in stage.parameters())
    first = stage.clip.text.layers[0]
    assert workload.stacks[1].parameters_per_block == sum(parameter.numel() for parameter in first.parameters())
    assert workload.parameters_outside_blocks > 0
    assert stage.blocks()[-2:] == [*stage.clip.text.layers]


@pytest.mark.parametrize("module", [nn.AlphaDropout(0.1), nn.MultiheadAttention(4, 2, dropout=0.1)])
def test_dropout_of_other_kinds_is_seen(module: nn.Module) -> None:
    assert has_dropout(nn.Sequential(module)) and not has_dropout(nn.MultiheadAttention(4, 2))


def test_a_tower_that_names_its_arguments_otherwise_is_told_before_training() -> None:
    class Otherwise(registry.lookup("text_tower", TEXT.name).builder):  # type: ignore[misc]
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return super().forward(ids, mask)

    registry.register("text_tower", "otherwise")(Otherwise)
    (problem,) = text_problems(replace(TEXT, name="otherwise"))
    assert problem.path == "model.text.name" and "unexpected keyword argument 'input_ids'" in problem.message


def test_dropout_of_its_own_is_the_same_in_both_passes_of_a_step() -> None:
    stage = make_stage().train()
    assert not has_dropout(stage.clip.text)
    stage.clip.text.layers[0].dropout1.p = 0.5
    assert has_dropout(stage.clip.text)
    stage._draws = True
    batch = {"epoch": torch.zeros(3, dtype=torch.int64), "position": torch.arange(3), **tokenizer_of(TEXT)(TEXTS)}
    batch["image_embedding"] = torch.zeros(3, 128)
    first, second = stage(batch), stage(batch)
    assert torch.equal(first.text, second.text)
    other = stage({**batch, "position": torch.arange(3) + 3})
    assert not torch.equal(first.text, other.text)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A LiT run's weights, with the tower, and the model."""
    registry.load_plugins([USER])
    folder = tmp_path_factory.mktemp("saved")
    return folder, write_lit(folder, TEXT)


def test_it_is_evaluated_from_its_weights(saved: tuple[Path, Any]) -> None:
    folder, model = saved
    found = find_image_text(str(folder / "lit"))
    assert found is not None and found.text == TEXT
    embeddings = load_towers(found, torch.device("cpu"), "fp32").encode_text(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(embeddings, model.encode_text(**tokenizer_of(TEXT)(TEXTS)))


def test_it_is_exported_whole_and_not_as_what_it_is_not(saved: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = saved
    for to, out in (("hf", "out"), ("maws", "out.pt")):
        with pytest.raises(ConfigError, match="my_bytes is a text tower of a plugin, which only its code can run: use"):
            export(str(folder / "lit"), to, tmp_path / out)


def test_without_its_code_nobody_is_asked_for_a_model_of_its_name(
    saved: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {TEXT_FILE: text_identity(TEXT)}
    monkeypatch.setattr(image_text, "_read_beside", lambda model, name: kept.get(name))
    assert find_image_text(str(saved[0] / "lit")).text == TEXT
    del registry._entries["text_tower", "my_bytes"]
    with pytest.raises(ConfigError, match="my_bytes, is a plugin that is not here; say where with --code-path"):
        find_image_text(str(saved[0] / "lit"))


def test_another_tokenizer_or_other_arguments_are_told() -> None:
    kept = json.loads(json.dumps(text_identity(TEXT)))
    assert text_difference(kept, text_identity(TEXT)) is None
    wider = TextSettings(name="my_bytes", arguments={"width": 32, "depth": 2}, pretrained=False, context_length=CONTEXT)
    assert text_difference(kept, text_identity(wider)) == (
        "my_bytes has another configuration than my_bytes had: width was 16, is 32"
    )
    (entry,) = registry._entries["text_tower", "my_bytes"].values()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(entry.builder, "tokenize", lambda self, text: [1])
        assert "has another tokenizer" in str(text_difference(kept, text_identity(TEXT)))


class Tower(nn.Module):
    """Sound; each test spoils one thing."""

    width, vocabulary = 4, 10

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def tokenize(self, text: str) -> list[int]:
        return [3]

    def blocks(self) -> list[nn.Module]:
        return []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.table(input_ids)[:, 0]


def lost_buffer(self: Tower) -> None:
    nn.Module.__init__(self)
    self.register_buffer("positions", torch.arange(3))


SPOILED: dict[str, tuple[dict[str, Any], str]] = {
    "no width": ({"width": None}, "has no width; expected width, vocabulary, tokenize(text), blocks() and forward("),
    "an id too high": ({"tokenize": lambda self, text: [10]}, "given made [10] of '  A photo of two"),
    "no ids": ({"tokenize": lambda self, text: []}, "expected ids below 10"),
    "a strange block": ({"blocks": lambda self: [nn.Linear(1, 1)]}, "has blocks() that are no modules of it"),
    "a buffer": (
        {"__init__": lost_buffer},
        "has a buffer positions, which the meta device empties: give it device='cpu'",
    ),
    "all tokens": (
        {"forward": lambda self, input_ids, attention_mask: self.table(input_ids)},
        "given makes (11, 12, 4)",
    ),
    "fails": ({"forward": lambda self, input_ids, attention_mask: self.tabel}, "no attribute 'tabel'"),
    "fails at once": ({"__init__": lambda self: 1 / 0}, "cannot be made:\nTraceback (most recent call last):\n"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_is_no_text_tower_is_told_before_training(what: str) -> None:
    spoiled, told = SPOILED[what]
    registry.register("text_tower", "given")(type("Given", (Tower,), spoiled))
    (problem,) = text_problems(TextSettings(name="given", pretrained=False, context_length=CONTEXT))
    assert problem.path == "model.text.name" and told in problem.message
    assert what in ("an id too high", "no ids", "all tokens", "fails") or __file__ in problem.message


def test_wrong_arguments_are_named() -> None:
    wrong = TextSettings(name="my_bytes", arguments={"widht": 16}, pretrained=False)
    (problem,) = text_problems(wrong)
    assert problem.message == "text.arguments.widht: unknown key; nearest is width"
    (problem,) = text_problems(TextSettings(name="somebody/encoder", arguments={"width": 16}))
    assert problem.path == "model.text.arguments" and "somebody/encoder is none" in problem.message
    for changed, told in (({"pretrained": True}, "set it to false"), ({"dropout": 0.1}, "is of Hugging Face's towers")):
        with pytest.raises(ValueError, match=told):
            LitStage("vit_micro", 24, text=TextSettings(**{**vars(TEXT), **changed}), run=SimpleNamespace(seed=0))


@pytest.mark.slow
def test_a_run_with_it_is_elastic_and_evaluated(lit: Runs, tmp_path: Path) -> None:  # noqa: F811
    own = (
        f"code_paths=[{USER}]", "model.text={name: my_bytes, pretrained: false, context_length: 16}",
        "max_duration=320sp", "eval_interval=10ba", "save_interval=5ba", "optimizer.base_lr=0.01",
    )  # fmt: skip
    whole = lit("own", *own)
    assert whole.code == 0, whole.output
    lit("own-cut", *own, "speed.device_train_microbatch_size=3", "speed.sharding.shard=2", processes=2, kill_after=12)
    cut_run = lit("own-cut", *own, "speed.device_train_microbatch_size=5")
    same_curve(cut_run, whole)
    write_captioned(tmp_path / "test", 37)
    evaluation = {
        "weights": str(cut_run.folder),
        "code_paths": [str(USER)],
        "data": {"test": {"local": str(tmp_path / "test")}},
        "evaluations": {"zero_shot": {"languages": list(NAMES), "class_names": str(tmp_path / "test" / "names.yaml")}},
        "speed": {"device_eval_batch_size": 16, "workers": 0, "scratch_folder": str(tmp_path / "scratch")},
    }
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(evaluation))
    finished = evaluate(tmp_path, f"save_folder={tmp_path}/out")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())["evaluations"]
    assert "en/top1" in results["zero_shot"]["figures"]
