"""A stage begins with the encoder of an earlier one, bit by bit, whatever number of processes wrote or reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.models.sizes import SIZES, ViTSize
from maws_composer.planning.preflight import preflight
from maws_composer.weights.sources import open_encoder
from tests.labelled import long_tailed, write_labelled
from tests.runs import Finished, Runs
from tests.s3_server import S3Server, rclone
from tests.weights import foreign
from tests.weights.saved import autoencoder, same_bytes, save_run

CLASSES = 12
Tensors = dict[str, torch.Tensor]


@pytest.mark.slow
@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
@pytest.mark.timeout(900)
def test_mae_of_two_processes_in_object_storage_begins_wsp_on_one_and_that_begins_wsp_on_two(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.bucket("bucket")
        runs = Runs(tmp_path, images, server.environment)
        wsp = _wsp_recipe(runs, write_labelled(tmp_path / "labelled", long_tailed(200, CLASSES)))

        def run(name: str, *overrides: str, processes: int, config: Path | None = None) -> Finished:
            finished = runs(name, "max_duration=160sp", "code_paths=[tests/plugins]", *overrides,
                            f"save_folder=s3://bucket/{name}", processes=processes, config=config)  # fmt: skip
            assert finished.code == 0, finished.output
            return finished

        def handed_over(source: str, name: str, *overrides: str, processes: int) -> tuple[Finished, Tensors, Tensors]:
            """The run, the encoder with which it began, and the one with which it ended."""
            start = (f"initialize_from=s3://bucket/{source}", f"callbacks.record_encoder.file={tmp_path / name}.pt")
            finished = run(name, *start, *overrides, "seed=1", processes=processes, config=wsp)
            began = torch.load(tmp_path / f"{name}.pt", weights_only=True)
            same_bytes(began, _encoder_in(f"s3://bucket/{source}"))
            return finished, began, _encoder_in(f"s3://bucket/{name}")

        run("mae", processes=2)
        section, labelled = "callbacks.online_evaluation", tmp_path / "labelled"
        online = (f"{section}.every=80sp", f"{section}.evaluations.knn.k=5",
                  *(f"{section}.{part}.local={labelled}" for part in ("train", "test")))  # fmt: skip
        first, began, ended = handed_over("mae", "first", *online, processes=1)
        _told(first, "mae", "20 left there (mask token 1, decoder 19)")
        assert _moved(began, ended) == set(began)  # positions are trained
        assert "knn: top1 " in first.output
        second, began, ended = handed_over("first", "second", "model.fixed_positions=true", processes=2)
        _told(second, "first", "2 left there (head 2)")
        assert _moved(began, ended) == set(began) - {"pos_embed"}


def _wsp_recipe(runs: Runs, labelled: Path) -> Path:
    recipe = yaml.safe_load(runs.recipe.read_text())
    recipe |= {"stage": "wsp", "model": {"size": "vit_micro", "image_size": 24, "num_classes": CLASSES}}
    recipe["data"]["train"] |= {"local": str(labelled), "max_left_out_share": 0.5}
    file = runs.folder / "wsp.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def _encoder_in(source: str) -> Tensors:
    encoder = open_encoder(source)
    return {name: encoder.read(name) for name in encoder.shapes}


def _moved(before: Tensors, after: Tensors) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def _told(run: Finished, source: str, left: str) -> None:
    told = f"encoder from s3://bucket/{source}/checkpoints/ep0-ba10: 54 tensors of 54 taken; {left}; "
    assert run.output.count(f"{told}2 start anew (head 2)") == 1, run.output


@pytest.fixture
def refused(runs: Runs):
    """What preflight says of a miniature run with a wrong source."""

    def problems(source: Path, *overrides: str) -> list[Problem]:
        loaded = load_with_ours(
            runs.recipe, [f"initialize_from={source}", f"save_folder={runs.folder / 'run'}", *overrides]
        )
        with pytest.raises(ConfigError) as caught:
            preflight(loaded, world_size=1, nodes=1)
        return caught.value.problems

    return problems


def saved(file: Path, size: ViTSize, qk_norm: bool = False) -> Path:
    save_file(autoencoder(size, qk_norm).encoder.state_dict(), file)
    return file


def test_another_size_is_refused_before_training_with_its_name(refused, tmp_path: Path) -> None:
    file = saved(tmp_path / "b.safetensors", ViTSize(width=768, depth=12, heads=1, patch_size=16))
    (problem,) = refused(file)
    assert (problem.path, problem.where) == ("initialize_from", "command line")
    assert problem.message == (
        f"{file} does not fit, 150 tensors disagree: it is vit_b16; see model.size\n"
        "cls_token: 1 x 1 x 768 there, 1 x 1 x 128 here\n"
        "pos_embed: 1 x 17 x 768 there, 1 x 17 x 128 here\n"
        "patch_embed.proj.weight: 768 x 3 x 16 x 16 there, 128 x 3 x 6 x 6 here\n"
        "patch_embed.proj.bias: 768 there, 128 here\n"
        "blocks.0.norm1.weight: 768 there, 128 here\n"
        "blocks.0.norm1.bias: 768 there, 128 here\n"
        "... and 144 more"
    )


def test_other_patches_are_refused(refused, tmp_path: Path) -> None:
    file = saved(tmp_path / "patch.safetensors", ViTSize(width=128, depth=4, heads=4, patch_size=4))
    assert refused(file)[0].message == (
        f"{file} does not fit, 1 tensors disagree: it is 128 wide, 4 deep, with patches of 4; see model.size, "
        "or set initialize_resize=true\n"
        "patch_embed.proj.weight: 128 x 3 x 4 x 4 there, 128 x 3 x 6 x 6 here"
    )


def test_another_grid_of_positions_is_refused(refused, tmp_path: Path) -> None:
    file = saved(tmp_path / "grid.safetensors", SIZES["vit_micro"])
    assert refused(file, "model.image_size=48")[0].message == (
        f"{file} does not fit, 1 tensors disagree: its positions are those of 24 px images; see model.image_size, "
        "or set initialize_resize=true\n"
        "pos_embed: 1 x 17 x 128 there, 1 x 65 x 128 here"
    )


def test_qk_norm_on_one_side_is_refused(refused, tmp_path: Path) -> None:
    file = saved(tmp_path / "qk.safetensors", SIZES["vit_micro"], qk_norm=True)
    head, *tensors = refused(file)[0].message.split("\n")
    assert head == f"{file} does not fit, 16 tensors disagree; see model.qk_norm"
    assert "blocks.0.attn.q_norm.weight: 32 there, none here" in tensors


def test_another_decoder_is_refused_where_it_is_asked_for(refused, tmp_path: Path) -> None:
    state = foreign.mae_state(width=128, depth=4, patch=6, side=4, decoder_width=64, decoder_depth=1)
    torch.save({"model": state}, tmp_path / "mae.pth")
    head, first, *_ = refused(tmp_path / "mae.pth", "initialize_whole=true")[0].message.split("\n")
    assert head == f"{tmp_path}/mae.pth does not fit, 19 tensors disagree; see model.decoder"
    assert first == "mask_token: 1 x 1 x 64 there, 1 x 1 x 32 here"


def test_a_missing_source_is_told_with_everything_else(refused, tmp_path: Path) -> None:
    problems = refused(tmp_path / "nowhere", "data.train.local=/nowhere")
    assert {problem.path for problem in problems} == {"initialize_from", "data.train.local"}
    assert problems[0].message == f"there is no run, checkpoint or weights at {tmp_path}/nowhere"


def test_a_run_that_will_resume_does_not_need_its_source(runs: Runs) -> None:
    save_run(runs.folder / "run", autoencoder(SIZES["vit_micro"]), "vit_micro")
    loaded = load_with_ours(runs.recipe, ["initialize_from=/nowhere", f"save_folder={runs.folder / 'run'}"])
    preflight(loaded, world_size=1, nodes=1)
