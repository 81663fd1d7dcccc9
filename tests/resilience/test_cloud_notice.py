"""Metadata services of clouds, as their documentation describes them, on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from maws_composer.resilience import cloud_notice
from maws_composer.resilience.cloud_notice import cloud_question, command_question, url_question
from maws_composer.resilience.settings import Cloud


class Service(HTTPServer):
    """Answers by (method, path), given the header that the service asks for; 404 for the rest."""

    answers: dict[tuple[str, str], str]
    header: tuple[str, str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        name, value = self.server.header
        known = self.server.answers.get((self.command, self.path))
        allowed = self.command == "PUT" or self.headers.get(name) == value
        code = 403 if not allowed else 404 if known is None else 200
        self.send_response(code)
        self.end_headers()
        self.wfile.write((known or "").encode() if code == 200 else b"")

    do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


AZURE = ("GET", "/metadata/scheduledevents?api-version=2020-07-01")
NAME = {("GET", "/metadata/instance/compute/name?api-version=2021-02-01&format=text"): "worker_3"}
PREEMPT = '{"EventType": "Preempt", "NotBefore": "Mon, 19 Sep 2016 18:29:47 GMT", "Resources": ["%s"]}'
SERVICES = {
    "aws": (
        ("X-aws-ec2-metadata-token", "token"),
        {("PUT", "/latest/api/token"): "token"},
        {("GET", "/latest/meta-data/spot/instance-action"): '{"action": "terminate", "time": "2026-01-01T00:00:00Z"}'},
        "AWS will terminate this machine at 2026-01-01T00:00:00Z",
    ),
    "gcp": (
        ("Metadata-Flavor", "Google"),
        {("GET", "/computeMetadata/v1/instance/preempted"): "FALSE"},
        {("GET", "/computeMetadata/v1/instance/preempted"): "TRUE\n"},
        "Google Cloud is preempting this machine",
    ),
    "azure": (
        ("Metadata", "true"),
        {
            **NAME,
            AZURE: '{"Events": [{"EventType": "Freeze", "Resources": ["worker_3"]}, %s]}' % (PREEMPT % "worker_2"),
        },
        {AZURE: '{"Events": [%s]}' % (PREEMPT % "worker_3")},
        "Azure has scheduled Preempt of this machine for Mon, 19 Sep 2016 18:29:47 GMT",
    ),
}


@pytest.mark.parametrize("cloud", SERVICES)
def test_a_cloud_is_asked_until_it_takes_the_machine_away(cloud: Cloud, service: Service) -> None:
    service.header, calm, taken, reason = SERVICES[cloud]
    question = cloud_question(cloud, service.address)
    service.answers = calm
    assert question() is None
    service.answers = calm | taken
    assert question() == reason


def test_a_command_says_it_by_its_code() -> None:
    assert command_question("exit 1")() is None
    assert command_question("exit 0")() == "exit 0"


def test_an_address_says_it_by_its_text(service: Service) -> None:
    service.header = ("Accept-Encoding", "identity")  # no header that it asks for
    question = url_question(f"{service.address}/taken")
    service.answers = {}  # 404
    assert question() is None
    service.answers = {("GET", "/taken"): ""}
    assert question() is None
    service.answers = {("GET", "/taken"): "drained for maintenance\n"}
    assert question() == "drained for maintenance"


def test_an_odd_answer_is_named_once_and_does_not_end_the_asking(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: Iterator[object] = iter([KeyError("Events"), KeyError("Events"), None, "gone"])
    given: list[str] = []

    def cloud() -> str | None:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    def command() -> str | None:
        raise OSError("no such command")

    monkeypatch.setattr(cloud_notice, "notice", lambda: given or None)
    monkeypatch.setattr(cloud_notice, "give_notice", given.append)
    cloud_notice._ask([cloud, command], every=0.01)
    assert given == ["gone"]
    for complaint in ("Events", "no such command"):
        assert sum(complaint in record.getMessage() for record in caplog.records) == 1
