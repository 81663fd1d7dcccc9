"""Whatever the launcher does, a mistake is told once and whole; and nobody waits forever."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maws_composer.config.problems import Problem, format_problems

REPOSITORY = Path(__file__).parents[2]
PROBLEMS = [Problem(f"section.key_{number}", "expected a whole number, got 'many'", "x.yaml") for number in range(40)]
MESSAGE = format_problems("run.yaml", PROBLEMS) + "\n"

# Arguments: what is wrong (nothing, config, preflight, outage, crash, kill), patience, farewell, and each rank's delay.
WORKER = """\
import os, signal, sys, time
sys.path.insert(0, {repository!r})
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.rank_gate import load_behind_gate

wrong, patience, farewell, *delays = sys.argv[1:]
rank = int(os.environ["LOCAL_RANK"])
time.sleep(float(delays[rank]))
problems = [Problem(f"section.key_{{n}}", "expected a whole number, got 'many'", "x.yaml") for n in range(40)]

def load():
    if wrong == "config":
        raise ConfigError(problems)
    if wrong == "crash":
        raise RuntimeError("a bug of ours")
    if wrong == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return "loaded"

def preflight(loaded):
    print("preflight", rank)
    if wrong == "preflight":
        raise ConfigError(problems)
    if wrong == "outage":
        time.sleep(3)

print(load_behind_gate("run.yaml", load, preflight, float(patience), float(farewell)), rank)
"""


class Ranks:
    """Processes as a launcher starts them: one output file for each rank."""

    def __init__(self, folder: Path, port: int, *arguments: object, delays: tuple[float, ...] = (0, 0)) -> None:
        self.folder, self.outputs, self.processes = folder, [], []
        script = folder / "worker.py"
        script.write_text(WORKER.format(repository=str(REPOSITORY)))
        for rank in range(len(delays)):
            environment = os.environ | {
                "TMPDIR": str(folder), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                "LOCAL_RANK": str(rank), "WORLD_SIZE": str(len(delays)), "LOCAL_WORLD_SIZE": str(len(delays)),
            }  # fmt: skip
            self.outputs.append(folder / f"rank{rank}.txt")
            with self.outputs[-1].open("w") as output:
                command = [sys.executable, str(script), *map(str, arguments), *map(str, delays)]
                process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            self.processes.append(process)

    def monitor(self) -> list[int]:
        """End all others at the first that failed, as Composer's launcher and torchrun do; return the exit codes."""
        while any(process.poll() is None for process in self.processes):
            if any(process.poll() for process in self.processes):
                for process in self.processes:
                    process.terminate()
                break
            time.sleep(0.01)
        return self.wait()

    def wait(self) -> list[int]:
        return [process.wait(timeout=60) for process in self.processes]

    def said(self) -> list[str]:
        return [output.read_text() for output in self.outputs]

    def left_behind(self) -> list[Path]:
        return [path for path in self.folder.glob("maws_composer-*/*") if path.is_file()]


def test_the_message_comes_once_and_whole_fifty_times(folder):
    for turn in range(50):
        delays = [(0, 0), (0.15, 0), (0, 0.15)][turn % 3]
        ranks = Ranks(folder, 29500 + turn, "config", 60, 30, delays=delays)
        assert ranks.monitor() == [2, -signal.SIGTERM]
        assert ranks.said() == [MESSAGE, ""]
        assert ranks.left_behind() == []


def test_when_all_is_well_every_rank_loads_and_one_makes_the_preflight(folder):
    for delays in ((0, 0, 0), (0.3, 0, 0), (0, 0.3, 0.6)):
        ranks = Ranks(folder, 29500, "nothing", 60, 30, delays=delays)
        assert ranks.monitor() == [0, 0, 0]
        assert ranks.said() == ["preflight 0\nloaded 0\n", "loaded 1\n", "loaded 2\n"]
        assert ranks.left_behind() == []


def test_what_the_preflight_finds_is_told_once_too(folder):
    ranks = Ranks(folder, 29500, "preflight", 60, 30)
    assert ranks.monitor() == [2, -signal.SIGTERM]
    assert ranks.said() == ["preflight 0\n" + MESSAGE, ""] or ranks.said() == [MESSAGE + "preflight 0\n", ""]


def test_without_a_launcher_that_ends_them_the_others_leave_quietly(folder):
    ranks = Ranks(folder, 29500, "config", 60, 0.5)
    assert ranks.wait() == [2, 2]
    assert ranks.said() == [MESSAGE, ""]


def test_nobody_waits_for_a_rank_that_was_killed(folder):
    ranks = Ranks(folder, 29500, "kill", 60, 0.5, delays=(0.5, 0))
    assert ranks.wait() == [-signal.SIGKILL, 2]
    assert ranks.said() == ["", ""]


def test_nobody_waits_forever_for_a_rank_that_never_came(folder):
    ranks = Ranks(folder, 29500, "nothing", 1, 0.5, delays=(30, 0))
    assert ranks.processes[1].wait(timeout=20) == 2
    ranks.processes[0].kill()
    assert ranks.wait() == [-signal.SIGKILL, 2]


def test_a_preflight_may_take_longer_than_its_beginning_is_waited_for(folder):
    ranks = Ranks(folder, 29500, "outage", 2, 0.5)
    assert ranks.monitor() == [0, 0]
    assert ranks.said() == ["preflight 0\nloaded 0\n", "loaded 1\n"]


def test_a_bug_of_ours_shows_its_traceback(folder):
    ranks = Ranks(folder, 29500, "crash", 60, 30)
    assert ranks.monitor() == [1, -signal.SIGTERM]
    assert ranks.said()[0].endswith("RuntimeError: a bug of ours\n")
    assert ranks.said()[1] == ""


@pytest.mark.parametrize("verdict", ["bad", "good", "checking"])
def test_what_a_killed_run_left_behind_does_no_harm(verdict, folder):
    left = folder / f"maws_composer-{os.getuid()}" / "127.0.0.1-29500.verdict"
    left.parent.mkdir(mode=0o700)
    left.write_text(f"{verdict} {2**22 + 1}\n..")
    ranks = Ranks(folder, 29500, "nothing", 60, 30, delays=(0.5, 0))
    assert ranks.monitor() == [0, 0]
    left.write_text(f"{verdict} {2**22 + 1}\n..")
    ranks = Ranks(folder, 29500, "config", 60, 30, delays=(0.5, 0))
    assert ranks.monitor() == [2, -signal.SIGTERM]
    assert ranks.said() == [MESSAGE, ""]


def test_under_composers_own_launcher(folder):
    composer = Path(sys.executable).with_name("composer")
    if not composer.exists():
        composer = Path(shutil.which("composer") or pytest.skip("composer's launcher is not installed"))
    script = folder / "worker.py"
    script.write_text(WORKER.format(repository=str(REPOSITORY)))
    outcome = subprocess.run(
        [sys.executable, composer, "-n", "2", script, "config", "60", "30", "0", "0"],
        env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    said = outcome.stdout + outcome.stderr
    assert outcome.returncode == 2
    assert said.count("run.yaml has 40 problems:") == 1
    assert MESSAGE in said
    assert [path for path in folder.glob("maws_composer-*/*")] == []
