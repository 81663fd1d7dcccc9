"""Which of how many nodes this is, from what a scheduler says in the environment."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from maws_composer.config.problems import ConfigError, Problem


class Node(NamedTuple):
    """A node of a job.

    Args:
        nodes: how many there are.
        rank: which one this is, from 0.
        address: of node 0.
        port: at `address`, where the ranks find each other.
        processes: ranks on each node; None: one for each of its GPUs.
    """

    nodes: int
    rank: int
    address: str
    port: int
    processes: int | None


def node_environment(nproc: int | None, world_size: int | None, environment: Mapping[str, str]) -> dict[str, str]:
    """What Composer's launcher has to find in its environment on a node of several; on a single one it needs nothing.

    Options go before these, and so do these variables where they are set already. Composer does not ask schedulers.

    Args:
        nproc: ranks on this node, if a person said it.
        world_size: ranks on all, likewise; who says it says the rest as well.
        environment: of this process.

    Raises:
        ConfigError: it does not say enough, or contradicts itself.
    """
    if world_size is not None or "WORLD_SIZE" in environment:
        return {}
    node = _of_skypilot(environment) or _of_kubeflow(environment) or _of_slurm(environment)
    if node is None:
        return {}
    processes = nproc or int(environment.get("LOCAL_WORLD_SIZE", 0)) or node.processes
    if node.nodes == 1:
        return {"LOCAL_WORLD_SIZE": str(processes)} if processes else {}
    processes = processes or _count_gpus()
    found = {"NODE_RANK": str(node.rank), "MASTER_ADDR": node.address, "MASTER_PORT": str(node.port)}
    return {
        "LOCAL_WORLD_SIZE": str(processes),
        "WORLD_SIZE": str(processes * node.nodes),
        **{name: environment.get(name, value) for name, value in found.items()},
    }


def _of_skypilot(environment: Mapping[str, str]) -> Node | None:
    if "SKYPILOT_NODE_RANK" not in environment:
        return None
    addresses = environment["SKYPILOT_NODE_IPS"].split()
    gpus = float(environment.get("SKYPILOT_NUM_GPUS_PER_NODE") or 0)  # parts of one are possible
    return Node(len(addresses), int(environment["SKYPILOT_NODE_RANK"]), addresses[0], 29500, int(gpus) or None)


def _of_kubeflow(environment: Mapping[str, str]) -> Node | None:
    """torchrun's variables: Kubeflow Trainer sets them, and clusters/kubernetes.yaml does."""
    if "PET_NNODES" not in environment:
        return None
    processes = environment.get("PET_NPROC_PER_NODE", "")  # a number, or "auto", "gpu", "cpu"
    return Node(
        nodes=_whole("PET_NNODES", environment, "1"),
        rank=_whole("PET_NODE_RANK", environment, environment.get("JOB_COMPLETION_INDEX", "0")),  # of an Indexed Job
        address=environment.get("PET_MASTER_ADDR", "127.0.0.1"),
        port=_whole("PET_MASTER_PORT", environment, "29500"),
        processes=int(processes) if processes.isdigit() else None,
    )


def _of_slurm(environment: Mapping[str, str]) -> Node | None:
    if "SLURM_JOB_ID" not in environment:
        return None
    if "SLURM_STEP_ID" not in environment:
        if environment.get("SLURM_NNODES", "1") != "1":
            raise _wrong(
                "SLURM_NNODES", "there are several nodes, and this is started on one: srun maws-composer launch …"
            )
        return None
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    if not re.fullmatch(r"1(\(x\d+\))?", tasks):
        raise _wrong("SLURM_STEP_TASKS_PER_NODE", f"is {tasks}; one launch per node: srun --ntasks-per-node=1")
    nodes = _whole("SLURM_STEP_NUM_NODES", environment, "1")
    address = environment.get("MASTER_ADDR") or ("127.0.0.1" if nodes == 1 else _first_host(environment))
    port = 20000 + int(environment["SLURM_JOB_ID"]) % 10000  # jobs may share nodes
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    return Node(nodes, int(environment["SLURM_NODEID"]), address, port, int(gpus) if gpus.isdigit() else None)


def _first_host(environment: Mapping[str, str]) -> str:
    names = environment["SLURM_STEP_NODELIST"]  # such as gpu[003-007,012]
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", names], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise _wrong("MASTER_ADDR", f"is not set, and scontrol does not say it ({error}); set it to node 0") from error
    return listed.stdout.split()[0]


def _count_gpus() -> int:
    """As Composer's launcher does; in another process, since torch is slow to import."""
    count = "import torch; print(torch.cuda.device_count())"
    return int(subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True).stdout) or 1


def _whole(name: str, environment: Mapping[str, str], default: str) -> int:
    text = environment.get(name, default)
    if not text.isdigit():
        raise _wrong(name, f"is {text!r}; expected a whole number")
    return int(text)


def _wrong(name: str, message: str) -> ConfigError:
    return ConfigError([Problem(name, message)])
