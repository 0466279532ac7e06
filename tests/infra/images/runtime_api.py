"""The runtime API of AWS Lambda on loopback: hands out invocations one after the other, and keeps what the runtime says of them.

Source: AWS Lambda developer guide, "Using the Lambda runtime API".
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PREFIX = "/2018-06-01/runtime"
ARN = "arn:aws:lambda:eu-central-1:111122223333:function:probe"
SECONDS = 60  # that an invocation may take


class RuntimeApi(ThreadingHTTPServer):
    """`calls` are the routes in the order that they were asked for, `told` what was posted to a route."""

    daemon_threads = True
    block_on_close = False  # who asks for the next invocation waits until the end

    def __init__(self, events: Sequence[object]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events = list(events)
        self.handed = 0
        self.calls: list[str] = []
        self.told: dict[str, Any] = {}
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


@contextmanager
def serving(events: Sequence[object]) -> Iterator[RuntimeApi]:
    """`events` are handed out as `request-1`, `request-2`, …"""
    with RuntimeApi(events) as api:
        thread = threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield api
        finally:
            api.over.set()
            api.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: RuntimeApi

    def do_GET(self) -> None:
        self.server.calls.append(f"GET {self.path}")
        if self.path != f"{PREFIX}/invocation/next":
            self._answer(404, b"{}")
        elif self.server.handed == len(self.server.events):
            self.server.over.wait(SECONDS)  # then the connection ends without an answer
        else:
            self.server.handed += 1
            self._answer(200, json.dumps(self.server.events[self.server.handed - 1]).encode(), {
                "Lambda-Runtime-Aws-Request-Id": f"request-{self.server.handed}",
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + SECONDS) * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": ARN,
            })  # fmt: skip

    def do_POST(self) -> None:
        self.server.calls.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        last = f"{PREFIX}/invocation/request-{self.server.handed}"
        known = (f"{last}/response", f"{last}/error", f"{PREFIX}/init/error")
        self._answer(202 if self.path in known else 404, b'{"status":"OK"}')
        self.server.told[self.path] = json.loads(body)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        # always there with AWS; without a type the client of awslambdaric, which is compiled, ends with SIGSEGV
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass
