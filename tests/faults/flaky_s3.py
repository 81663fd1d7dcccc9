"""A proxy on loopback before a real S3 server, which makes it slow, or has it answer 500."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.s3_server import S3Server

_UNSENT = {"transfer-encoding", "connection", "keep-alive"}
_ERROR = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"


class FlakyS3:
    """Passes requests on, some time later or not at all.

    Args:
        server: the real one.
        delay: seconds before each request.
        fails: of so many requests one is answered with 500; 0: none.
    """

    def __init__(self, server: S3Server, delay: float = 0.0, fails: int = 0) -> None:
        self._server = server
        self._delay, self._fails = delay, fails
        self._count = itertools.count(1)
        self.failed = 0
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find the proxy and to be let in."""
        return {**self._server.environment, "S3_ENDPOINT_URL": f"http://127.0.0.1:{self._proxy.server_port}"}

    def __enter__(self) -> FlakyS3:
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()

    def _refuses(self) -> bool:
        time.sleep(self._delay)
        refuses = self._fails > 0 and next(self._count) % self._fails == 0
        self.failed += refuses
        return refuses

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        flaky, port = self, self._server.port

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self._body()
                if flaky._refuses():
                    return self._answer(500, [("Content-Type", "application/xml")], _ERROR)
                server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                try:
                    # the Host header, which is signed, goes along as it came
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in _UNSENT}
                    server.request(self.command, self.path, body, headers)
                    answer = server.getresponse()
                    self._answer(answer.status, answer.getheaders(), answer.read())
                except OSError:
                    self._answer(503, [], b"")
                finally:
                    server.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

            def _body(self) -> bytes:
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _answer(self, code: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response_only(code)
                sized = False
                for name, value in headers:
                    if name.lower() not in _UNSENT:
                        sized = sized or name.lower() == "content-length"
                        self.send_header(name, value)
                if not sized:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
