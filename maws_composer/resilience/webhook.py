"""Posts what a run does to a webhook, from a process of its own, which outlives the run: `python -m …webhook STATUS`.

Each line of its input is a JSON object to post. When the input ends without a `state` of an end, however the run's
process ended, what `status.json` says is posted. The address is in the environment, since it may be a credential; it is
never printed. What cannot be posted is told in one line, and changes nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ADDRESS = "MAWS_COMPOSER_WEBHOOK"
ENDS = ("finished", "preempted", "failed")

_TIMEOUT = 5.0  # seconds, of one attempt
_PAUSES = (0.0, 1.0, 5.0)  # seconds, before each attempt


def announce(lines: Iterable[str], status: Path, address: str) -> None:
    """Post each line, and in the end how the run ended."""
    message: dict[str, Any] = {}
    for line in lines:
        message = json.loads(line)
        post(message, address)
    if message and message["state"] not in ENDS:
        post({**message, **_last_words(status)}, address)


def _last_words(status: Path) -> dict[str, Any]:
    """Of a process that left without a word."""
    try:
        written = json.loads(status.read_text())
        if written["state"] in ENDS:
            return {name: written[name] for name in ("state", "reason", "batch", "samples")}
    except (OSError, ValueError, KeyError):
        pass
    return {"state": "failed", "reason": "the process of rank 0 was killed"}


def post(message: dict[str, Any], address: str) -> None:
    """One message, as JSON with a `text` for chat rooms, in up to three attempts."""
    body = json.dumps({"text": _sentence(message), **message}).encode()
    problem = ""
    for pause in _PAUSES:
        time.sleep(pause)
        try:
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=_TIMEOUT):
                return
        except Exception as error:  # its text may hold the address
            code = error.code if isinstance(error, urllib.error.HTTPError) else None
            problem = f"HTTP {code}" if code else type(error).__name__
    print(f"not posted to the webhook: {message['state']}: {problem}", file=sys.stderr, flush=True)


def _sentence(message: dict[str, Any]) -> str:
    reason = f": {message['reason']}" if message.get("reason") else ""
    return f"{message['run']} {message['state']} at batch {message['batch']:,}, sample {message['samples']:,}{reason}"


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)  # they are for the run
    announce(sys.stdin, Path(sys.argv[1]), os.environ[ADDRESS])
