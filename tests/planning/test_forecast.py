"""Forecasts against what FSDP2 sends and autograd keeps, and against arithmetic by hand."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import DistilBertConfig

from maws_composer.cli import main, option_types
from maws_composer.config.plugins import load_with_ours
from maws_composer.config.run import Run
from maws_composer.planning.dry_run import dry_run
from maws_composer.planning.forecast import Cluster, forecast
from maws_composer.planning.forecast_table import describe
from maws_composer.planning.plan import memory_of, workload_of
from tests.processes import ROOT
from tests.text_towers import write_text_tower

slow = pytest.mark.slow
KEPT, RESHARDED = (f"speed.sharding.reshard_after_forward={reshards}" for reshards in ("false", "true"))


def recipe(name: str, *given: str) -> Run:
    return load_with_ours(ROOT / "yamls" / f"{name}.yaml", ["data.train.remote=s3://b/x", *given]).run


@pytest.mark.parametrize(
    ("name", "gpus", "given"),
    [
        ("mae_vitb", 8, []),  # one group of shards in one node
        ("wsp_vitb", 16, []),  # replicas on two nodes, two passes a step
        pytest.param("wsp_vitb", 4, ["speed.sharding.shard=2"], marks=slow),  # replicas in one node
        pytest.param("mae_vitb", 16, ["speed.sharding.shard=16", "precision=fp32"], marks=slow),  # shards on two nodes
        ("mae_vitb", 64, ["speed.sharding.shard=64"]),  # positions and class tokens are no longer than one of 64 shards
        pytest.param("mae_vitb", 8, ["speed.activation_checkpointing=all"], marks=slow),
        ("mae_vitb", 8, [KEPT, "precision=fp32", "speed.device_train_microbatch_size=16"]),
        pytest.param("mae_vitb", 8, [RESHARDED], marks=slow),
    ],
)
def test_what_is_sent_kept_and_needed_is_what_a_dry_run_sees(name: str, gpus: int, given: list[str]) -> None:
    planned = forecast(recipe(name, *given), Cluster(gpus=gpus))
    tried = dry_run(planned.run, gpus, planned.microbatch)
    sent = {"node": planned.communication.within_node, "network": planned.communication.between_nodes}
    assert sum(sent.values()) / planned.passes == pytest.approx(tried.total_received, rel=0.001)
    assert planned.memory.tensors == pytest.approx(tried.peak, rel=0.05)
    if planned.run.speed.activation_checkpointing == "none":  # what it keeps, autograd's hooks do not see
        assert planned.memory.kept == pytest.approx(tried.kept, rel=0.05)
    if name == "wsp_vitb" and gpus == 16:
        assert sent["network"] / planned.passes == pytest.approx(tried.received["allreduce"], rel=0.01)
    else:
        assert (sent["network"] > 0) == (gpus > 8)


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["model.lock_image_tower=false", "precision=fp32"],
        ["model.image_embeddings=true", "speed.activation_checkpointing=all"],
        [RESHARDED],
    ],
)
def test_lit_needs_what_a_dry_run_sees(tmp_path: Path, given: list[str]) -> None:
    tower = write_text_tower(tmp_path, width=384, depth=3, heads=6, positions=90, rows=20_000)
    of_text = [f"model.text.name={tower}", "model.text.context_length=77", "initialize_from=/encoder"]
    batch = ["global_train_batch_size=512", "speed.device_train_microbatch_size=64"]
    planned = forecast(recipe("lit_vitb", *of_text, *batch, *given), Cluster(gpus=8))
    tried = dry_run(planned.run, 8, planned.microbatch)
    assert planned.communication.within_node == pytest.approx(tried.total_received, rel=0.1)  # and embeddings
    assert planned.memory.tensors == pytest.approx(tried.peak, rel=0.1)


@pytest.mark.parametrize("name", ["wsp_vitb", "lit_vitb"])
def test_blocks_that_stay_are_gathered_half_as_often(tmp_path: Path, name: str) -> None:
    one_pass = ["global_train_batch_size=64", "speed.device_train_microbatch_size=auto"]
    if name == "lit_vitb":
        one_pass += [f"model.text.name={write_text_tower(tmp_path)}", "model.text.context_length=30"]
        one_pass += ["initialize_from=/encoder"]
    kept, resharded = (forecast(recipe(name, policy, *one_pass), Cluster(gpus=8)) for policy in (KEPT, RESHARDED))
    saved = resharded.communication.within_node - kept.communication.within_node
    assert saved == pytest.approx(7 / 8 * 2 * workload_of(kept.run).trained_in_blocks)
    rows = [describe([each]) for each in (kept, resharded)]
    assert "stay gathered for" in rows[0] and "are gathered again for" in rows[1]


def test_the_largest_microbatch_fits_and_one_more_does_not() -> None:
    planned = forecast(recipe("wsp_vith", RESHARDED), Cluster(gpus=64, kind="a100"))
    needed = [
        memory_of(planned.run, workload_of(planned.run), 64, size).total
        for size in (planned.largest_microbatch, planned.largest_microbatch + 1)
    ]
    assert needed[0] <= 80e9 < needed[1]


def test_time_cost_and_reading_follow_from_flops() -> None:
    planned = forecast(recipe("mae_vit2b"), Cluster(gpus=64, mfu=0.5))
    seconds = 5e9 * workload_of(planned.run).training_flops / (0.5 * 989e12 * 64)
    assert planned.seconds == pytest.approx(seconds)
    assert planned.gpu_hours == pytest.approx(64 * seconds / 3600)
    assert planned.images_per_second == pytest.approx(5e9 / seconds)
    assert [forecast(recipe(name), Cluster(gpus=64)).steps for name in ("mae_vit2b", "wsp_vit2b")] == [
        1_220_704,
        610_352,
    ]  # FACTS 2.2: 1.22 M and 610 k


def test_several_runs_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = [str(ROOT / "yamls" / name) for name in ("mae_vitb.yaml", "wsp_vitb.yaml")]
    picture = tmp_path / "plan.svg"
    given = ["data.train.remote=s3://b/x", "--gpus", "8", "--price", "2 USD", "--mfu", "0.3", "--image-kb", "100"]
    code = main(["plan", *configs, *given, "--network", "800", "--plot", str(picture), "--dry-run"])
    table, *dry_runs = capsys.readouterr().out.split("\n\n")
    assert code == 0 and len(dry_runs) == 2
    rows = {line[:19].strip(): line[19:] for line in reversed(table.splitlines())}  # of wrapped cells the first line
    assert rows[""].split() == ["mae-vitb", "wsp-vitb"]
    hours = [float(cell.replace(",", "")) for cell in rows["time"].split() if cell.replace(",", "").isdigit()]
    costs = [float(cost.replace(",", "")) for cost in rows["cost"].split()[::2]]
    assert rows["cost"].split()[1::2] == ["USD", "USD"]
    assert costs == pytest.approx([2 * each for each in hours], abs=2)
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    ("price", "cost"),
    [("2.5 USD", "2,500 USD"), ("€2.5", "2,500 €"), ("2.5", "2,500 (in the unit of --price)"), (None, "unknown")],
)
def test_a_cost_is_in_the_unit_of_the_price(price: str | None, cost: str) -> None:
    given = option_types.price(price) if price else None
    planned = forecast(recipe("mae_vitb"), Cluster(gpus=8, price=given))
    share = 1000 / planned.gpu_hours  # of the run, so that it takes 1,000 GPU-hours
    run = replace(planned.run, max_duration=f"{round(5e9 * share)}sp")
    (told,) = (line for line in describe([replace(planned, run=run)]).splitlines() if line.startswith("cost"))
    assert told.removeprefix("cost").strip().startswith(cost)


@pytest.mark.parametrize("price", ["USD", "0", "-2", "2 USD 3", "nan"])
def test_a_price_without_an_amount_is_refused(price: str) -> None:
    with pytest.raises(ArgumentTypeError, match="an amount above 0"):
        option_types.price(price)


def test_of_an_unknown_gpu_is_said_which_are_known() -> None:
    with pytest.raises(ArgumentTypeError, match="nothing is known of a GPU called 'MI300'; there are a100, "):
        option_types.gpu("MI300")
    assert option_types.gpu("H100") == "h100"


def test_gpus_that_do_not_fill_nodes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(ROOT / "yamls" / "mae_vitb.yaml"), "--gpus", "12"]) == 2
    assert "12 do not fill nodes of 8; use 8 or 16, or say --gpus-per-node" in capsys.readouterr().err


def test_what_is_wrong_with_each_of_several_runs_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    configs = [str(ROOT / "yamls" / name) for name in ("mae_vitb.yaml", "quickstart/mae.yaml", "mae_vitl.yaml")]
    assert main(["plan", *configs, "--gpus", "2"]) == 2
    told = capsys.readouterr()
    assert not told.out
    for config in (configs[0], configs[2]):
        assert f"{config} has 1 problem:\n\n  data.train  needs remote, local, streams or dataset" in told.err
    assert configs[1] not in told.err


def test_keys_without_a_configuration_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "seed=1", "--gpus", "8"]) == 2
    assert "name a YAML before the keys" in capsys.readouterr().err


def test_a_step_that_looks_at_values_is_not_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    DistilBertConfig(**small).save_pretrained(tmp_path)
    config = [str(ROOT / "yamls" / "lit_vitb.yaml"), f"model.text.name={tmp_path}", "model.text.context_length=20"]
    assert main(["plan", *config, "data.train.remote=s3://b/x", "--gpus", "8", "--dry-run"]) == 2
    assert "a step of lit looks at values" in capsys.readouterr().err
