"""A headless Chromium, spoken to in its own DevTools protocol: what a person would see of a page, and do with it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

_PATIENCE = 60.0  # seconds, on a busy machine
_KEYS = {"Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, " ": 32}


def chromium() -> str | None:
    """Where Chromium is, if it is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tab:
    """One page that is open.

    Attributes:
        complaints: errors and warnings of the console, and exceptions of scripts.
        requests: addresses that were asked for, besides the page and what is inside of it.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and what it returns."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(_PATIENCE))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._hear(message.get("method"), message.get("params", {}))

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Open a page, and wait for its plots."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.resize(width, height)
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=path.as_uri())
        ready = "document.documentElement.classList.contains('drawn') || !document.querySelector('.chart')"
        self.wait_for(ready if script else "document.readyState === 'complete'")

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, condition: str) -> None:
        until = time.monotonic() + _PATIENCE
        while not self.evaluate(f"document.readyState === 'complete' && !!({condition})"):
            assert time.monotonic() < until, f"{condition} never came true; {self.complaints}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": _KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": " "} if key == " " else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def screenshot(self, path: Path, full: bool = True) -> Path:
        """What is to be seen, down to the page's end if it is to be `full`."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def _hear(self, event: str | None, about: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
            self.complaints.append(str(about["args"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(about["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            address = about["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:")):
                self.requests.append(address)


@contextmanager
def headless(profile: Path) -> Iterator[Tab]:
    """Start Chromium, without a sandbox, since tests often run as root; end it afterwards.

    Args:
        profile: a folder for what it writes.
    """
    executable = chromium()
    assert executable is not None
    command = [
        executable, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-port=0",
        f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _wait_for_port(profile / "DevToolsActivePort", process)
        with connect(f"ws://127.0.0.1:{port[0]}{port[1]}", max_size=None, open_timeout=_PATIENCE) as browser:
            browser.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
            target = json.loads(browser.recv(_PATIENCE))["result"]["targetId"]
            address = f"ws://127.0.0.1:{port[0]}/devtools/page/{target}"
            with connect(address, max_size=None, open_timeout=_PATIENCE) as page:
                yield Tab(page)
    finally:
        process.terminate()
        process.wait(_PATIENCE)


def _wait_for_port(file: Path, process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Its port, and the path of its own address."""
    until = time.monotonic() + _PATIENCE
    while not (file.exists() and file.read_text().count("\n")):
        assert process.poll() is None and time.monotonic() < until, "Chromium did not start"
        time.sleep(0.05)
    port, path = file.read_text().split("\n")[:2]
    return port, path
