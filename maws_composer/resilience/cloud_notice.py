"""Asking the cloud, a command or an address whether this machine is about to be taken away.

AWS tells it two minutes before, Azure 30 seconds, Google as it sends the shutdown signal, 30 seconds before the end.
The addresses are link-local: every machine of the cloud reaches its own metadata there.
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from maws_composer.resilience.notice import give_notice, notice
from maws_composer.resilience.settings import Cloud, PreemptionSettings

log = logging.getLogger(__name__)

Question = Callable[[], str | None]

_TIMEOUT = 2.0
_LINK_LOCAL = "http://169.254.169.254"
_AZURE_EVENTS = ("Preempt", "Terminate")


def watch(settings: PreemptionSettings) -> None:
    """Ask in the background, once per node, until the answer is yes; a notice is given then."""
    questions: list[Question] = []
    if settings.cloud is not None:
        questions.append(cloud_question(settings.cloud))
    if settings.command is not None:
        questions.append(command_question(settings.command))
    if settings.url is not None:
        questions.append(url_question(settings.url))
    if questions:
        threading.Thread(target=_ask, args=(questions, settings.every), name="cloud notice", daemon=True).start()


def cloud_question(cloud: Cloud, address: str = _LINK_LOCAL) -> Question:
    """Why this machine will be taken away, by its cloud's metadata service; None if it will not.

    Args:
        cloud: whose.
        address: of the service.

    Raises:
        Exception: when asked, if nobody answers, or not as documented.
    """
    ask = {"aws": _aws, "gcp": _gcp, "azure": _azure}[cloud]

    return lambda: ask(address)


def command_question(command: str) -> Question:
    """The command, as a reason, when it exits with 0."""

    def question() -> str | None:
        done = subprocess.run(command, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        return command if done.returncode == 0 else None

    return question


def url_question(url: str) -> Question:
    """What the address answers, as a reason; nothing, and 404, mean no.

    Raises:
        Exception: when asked, if nobody answers.
    """

    def question() -> str | None:
        try:
            return _get(url, {}).strip() or None
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    return question


def _ask(questions: list[Question], every: float) -> None:
    pause, complaints = threading.Event(), dict.fromkeys(questions, "")
    while notice() is None:
        for question in questions:
            try:
                if reason := question():
                    give_notice(reason)
            except Exception as error:  # whatever it is, it may be better next time
                if str(error) != complaints[question]:
                    complaints[question] = str(error)
                    log.warning("asking whether this machine will be taken away: %r; asking on", error)
        pause.wait(every)


def _aws(address: str) -> str | None:
    """EC2: 404 until an interruption is planned."""
    token = _get(f"{address}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    try:
        answer = _get(f"{address}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    action: dict[str, Any] = json.loads(answer)
    return f"AWS will {action['action']} this machine at {action['time']}"


def _gcp(address: str) -> str | None:
    """Compute Engine: TRUE or FALSE."""
    answer = _get(f"{address}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return "Google Cloud is preempting this machine" if answer.strip() == "TRUE" else None


def _azure(address: str) -> str | None:
    """Virtual Machines: a list of what is scheduled, for other machines of the scale set too."""
    header = {"Metadata": "true"}
    events = json.loads(_get(f"{address}/metadata/scheduledevents?api-version=2020-07-01", header))["Events"]
    taking = [event for event in events if event["EventType"] in _AZURE_EVENTS]
    for event in taking:
        name = _get(f"{address}/metadata/instance/compute/name?api-version=2021-02-01&format=text", header)
        if name in event["Resources"]:
            return f"Azure has scheduled {event['EventType']} of this machine for {event.get('NotBefore') or 'now'}"
    return None


def _get(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    # no proxy: these addresses are this machine's own
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_TIMEOUT) as response:
        return str(response.read().decode())
