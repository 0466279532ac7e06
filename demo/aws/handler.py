"""How the server talks HTTP: connections stay open, as those of AWS do, and each answer is one write."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar
from weakref import WeakSet

from moto.moto_server.werkzeug_app import MotoRequestHandler


class Handler(MotoRequestHandler):
    """werkzeug's own way of answering closes every connection after it waited 10 ms for the rest of the request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    connections: ClassVar[WeakSet[socket.socket]] = WeakSet()

    @classmethod
    def disconnect(cls) -> None:
        """End every connection that is still open."""
        for connection in list(cls.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def setup(self) -> None:
        super().setup()
        self.connections.add(self.connection)

    def run_wsgi(self) -> None:
        """Serve one request. The application reads the whole body and gives a Content-Length."""
        if self.headers.get("Expect", "").lower().strip() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head: list[bytes] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], _: object = None, /
        ) -> Callable[[bytes], object]:
            lines = [f"HTTP/1.1 {status}", f"Date: {self.date_time_string()}"]
            lines += [f"{name}: {value}" for name, value in headers]
            head[:] = ["\r\n".join([*lines, "", ""]).encode("latin-1")]
            return head.append

        try:
            for chunk in self.server.app(self.make_environ(), start_response):
                head.append(chunk)
                self._write(head)
                head.clear()
        except OSError:  # the caller is gone, or was sent away
            self.close_connection = True
        except Exception as error:  # noqa: BLE001  a mistake of moto's or ours is one failed request, and is seen
            self.close_connection = True
            self.server.log("error", "%r", error)
            reason = HTTPStatus.INTERNAL_SERVER_ERROR.phrase
            text = f"emulator: {error!r}".encode()
            self._write([f"HTTP/1.1 500 {reason}\r\nContent-Length: {len(text)}\r\n\r\n".encode(), text])

    def _write(self, parts: list[bytes]) -> None:
        sent = self.connection.sendmsg(parts)
        rest = b"".join(parts)[sent:] if sent < sum(map(len, parts)) else b""
        if rest:
            self.connection.sendall(rest)

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  the name is werkzeug's
        """The call log has every request."""
