"""The other templates: what their schedulers would say of them, without a cluster."""

from __future__ import annotations

import re
import subprocess
from string import Template

import pytest
import yaml

from maws_composer.config.plugins import load_with_ours
from maws_composer.launch import REFUSED, START_AGAIN
from tests.processes import ROOT

KUBERNETES = ROOT / "clusters/kubernetes.yaml"
SLURM = ROOT / "clusters/slurm.sbatch"
SKYPILOT = ROOT / "clusters/skypilot.yaml"


def job() -> dict:
    return list(yaml.safe_load_all(KUBERNETES.read_text()))[1]


def container() -> dict:
    (train,) = job()["spec"]["template"]["spec"]["containers"]
    return train


def test_kubernetes_accepts_the_job() -> None:
    kubernetes = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate, of the extra `dev`, is not here"
    )
    for resource in yaml.safe_load_all(KUBERNETES.read_text()):
        for version in ("1.33", "1.37"):
            kubernetes.validate(resource, version, strict=True)


def test_kubernetes_starts_again_what_was_preempted_and_gives_up_what_is_refused() -> None:
    rules = job()["spec"]["podFailurePolicy"]["rules"]
    actions = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    assert actions == {REFUSED: "FailJob", START_AGAIN: "Ignore"}
    assert [rule["onPodConditions"][0]["type"] for rule in rules if "onPodConditions" in rule] == ["DisruptionTarget"]


@pytest.mark.parametrize("nodes", [8, 4])
def test_numbers_that_belong_together_agree_in_the_job(nodes: int) -> None:
    text = KUBERNETES.read_text()
    if nodes != 8:
        (script,) = re.findall("sed '(.*)' clusters", text)  # how its head says to have fewer
        text = subprocess.run(["sed", script], input=text, capture_output=True, text=True, check=True).stdout
    spec = list(yaml.safe_load_all(text))[1]["spec"]
    (train,) = spec["template"]["spec"]["containers"]
    given = {each["name"]: each["value"] for each in train["env"]}
    assert spec["completions"] == spec["parallelism"] == int(given["PET_NNODES"]) == nodes
    assert train["resources"]["limits"]["nvidia.com/gpu"] == int(given["PET_NPROC_PER_NODE"]) == 8
    grace = next(float(each.partition("=")[2]) for each in train["args"] if each.startswith("preemption.grace"))
    assert grace < spec["template"]["spec"]["terminationGracePeriodSeconds"]


def test_skypilot_accepts_the_task() -> None:
    sky = pytest.importorskip("sky", reason="skypilot is not installed")
    task = sky.Task.from_yaml(str(SKYPILOT))
    (resources,) = task.resources
    assert task.num_nodes == 2 and resources.use_spot
    assert resources.job_recovery["recover_on_exit_codes"] == [START_AGAIN]


def commands() -> dict[str, list[str]]:
    """What each template has `launch` start: a recipe and overrides."""
    slurm = next(line for line in SLURM.read_text().splitlines() if "sbatch clusters/slurm.sbatch" in line)
    task = yaml.safe_load(SKYPILOT.read_text())
    skypilot = Template(task["run"].strip().splitlines()[-1].partition("train.py ")[2]).substitute(task["envs"])
    return {
        "slurm": slurm.partition("slurm.sbatch ")[2].split(),
        "kubernetes": container()["args"],
        "skypilot": skypilot.split(),
    }


@pytest.mark.parametrize("template", commands())
def test_the_command_of_a_template_is_a_valid_one(template: str) -> None:
    recipe, *overrides = commands()[template]
    run = load_with_ours(str(ROOT / recipe), overrides, world_size=64, nodes=8).run
    assert run.save_folder == "s3://bucket/mae-b"
