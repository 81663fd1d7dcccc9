"""Every mistake is one sentence, with its key, the nearest right one, and the line: all of them at once."""

import textwrap

import pytest

from maws_composer.config.load import load_run
from maws_composer.config.problems import ConfigError, format_problems
from tests.config.samples import GOOD

# (what is added to a good configuration in lines 7 and on, the one problem that it makes)
IN_THE_FILE = {
    "typo at the top": ("sede: 1", ("sede", "unknown key; nearest is seed", "run.yaml, line 7")),
    "typo one level down": (
        "optimizer:\n  weight_deacy: 0.1",
        ("optimizer.weight_deacy", "unknown key; nearest is optimizer.weight_decay", "run.yaml, line 8"),
    ),
    "typo two levels down": (
        "speed: {sharding: {shrad: 8}}",
        ("speed.sharding.shrad", "unknown key; nearest is speed.sharding.shard", "run.yaml, line 7"),
    ),
    "right key in the wrong section": (
        "mask_ratio: 0.75",
        ("mask_ratio", "unknown key; nearest is model.mask_ratio", "run.yaml, line 7"),
    ),
    "typo in the wrong section": (
        "wieght_decay: 0.1",
        ("wieght_decay", "unknown key; nearest is optimizer.weight_decay", "run.yaml, line 7"),
    ),
    "key like no other": (
        "schedule: {zzz: 1}",
        ("schedule.zzz", "unknown key; known here are name, warmup, final_lr, decay", "run.yaml, line 7"),
    ),
    "text for a number": ("seed: many", ("seed", "expected a whole number, got 'many'", "run.yaml, line 7")),
    "number in quotes": ("seed: '3'", ("seed", "expected a whole number, got '3'", "run.yaml, line 7")),
    "fraction for a whole number": ("seed: 1.5", ("seed", "expected a whole number, got 1.5", "run.yaml, line 7")),
    "number for a switch": (
        "deterministic: 1",
        ("deterministic", "expected true or false, got 1", "run.yaml, line 7"),
    ),
    "value for a section": ("speed: fast", ("speed", "expected keys and values, got 'fast'", "run.yaml, line 7")),
    "value for a list": (
        "optimizer: {betas: 0.9}",
        ("optimizer.betas", "expected a list, got 0.9", "run.yaml, line 7"),
    ),
    "short list": (
        "optimizer: {betas: [0.9]}",
        ("optimizer.betas", "[0.9] has too few entries", "run.yaml, line 7"),
    ),
    "long list": (
        "optimizer: {betas: [0.9, 0.95, 0.99]}",
        ("optimizer.betas", "takes 2 entries, has 3", "run.yaml, line 7"),
    ),
    "bad entry of a list": (
        "optimizer:\n  betas:\n    - 0.9\n    - 1.5",
        ("optimizer.betas.1", "1.5 is not below 1", "run.yaml, line 10"),
    ),
    "unknown option": (
        "speed: {attention: sdpa_flsh}",
        (
            "speed.attention",
            "expected auto, flash_attn, sdpa_flash, sdpa_cudnn, sdpa_efficient or math, got 'sdpa_flsh'; "
            "nearest is sdpa_flash",
            "run.yaml, line 7",
        ),
    ),
    "neither word nor number": (
        "speed: {activation_checkpointing: some}",
        (
            "speed.activation_checkpointing",
            "expected none, all or a whole number, got 'some'",
            "run.yaml, line 7",
        ),
    ),
    "neither word nor switch": (
        "speed: {sharding: {reshard_after_forward: never}}",
        ("speed.sharding.reshard_after_forward", "expected auto, true or false, got 'never'", "run.yaml, line 7"),
    ),
    "number of the wrong size where words are possible": (
        "speed: {activation_checkpointing: 0}",
        ("speed.activation_checkpointing", "0 is not above 0", "run.yaml, line 7"),
    ),
    "fp16": ("precision: amp_fp16", ("precision", "'amp_fp16' overflows in large ViTs and is refused; use amp_bf16",
                                     "run.yaml, line 7")),
    "not a number": ("gradient_clip: .nan", ("gradient_clip", "nan is not finite", "run.yaml, line 7")),
    "interval without a unit": (
        "save_interval: 1000",
        ("save_interval", "expected a duration such as 1000ba or 1_000_000sp, got 1000", "run.yaml, line 7"),
    ),
    "checkpoints kept at times at which there is none": (
        "save_interval: 1000ba\nsave_keep_every: 2500ba",
        ("save_keep_every", "2500ba is not a multiple of save_interval, 1000ba", "run.yaml, line 8"),
    ),
    "evaluation data without a place": (
        "seed: 1",
        ("data.eval", "needs remote or local", "command line"),
        "data.eval={}",
    ),
    "unknown callback": (
        "callbacks: {input_wiat: {}}",
        (
            "callbacks.input_wiat",
            "unknown callback 'input_wiat'; nearest is input_wait; looked in maws_composer, installed packages",
            "run.yaml, line 7",
        ),
    ),
    "unknown logger": (
        "loggers:\n  neptune:",
        (
            "loggers.neptune",
            "unknown logger 'neptune'; known are wandb; looked in maws_composer, installed packages",
            "run.yaml, line 8",
        ),
    ),
    "bad argument of a callback": (
        "callbacks:\n  input_wait:\n    every: 50 batches",
        (
            "callbacks.input_wait.every",
            "expected a duration such as 1000ba or 1_000_000sp, got '50 batches'",
            "run.yaml, line 9",
        ),
    ),
    "unknown argument of a callback": (
        "callbacks: {input_wait: {evry: 50ba}}",
        (
            "callbacks.input_wait.evry",
            "unknown key; nearest is callbacks.input_wait.every",
            "run.yaml, line 7",
        ),
    ),
    "missing argument of a logger": ("loggers: {wandb: }", ("loggers.wandb.project", "missing; required",
                                                            "run.yaml, line 7")),
    "variable that is not set": (
        "save_folder: ${oc.env:NO_SUCH_VARIABLE}",
        ("save_folder", "the environment variable NO_SUCH_VARIABLE is not set", "run.yaml, line 7"),
    ),
    "reference to nothing": (
        "save_folder: ${modle.size}",
        ("save_folder", "${modle.size} is not a key", "run.yaml, line 7"),
    ),
    "brace left open": (
        "save_folder: ${oc.env:HOME",
        ("save_folder", "'${oc.env:HOME' is no interpolation: ", "run.yaml, line 7"),
    ),
    "value to be filled in": ("save_folder: ???", ("save_folder", "missing; required", "run.yaml, line 7")),
    "key twice": ("seed: 1\nprecision: fp32\nseed: 2", ("seed", "is there twice; first in line 7", "run.yaml, line 9")),
    "tag of Python": (
        "save_folder: !!python/name:os.system",
        ("save_folder", "the tag !!python/name:os.system is not allowed", "run.yaml, line 7"),
    ),
    "base that is not there": (
        "base: recipes/mea.yaml",
        ("base", "recipes/mea.yaml does not exist", "run.yaml, line 7"),
    ),
    "plugins that are not there": (
        "code_paths: [my-callbacks/]",
        ("code_paths", "my-callbacks/ does not exist", "run.yaml, line 7"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", IN_THE_FILE)
def test_a_mistake_in_the_file(mistake, mistakes):
    more, expected, *overrides = IN_THE_FILE[mistake]
    ((path, message, where),) = mistakes(more, *overrides)
    if message.startswith(expected[1]) and expected[1].endswith(": "):  # what follows is OmegaConf's
        message = expected[1]
    assert (path, message, where) == expected


ON_THE_COMMAND_LINE = {
    "model.mask_ratio=1.2": ("model.mask_ratio", "1.2 is not below 1"),
    "model.mask_ratio=0": ("model.mask_ratio", "0 is not above 0"),
    "model.mask_ration=0.5": ("model.mask_ration", "unknown key; nearest is model.mask_ratio"),
    "model.size=vit_b61": ("model.size", "unknown size 'vit_b61'; nearest is vit_b16"),
    "model.decoder.wdith=512": ("model.decoder.wdith", "unknown key; nearest is model.decoder.width"),
    "model.decoder.width=0": ("model.decoder.width", "0 is not above 0"),
    "model.decoder.width=500": ("model.decoder", "width 500 cannot be split over 16 heads"),
    "stage=mea": (
        "stage",
        "unknown stage 'mea'; nearest is mae; looked in maws_composer, installed packages",
    ),
    "data.train.remote=null": ("data.train", "needs remote, local, streams or dataset"),
    "data.train.streams.a.local=/data/a": (
        "data.train.streams",
        "data.train.remote is set too; name each source once",
    ),
    "data.train.columns.imgae=jpg": (
        "data.train.columns.imgae",
        "unknown key; expected image, id, hashtags, labels, caption or image_embedding; nearest is image",
    ),
    "data.train.crop_scale=[1.0, 0.2]": (
        "data.train.crop_scale",
        "[1.0, 0.2] is not in order; the smaller comes first",
    ),
    "max_duration=800ep": (
        "max_duration",
        "expected a number of samples such as 5_000_000_000sp, got '800ep'",
    ),
    "max_duration=4000sp": ("max_duration", "4000sp is less than one batch of 4096"),
    "base=other.yaml": ("base", "can be given in files only"),
    "seed": ("seed", "is not of the form key=value, such as data.train.remote=s3://b"),
    "--seed=1": ("--seed=1", "is an option, of which there is only --print; write seed=1"),
    "--mask-ratio": ("--mask-ratio", "is an option, of which there is only --print; write model.mask_ratio=..."),
    "--zzz=1": (
        "--zzz=1",
        "is an option, of which there is only --print; write key=value, such as data.train.remote=s3://b",
    ),
    "optimizer.betas=[0.9": (
        "optimizer.betas",
        "'[0.9' is not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
    ),
}


@pytest.mark.parametrize("override", ON_THE_COMMAND_LINE)
def test_a_mistake_on_the_command_line(override, mistakes):
    assert mistakes("", override) == [(*ON_THE_COMMAND_LINE[override], mistakes("", override)[0][2])]
    assert mistakes("", override)[0][2] in ("command line", "run.yaml, line 4")


def test_an_option_with_its_value_is_one_mistake(mistakes):
    said = "is an option, of which there is only --print; write speed.workers=3"
    assert mistakes("", "--workers", "3", "seed=1") == [("--workers 3", said, "command line")]


@pytest.mark.parametrize("key", ["stage", "model", "data", "global_train_batch_size", "max_duration"])
def test_what_is_required_is_missed(key, write):
    kept = [line for line in GOOD.splitlines() if not line.startswith(key)]
    write("run.yaml", "\n".join(line for line in kept if key != "data" or not line.startswith("  train")))
    with pytest.raises(ConfigError) as caught:
        load_run("run.yaml")
    assert [(one.path, one.message, one.where) for one in caught.value.problems] == [
        (key, "missing; required", "run.yaml")
    ]


def test_a_missing_argument_is_missed_in_the_line_of_its_section(mistakes):
    start = GOOD.replace("model: {size: vit_b16}", "model: {mask_ratio: 0.6}")
    assert mistakes(start=start) == [("model.size", "missing; required", "run.yaml, line 2")]


def test_yaml_that_does_not_parse_is_one_problem_with_its_line(mistakes):
    assert mistakes("seed: 1: 2\n") == [
        ("run.yaml", "is not YAML: mapping values are not allowed here", "run.yaml, line 7")
    ]
    assert mistakes(start="- a list\n") == [("run.yaml", "holds no keys and values", "run.yaml, line 1")]


def test_a_file_that_is_not_there_or_cannot_be_read(folder):
    for name in ("mae_vitb.yaml", "wsp_vitb.yaml"):
        (folder / "yamls" / name).parent.mkdir(exist_ok=True)
        (folder / "yamls" / name).write_text(GOOD)
    for name, message in (
        ("nowhere.yaml", "does not exist"),
        (".", "cannot be read: Is a directory"),
        ("yamls/mae_vitb.yml", "does not exist; nearest is yamls/mae_vitb.yaml"),
        ("yaml/wsp_vitb.yaml", "does not exist; nearest is yamls/wsp_vitb.yaml"),
        (f"{folder}/yamls/mae_vitb", f"does not exist; nearest is {folder}/yamls/mae_vitb.yaml"),
        ("other/folder/mae_vitb.yaml", "does not exist"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_run(name)
        assert [(one.path, one.message, one.where) for one in caught.value.problems] == [
            (name, message, "command line")
        ]


def test_a_base_that_is_not_there_brings_the_nearest_file_and_no_second_problem(mistakes, write):
    write("recipes/mae.yaml", GOOD)
    assert mistakes(start="base: [recipes/mea.yaml]\nseed: 1\n") == [
        ("base", "recipes/mea.yaml does not exist; nearest is recipes/mae.yaml", "run.yaml, line 1")
    ]


def test_bases_that_go_round_in_a_circle(mistakes, write):
    write("recipes/a.yaml", "base: b.yaml\n" + GOOD)
    write("recipes/b.yaml", "seed: 1\nbase: ../run.yaml\n")
    assert mistakes("base: recipes/a.yaml\n") == [
        (
            "base",
            "run.yaml -> recipes/a.yaml -> recipes/b.yaml -> run.yaml goes round in a circle",
            "recipes/b.yaml, line 2",
        )
    ]


def split(world_size: int, near: str, largest: int, per_node: str = "") -> str:
    """What is said of a batch of 4096: near numbers, and all powers of two that do."""
    powers = ", ".join(str(2**power) for power in range(13) if 2**power <= largest)
    return (
        f"4096 cannot be split over {world_size} GPUs; use {near}\n"
        f"a global_train_batch_size of 4096 can be split over {powers} GPUs{per_node}"
    )


@pytest.mark.parametrize(
    ("world_size", "nodes", "expected"),
    [
        (48, 6, ("global_train_batch_size", split(48, "32 or 64", 2048, ", 8 per node"), "run.yaml, line 5")),
        (3, 1, ("global_train_batch_size", split(3, "2 or 4", 4096), "run.yaml, line 5")),
        (8192, 1, ("global_train_batch_size", split(8192, "4096", 4096), "run.yaml, line 5")),
        (1024, 128, None),
        (
            4096,
            512,
            (
                "data.train.num_canonical_nodes",
                "768 is not a multiple of 512 nodes; run on 256 of them",
                "run.yaml, line 4",
            ),
        ),
    ],
)  # fmt: skip
def test_a_world_size_that_does_not_fit(world_size, nodes, expected, mistakes, load):
    if expected is None:
        load("", world_size=world_size, nodes=nodes)
    else:
        assert mistakes("", world_size=world_size, nodes=nodes) == [expected]


def test_everything_that_is_wrong_is_told_at_once_in_columns(write):
    write("yamls/recipes/mae.yaml", GOOD)
    write(
        "yamls/my_run.yaml",
        textwrap.dedent("""\
            base: recipes/mae.yaml
            model:
              mask_ration: 0.75
            data:
              eval: {remote: "${oc.env:NO_SUCH_VARIABLE}"}
            callbacks:
              input_wait: {every: often}
            loggers: {wandb: {project: 3}}
            """),
    )
    with pytest.raises(ConfigError) as caught:
        load_run("yamls/my_run.yaml", ["global_train_batch_size=4000"], world_size=64)
    assert (
        format_problems("yamls/my_run.yaml", caught.value.problems)
        == textwrap.dedent("""\
        yamls/my_run.yaml has 5 problems:

          data.eval.remote            the environment variable NO_SUCH_VARIABLE is not set            (yamls/my_run.yaml, line 5)
          model.mask_ration           unknown key; nearest is model.mask_ratio                        (yamls/my_run.yaml, line 3)
          callbacks.input_wait.every  expected a duration such as 1000ba or 1_000_000sp, got 'often'  (yamls/my_run.yaml, line 7)
          loggers.wandb.project       expected text, got 3                                            (yamls/my_run.yaml, line 8)
          global_train_batch_size     4000 cannot be split over 64 GPUs; use 50 or 80                 (command line)
                                      a global_train_batch_size of 4000 can be split over 1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 40, 50, 80, 100, 125, 160, 200, 250, 400, 500, 800, 1000, 2000, 4000 GPUs""")  # noqa: E501
    )


def test_one_wrong_value_does_not_hide_what_is_wrong_with_the_whole(mistakes):
    found = mistakes("save_keep_every: 1500ba\n", "global_train_batch_size=many", "data.train.remote=null")
    assert [path for path, _, _ in found] == ["global_train_batch_size", "data.train", "save_keep_every"]


def test_a_wrong_credential_is_not_repeated(mistakes, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hunter2-hunter2")
    ((_, message, _),) = mistakes("seed: ${oc.env:MY_TOKEN}\n")
    assert message == "expected a whole number, got '***'"
    ((_, message, _),) = mistakes("precision: s3://me:hunter2@host/x\n")
    assert "hunter2" not in message
