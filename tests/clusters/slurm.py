"""A real Slurm on loopback, of two nodes on this machine, each with a host name of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.processes import free_port

NODES = ("n1", "n2")

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=20
GresTypes=gpu
NodeName=n1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 Gres=gpu:1
NodeName=n2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 Gres=gpu:1
PartitionName=spot Nodes=ALL Default=YES PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    if os.geteuid() != 0:
        return "needs root, for a host name per node"
    absent = [tool for tool in ("slurmctld", "slurmd", "munged", "unshare") if not shutil.which(tool)]
    return f"needs {', '.join(absent)}: Debian's slurm-wlm and munge" if absent else None


class Slurm:
    """Its daemons, while this is open.

    Partition `spot` gives a job 120 s when it is preempted by one in `urgent`, and queues it again. What is queued
    again may begin 6 s later.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Slurm:
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        ports = [free_port() for _ in range(3)]
        host = socket.gethostname()
        (self.folder / "slurm.conf").write_text(_CONFIGURATION.format(folder=self.folder, ports=ports, host=host))
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{name}" for option, name in files.items()]
        self._start("munged", "munged", "--foreground", "--force", *options)
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self._start(node, "unshare", "--uts", "sh", "-c", f"hostname {node}; exec slurmd -D -N {node}")
        try:
            self._wait_until_idle()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def submit(self, *arguments: str) -> str:
        """The job's number."""
        return self._run("sbatch", "--parsable", *arguments).strip()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of it."""
        fields = self._run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def cancel(self, number: str) -> None:
        self._run("scancel", number)

    def lose(self, node: str) -> None:
        """SIGKILL all that runs on a node, as when it loses power."""
        host = _host(self._daemons[node].pid)
        for process in self._processes():
            if _host(process) == host:
                _kill(process)

    def _processes(self) -> list[int]:
        """Its daemons, and what they have started."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"SLURM_CONF={self.environment['SLURM_CONF']}".encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
        return found

    def _close(self) -> None:
        while processes := self._processes():
            for process in processes:
                _kill(process)
            for daemon in self._daemons.values():
                daemon.wait()

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("w") as output:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _wait_until_idle(self) -> None:
        until = time.monotonic() + 60
        while self._run("sinfo", "--noheader", "--partition=spot", "--format=%T %D", check=False).strip() != "idle 2":
            assert time.monotonic() < until, {file.name: file.read_text()[-2000:] for file in self.folder.glob("*.log")}
            time.sleep(0.2)

    def _run(self, *command: str, check: bool = True) -> str:
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert not check or ran.returncode == 0, ran.stderr
        return ran.stdout


def _host(process: int) -> str:
    """What tells the processes of one node from those of another."""
    return os.readlink(f"/proc/{process}/ns/uts")


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
