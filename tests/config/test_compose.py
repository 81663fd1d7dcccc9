"""What a configuration is made of, and that each value says where it was written."""

import pytest
import yaml

from maws_composer.config.compare import changed_keys
from maws_composer.config.durations import samples
from maws_composer.config.load import load_run
from maws_composer.config.secrecy import mask_text
from maws_composer.config.show import print_resolved, to_yaml
from tests.config.samples import GOOD, Decoder


def test_an_empty_section_takes_out_what_a_base_has(load, write):
    write("base.yaml", "callbacks: {input_wait: {every: 3ba}}\n")
    assert load("base: base.yaml\n").run.callbacks["input_wait"]["every"] == "3ba"
    assert load("base: base.yaml\n", "callbacks={}").run.callbacks == {}
    assert load("base: base.yaml\ncallbacks: {}\n").run.callbacks == {}


def test_bases_come_first_then_the_file_then_the_command_line(write):
    write("yamls/recipes/base.yaml", GOOD + "seed: 1\noptimizer: {base_lr: 1e-4, weight_decay: 0.3}\n")
    write("yamls/recipes/mae.yaml", "base: base.yaml\nseed: 2\n")
    write("yamls/models/large.yaml", "model: {mask_ratio: 0.6}\nseed: 3\n")
    write("yamls/my_run.yaml", "base: [recipes/mae.yaml, models/large.yaml]\noptimizer:\n  weight_decay: 0.1\n")
    loaded = load_run("yamls/my_run.yaml", ["model.decoder.width=256", "seed=4", "seed=5"])
    assert loaded.run.model == {"size": "vit_b16", "mask_ratio": 0.6, "decoder": Decoder(width=256)}
    assert (loaded.run.seed, loaded.run.optimizer.base_lr, loaded.run.optimizer.weight_decay) == (5, 1e-4, 0.1)
    assert {key: loaded.provenance.get(key) for key in (
        "stage", "optimizer.base_lr", "optimizer.weight_decay", "model.mask_ratio", "seed", "model.decoder.width"
    )} == {
        "stage": "yamls/recipes/base.yaml, line 1",
        "optimizer.base_lr": "yamls/recipes/base.yaml, line 8",
        "optimizer.weight_decay": "yamls/my_run.yaml, line 3",
        "model.mask_ratio": "yamls/models/large.yaml, line 1",
        "seed": "command line",
        "model.decoder.width": "command line",
    }  # fmt: skip


def test_a_base_is_looked_for_beside_the_file_then_from_the_working_directory(write):
    write("recipes/mae.yaml", GOOD + "seed: 1\n")
    write("mine/run.yaml", "base: recipes/mae.yaml\n")
    assert load_run("mine/run.yaml").run.seed == 1
    write("mine/recipes/mae.yaml", GOOD + "seed: 2\n")
    assert load_run("mine/run.yaml").run.seed == 2


def test_numbers_are_numbers(load):
    run = load("optimizer: {base_lr: 1e-4, eps: 1E-8, weight_decay: 0}\n", "global_train_batch_size=4_096").run
    assert (run.optimizer.base_lr, run.optimizer.eps, run.optimizer.weight_decay) == (1e-4, 1e-8, 0.0)
    assert run.global_train_batch_size == 4096
    assert samples(run.max_duration) == 5_000_000_000


def test_lists_and_nulls_replace_and_sections_merge(load, write):
    write("base.yaml", "data: {eval: {local: /val, columns: {image: jpg}}}\noptimizer: {betas: [0.5, 0.6], eps: 1}\n")
    run = load("base: base.yaml\noptimizer: {betas: [0.8, 0.9]}\n", "data.eval.columns.id=key").run
    assert (run.optimizer.betas, run.optimizer.eps) == ((0.8, 0.9), 1.0)
    assert (run.data.eval.local, run.data.eval.columns) == ("/val", {"image": "jpg", "id": "key"})
    assert load("base: base.yaml\n", "data.eval=null").run.data.eval is None


def test_interpolations_anchors_and_text_of_the_command_line(load, monkeypatch):
    monkeypatch.setenv("BUCKET", "s3://mine")
    run = load(
        "save_folder: ${oc.env:BUCKET}/${run_name}\nrun_name: first\n"
        "seed: &one 1\nspeed: {workers: *one}\noptimizer: {eps: '${optimizer.weight_decay}', weight_decay: 0.5}\n",
        "speed.scratch_folder=/bucket/run=1:2",
    ).run
    assert run.save_folder == "s3://mine/first"
    assert (run.optimizer.eps, run.speed.workers) == (0.5, 1)
    assert run.speed.scratch_folder == "/bucket/run=1:2"


