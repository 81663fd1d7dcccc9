"""Lets one process per node check the configuration, and keeps its message whole.

A launcher ends all processes at the first that it finds failed. Were every rank to check, the message could come
several times, or the one that prints be killed in the middle. So local rank 0 checks, prints and exits with 2, and the
others wait for its verdict: not through torch.distributed, which is slow to import and whose group does not exist yet,
but through a small file.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from maws_composer.config.problems import ConfigError, format_problems
from maws_composer.resilience.notice import let_signals_end, listen

Loaded = TypeVar("Loaded")

FAILED = 2
_POLL = 0.05


def load_behind_gate(
    path: str,
    load: Callable[[], Loaded],
    preflight: Callable[[Loaded], None] = lambda loaded: None,
    patience: float = 900,
    farewell: float = 30,
) -> Loaded:
    """Load on every rank, but only after local rank 0 found nothing wrong; if it did, print that once and exit with 2.

    Args:
        path: of the configuration, for the message.
        load: loads and checks; the same result on every rank. Raises ConfigError.
        preflight: further checks, by local rank 0 only. Raises ConfigError.
        patience: seconds that the others wait for local rank 0 to begin; once it checks, until it ends.
        farewell: seconds that the others leave to local rank 0 and the launcher after a bad one.
    """
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1:
        return _load_or_say(path, load, preflight)
    verdict = _Verdict(_verdict_file(), others=int(os.environ["LOCAL_WORLD_SIZE"]) - 1)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return _decide(verdict, path, load, preflight)
    if not verdict.wait_until_good(patience, farewell):
        _leave()
    try:
        return load()
    except ConfigError:  # a file changed meanwhile, or the verdict was an earlier run's: local rank 0 says it
        let_signals_end()
        time.sleep(farewell)
        _leave()
        raise


def _decide(verdict: _Verdict, path: str, load: Callable[[], Loaded], preflight: Callable[[Loaded], None]) -> Loaded:
    verdict.write("checking")
    try:
        loaded = _load_or_say(path, load, preflight)
    except BaseException:
        verdict.write("bad")
        verdict.wait_until_read(seconds=1)
        raise
    verdict.write("good")
    return loaded


def _load_or_say(path: str, load: Callable[[], Loaded], preflight: Callable[[Loaded], None]) -> Loaded:
    try:
        loaded = load()
        preflight(loaded)
    except ConfigError as error:
        print(format_problems(path, error.problems), file=sys.stderr)
        _leave()
    return loaded


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(FAILED)


def _verdict_file() -> Path:
    """One file per launch on this machine, in a folder that nobody else can write."""
    folder = Path(tempfile.gettempdir()) / f"maws_composer-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; set TMPDIR")
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "NODE_RANK", "GROUP_RANK")
    launch = [os.environ[name] for name in names if name in os.environ]
    key = "-".join(launch) if "MASTER_PORT" in os.environ else str(os.getppid())
    return folder / f"{key.replace('/', '_').replace(':', '_')}.verdict"


class _Verdict:
    """A file with the verdict and its process in the first line, then one byte from each rank that has read it.

    A file that a killed run left behind does no harm: local rank 0 replaces it first of all, and who reads "good" too
    early loads by itself, and keeps quiet should that fail.
    """

    def __init__(self, file: Path, others: int) -> None:
        self._file = file
        self._others = others

    def write(self, verdict: str) -> None:
        """Replace the verdict; nobody has read the new one yet."""
        draft = self._file.with_suffix(f".{os.getpid()}")
        draft.write_text(f"{verdict} {os.getpid()}\n")
        draft.replace(self._file)

    def wait_until_good(self, patience: float, farewell: float) -> bool:
        """Whether it became "good"; "bad", or a dead author, leave `farewell` for a better one, silence `patience`."""
        heard, doomed = time.monotonic(), None
        while time.monotonic() - heard < patience and (doomed is None or time.monotonic() - doomed < farewell):
            verdict, author, _ = self._read()
            if verdict == "good":
                self._sign()
                if self._read()[2] >= self._others:
                    self._file.unlink(missing_ok=True)
                return True
            if verdict == "checking" and _is_alive(author):
                if doomed is not None:
                    listen()
                heard, doomed = time.monotonic(), None  # it may wait for object storage
            elif verdict and doomed is None:
                doomed = time.monotonic()
                let_signals_end()
                self._sign()
            time.sleep(_POLL)
        return False

    def wait_until_read(self, seconds: float) -> None:
        """Wait until all others know, at most `seconds`, then remove the file."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._read()[2] < self._others:
            time.sleep(_POLL)
        self._file.unlink(missing_ok=True)

    def _read(self) -> tuple[str, int, int]:
        """The verdict, the process that wrote it, and how many have read it."""
        try:
            head, _, signatures = self._file.read_text().partition("\n")
        except FileNotFoundError:
            return "", 0, 0
        verdict, author = head.split()
        return verdict, int(author), len(signatures)

    def _sign(self) -> None:
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "a") as file:
            file.write(".")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
