"""What Composer's launcher understands of a scheduler's environment, by way of ours."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest
import yaml
from composer.cli import launcher

from maws_composer.config.problems import ConfigError
from maws_composer.nodes import node_environment
from tests.processes import ROOT

SKYPILOT = {
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NUM_NODES": "3",
    "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.9\n10.0.0.7",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8",
}
SLURM = {  # of srun on two of the three nodes of an allocation
    "SLURM_JOB_ID": "123456",
    "SLURM_NNODES": "3",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[007,012]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NODEID": "1",
    "SLURM_GPUS_ON_NODE": "4",
}


def kubernetes(index: int) -> dict[str, str]:
    """What clusters/kubernetes.yaml, and Kubernetes, set in a pod."""
    job = list(yaml.safe_load_all((ROOT / "clusters/kubernetes.yaml").read_text()))[1]
    given = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return {each["name"]: each["value"] for each in given} | {"JOB_COMPLETION_INDEX": str(index)}


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says of gpu[007,012] what the real one does."""
    tool = tmp_path / "scontrol"
    tool.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[007,012]" ] && printf "gpu007\\ngpu012\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def understood(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, *options: str) -> argparse.Namespace:
    """What Composer's launcher makes of it, with these options."""
    given = argparse.ArgumentParser()
    given.add_argument("-n", type=int)
    given.add_argument("--world_size", type=int)
    known, _ = given.parse_known_args(options)
    with monkeypatch.context() as changed:
        for name, value in (environment | node_environment(known.n, known.world_size, environment)).items():
            changed.setenv(name, value)
        changed.setattr(sys, "argv", ["composer", *options, "train.py"])
        return launcher._parse_args()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (SKYPILOT, (8, 24, 1, 8, "10.0.0.4", 29500)),
        (SLURM, (4, 8, 1, 4, "gpu007", 23456)),
        (kubernetes(index=5), (8, 64, 5, 40, "maws-0.maws", 29500)),
    ],
    ids=["skypilot", "slurm", "kubernetes"],
)
def test_a_node_knows_its_place(
    environment: dict[str, str], expected: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, scontrol: None
) -> None:
    found = understood(environment, monkeypatch)
    names = ("nproc", "world_size", "node_rank", "base_rank", "master_addr", "master_port")
    assert tuple(getattr(found, name) for name in names) == expected


def test_options_and_variables_that_are_set_win(monkeypatch: pytest.MonkeyPatch) -> None:
    found = understood(SLURM | {"MASTER_ADDR": "10.1.1.1"}, monkeypatch, "-n", "2", "--master_port", "4321")
    assert (found.nproc, found.world_size, found.base_rank) == (2, 4, 2)
    assert (found.master_addr, found.master_port) == ("10.1.1.1", 4321)
    alone = understood(SLURM, monkeypatch, "-n", "2", "--world_size", "2")
    assert (alone.world_size, alone.node_rank) == (2, 0)


def test_one_node_meets_itself_at_a_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found = understood({"PET_NNODES": "1", "PET_NPROC_PER_NODE": "3"}, monkeypatch)
    assert (found.nproc, found.world_size, found.master_addr) == (3, 3, "127.0.0.1")
    assert node_environment(None, None, {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "auto"}) == {}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"SLURM_JOB_ID": "1", "SLURM_NNODES": "2"},
            "SLURM_NNODES: there are several nodes, and this is started on one",
        ),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, "SLURM_STEP_TASKS_PER_NODE: is 8(x2); one launch per node"),
        (SLURM | {"PATH": ""}, "MASTER_ADDR: is not set, and scontrol does not say it"),
        ({"PET_NNODES": "1:4"}, "PET_NNODES: is '1:4'; expected a whole number"),
    ],
)
def test_what_does_not_say_enough_is_refused(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", environment.get("PATH", os.environ["PATH"]))
    with pytest.raises(ConfigError) as refused:
        node_environment(None, None, environment)
    assert str(refused.value).startswith(message)