def test_names_follow_from_the_file(load):
    assert (load().run.run_name, load().run.save_folder) == ("run", "runs/run")
    assert load("", "run_name=other").run.save_folder == "runs/other"


def test_print_shows_every_value_with_where_it_came_from(load):
    text = print_resolved(load("optimizer:\n  betas: [0.9, 0.99]\n", "seed=7"))
    keys = ("stage", "size", "width", "betas", "eps", "seed", "eval", "max_duration", "sharding", "shard")
    rows = [line for line in text.splitlines() if line.split(":")[0].strip() in keys]
    assert rows == [
        "stage: mae                            # run.yaml, line 1",
        "  size: vit_b16                       # run.yaml, line 2",
        "    width: 512                        # default",
        "  eval: null                          # default",
        "seed: 7                               # command line",
        "max_duration: 5_000_000_000sp         # run.yaml, line 6",
        "  betas: [0.9, 0.99]                  # run.yaml, line 8",
        "  eps: 1.0e-08                        # default",
        "  sharding:",
        "    shard: null                       # default",
    ]
    assert yaml.safe_load(text) == load("optimizer:\n  betas: [0.9, 0.99]\n", "seed=7").resolved


def test_what_is_saved_is_read_back_as_the_same_run(load, write):
    loaded = load("callbacks: {input_wait: }\noptimizer: {base_lr: 1e-4}\nrun_name: '1e5'\n", "data.train.repeat=2")
    write("saved.yaml", to_yaml(loaded))
    again = load_run("saved.yaml")
    assert again.run == loaded.run
    assert changed_keys(yaml.safe_load(to_yaml(loaded)), again.resolved) == []


def test_credentials_are_neither_shown_nor_saved(load, monkeypatch):
    monkeypatch.setenv("STORE_PASSWORD", "hunter2-hunter2")
    loaded = load(
        "loggers: {wandb: {project: p, api_key: 0123abc}}\n"
        "speed: {scratch_folder: 'https://me:secret1@host/file?X-Amz-Signature=secret2&part=3'}\n"
        "save_folder: s3://bucket/${oc.env:STORE_PASSWORD}/x\n"
    )
    assert loaded.run.loggers["wandb"]["api_key"] == "0123abc"
    for text in (to_yaml(loaded), print_resolved(loaded)):
        for secret in ("hunter2", "0123abc", "secret1", "secret2", "//me"):
            assert secret not in text
        assert "https://***@host/file?X-Amz-Signature=***&part=3" in text
        assert "s3://bucket/***/x" in text
    # what is hidden in the saved file is not taken for a change
    assert changed_keys(yaml.safe_load(to_yaml(loaded)), loaded.resolved) == []


def test_only_credentials_are_hidden(load):
    assert mask_text("s3://bucket/a@b?list=1") == "s3://bucket/a@b?list=1"
    resolved = load().resolved | {"tokenizer": "xlm-r", "context_tokens": 77, "tokens": "all"}
    assert changed_keys(resolved, resolved | {"tokenizer": "other"}) == ["tokenizer"]


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("seed=1", ["seed"]),
        ("model.decoder.width=256", ["model.decoder.width"]),
        ("max_duration=10_000sp", ["max_duration"]),
        ("data.train.crop_scale=[0.1, 1.0]", ["data.train.crop_scale"]),
        ("optimizer.base_lr=1", ["optimizer.base_lr"]),
        ("initialize_from=s3://bucket/mae", ["initialize_from"]),
        ("initialize_whole=true", ["initialize_whole"]),
        ("data.train.remote=s3://elsewhere", []),
        ("data.train.local=/cache", []),
        ("data.train.download_retry=9", []),
        ("speed.sharding.shard=8", []),
        ("save_interval=10ba", []),
        ("save_num_checkpoints_to_keep=9", []),
        ("eval_interval=10ba", []),
        ("run_name=other", []),
        ("callbacks.input_wait=null", []),
        ("loss_spikes.action=skip", []),
        ("loss_spikes.skip_after=300", []),
        ("loss_spikes.outliers.sigmas=5", ["loss_spikes.outliers.sigmas", "loss_spikes.outliers.window"]),
        ("loggers.wandb.project=p", []),
        ("allow_changed_config=true", []),
    ],
)
def test_which_changes_affect_results(override, changed, load):
    assert changed_keys(load().resolved, load("", override).resolved) == changed


def test_a_checkpoint_may_be_older_than_a_key(load):
    now = load().resolved
    older = {**now, "data": {**now["data"], "train": dict(now["data"]["train"])}}
    for key in ("repeated_augmentation", "decode"):
        del older["data"]["train"][key]
    assert changed_keys(older, now) == []
    assert changed_keys(older, load("", "data.train.decode=fast").resolved) == ["data.train.decode"]
