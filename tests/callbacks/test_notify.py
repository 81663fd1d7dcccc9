"""Messages to a webhook: a real one, on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from composer.core import Callback, State
from composer.loggers import Logger

from maws_composer.planning.preflight import check_callbacks
from maws_composer.resilience import notice
from maws_composer.resilience.preemption import PreemptedError
from maws_composer.resilience.webhook import ADDRESS
from tests.callbacks.training import fit, load
from tests.golden_steps import BATCH
from tests.runs import Runs

TOKEN = "T0KEN-that-nobody-may-see"
NOTIFY = {"notify": {}}
PLUGINS = "code_paths=[tests/plugins]"


class Webhook:
    """A server, and what was posted to it."""

    def __init__(self) -> None:
        self.posted: list[dict] = []
        self.code = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == f"/hook/{TOKEN}" and outer.code == 200:
                    outer.posted.append(json.loads(body))
                self.send_response(outer.code)
                self.end_headers()

            def log_message(self, *arguments: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/hook/{TOKEN}"

    @property
    def states(self) -> list[tuple[str, int]]:
        return [(message["state"], message["samples"]) for message in self.posted]


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    webhook = Webhook()
    monkeypatch.setenv(ADDRESS, webhook.address)
    yield webhook
    webhook.server.shutdown()


def test_start_and_end_are_posted_and_the_address_is_nowhere(tmp_path: Path, webhook: Webhook) -> None:
    fit(tmp_path, NOTIFY, 3)
    assert webhook.states == [("started", 0), ("finished", 3 * BATCH)]
    assert webhook.posted[1]["text"] == f"recipe finished at batch 3, sample {3 * BATCH}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3 and not any(TOKEN.encode() in path.read_bytes() for path in files)


class Preempted(Callback):
    def batch_start(self, state: State, logger: Logger) -> None:
        if state.timestamp.batch == 1:
            notice.give_notice("the test says so")


def test_a_preemption_is_posted(tmp_path: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "_notice", None)
    with pytest.raises(PreemptedError):
        fit(tmp_path, NOTIFY, 4, more=[Preempted()])
    assert webhook.states == [("started", 0), ("preempted", 2 * BATCH)]


def test_a_failure_is_posted_with_its_reason_even_if_the_process_says_nothing(runs: Runs, webhook: Webhook) -> None:
    failing = ("callbacks.notify={}", PLUGINS, "callbacks.fail_at.batch=2", "callbacks.fail_at.rank=0")
    assert runs("run", *failing).code != 0
    until = time.monotonic() + 30
    while len(webhook.posted) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert webhook.states == [("started", 0), ("failed", 32)]
    assert webhook.posted[1]["reason"] == "ValueError: a bug of this plugin"


def test_a_webhook_that_refuses_is_told_without_its_address(tmp_path: Path, webhook: Webhook) -> None:
    webhook.code = 500
    command = [sys.executable, "-m", "maws_composer.resilience.webhook", str(tmp_path / "status.json")]
    message = {"state": "finished", "run": "mae", "batch": 1, "samples": 16}
    done = subprocess.run(command, input=json.dumps(message) + "\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == "not posted to the webhook: finished: HTTP 500\n"


def test_an_address_that_is_missing_is_told_before_training_and_one_in_the_yaml_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    (problem,) = check_callbacks(load(tmp_path, NOTIFY).run)
    assert problem.message == f"the environment variable {ADDRESS} holds no https:// address"
    (problem,) = check_callbacks(load(tmp_path, {"notify": {"variable": f"https://host/{TOKEN}"}}).run)
    assert problem.message.startswith("expected the name of an environment variable") and TOKEN not in str(problem)
