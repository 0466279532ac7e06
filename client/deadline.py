"""A deadline for a whole request: httpx bounds each wait for bytes, so a header that drips would hold up its thread for ever.

https://www.python-httpx.org/advanced/timeouts/ and https://www.encode.io/httpcore/network-backends/
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpcore
import httpx

_PIECE_BYTES: Final = 1 << 16  # written at once: a reader that drips is noticed between two


class Deadline(threading.local):
    """When what this thread asks for must be over."""

    def __init__(self) -> None:
        self._ends = float("inf")

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        self._ends = time.monotonic() + seconds
        try:
            yield
        finally:
            self._ends = float("inf")

    def left(self, timeout: float | None, over: type[Exception]) -> float | None:
        """`timeout`, or what is left if that is less. Raises `over` if nothing is."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise over("the time for the request is over")
        return timeout if left == float("inf") else min(left, left if timeout is None else timeout)


def keep(client: httpx.Client, deadline: Deadline) -> None:
    """From now on `client` keeps `deadline`, through proxies too. httpx has no setting for how its transports reach the network."""
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001
        if isinstance(transport, httpx.HTTPTransport):
            pool = transport._pool  # noqa: SLF001
            pool._network_backend = _Backend(pool._network_backend, deadline)  # noqa: SLF001


class _Backend(httpcore.NetworkBackend):
    def __init__(self, backend: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._backend = backend
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        stream = self._backend.connect_tcp(host, port, left, local_address, socket_options)
        return _Stream(stream, self._deadline)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), _PIECE_BYTES):
            left = self._deadline.left(timeout, httpcore.WriteTimeout)
            self._stream.write(buffer[at : at + _PIECE_BYTES], left)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
