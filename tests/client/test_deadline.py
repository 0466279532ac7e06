"""An answer that drips for ever holds up nobody for longer than a request may take."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpcore
import pytest

from client.deadline import Deadline, _Stream
from client.transport import Transport
from core.errors import Unavailable

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 0.1  # of a wait for bytes; ten times that for a request
DRIP_SECONDS = 0.02


def _say(peer: socket.socket, beginning: bytes, drop: Callable[[int], bytes]) -> None:
    peer.recv(65536)
    peer.sendall(beginning)
    for number in itertools.count():
        peer.sendall(drop(number))
        time.sleep(DRIP_SECONDS)


DRIPS = [
    pytest.param(lambda peer: _say(peer, b"HTTP/1.1 200 ", lambda _: b"O"), id="status"),
    pytest.param(lambda peer: _say(peer, b"HTTP/1.1 200 OK\r\nX: ", lambda _: b"x"), id="header"),
    pytest.param(lambda peer: _say(peer, b"HTTP/1.1 200 OK\r\n", lambda n: b"X-%d: x\r\n" % n), id="headers"),
    pytest.param(lambda peer: _say(peer, b"", lambda _: b"HTTP/1.1 103 Early Hints\r\n\r\n"), id="hints"),
    pytest.param(lambda peer: _say(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", lambda _: b"x"), id="body"),
    pytest.param(
        lambda peer: _say(peer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", lambda _: b"1\r\nx\r\n"),
        id="chunks",
    ),
]  # fmt: skip


@contextmanager
def dripping(act: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that serves one connection so."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                peer, _ = listening.accept()
                with peer:
                    act(peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
    thread.join(10)
    assert not thread.is_alive(), "the connection was left open"


def _ends_in_time(transport: Transport) -> None:
    begun = time.monotonic()
    with transport, pytest.raises(Unavailable, match="too long"):
        transport.call("GET", "/x", scope=None)
    assert 5 * TIMEOUT_SECONDS < time.monotonic() - begun < 5


@pytest.mark.parametrize("act", DRIPS)
def test_a_request_has_a_deadline(act: Callable[[socket.socket], None]) -> None:
    with dripping(act) as port:
        _ends_in_time(Transport(f"http://127.0.0.1:{port}", "token", timeout_seconds=TIMEOUT_SECONDS))


def test_through_a_proxy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    act = lambda peer: _say(peer, b"HTTP/1.1 200 OK\r\nX: ", lambda _: b"x")  # noqa: E731
    with dripping(act) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        _ends_in_time(Transport("https://console.example", "token", timeout_seconds=TIMEOUT_SECONDS))


def test_a_reader_that_drips() -> None:
    taken: list[int] = []

    class Slow(httpcore.NetworkStream):
        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            assert timeout is not None
            taken.append(len(buffer))
            time.sleep(DRIP_SECONDS)

    deadline = Deadline()
    much = b"x" * (100 << 20)
    with deadline.within(50 * DRIP_SECONDS), pytest.raises(httpcore.WriteTimeout):
        _Stream(Slow(), deadline).write(much, 60)
    assert 1 <= len(taken) <= 50
    taken.clear()
    _Stream(Slow(), deadline).write(b"x" * 100_000, 60)
    assert sum(taken) == 100_000


def test_each_thread_has_its_own() -> None:
    """What one thread asks for may take long, while the time of another one is over."""

    def act(peer: socket.socket) -> None:
        peer.recv(65536)
        time.sleep(12 * TIMEOUT_SECONDS)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with dripping(act) as port:
        transport = Transport(f"http://127.0.0.1:{port}", "token", timeout_seconds=TIMEOUT_SECONDS)
        found: list[bytes] = []
        asking = threading.Thread(
            target=lambda: found.append(transport.call("GET", "/", scope=None, wait_seconds=20 * TIMEOUT_SECONDS))
        )
        asking.start()
        time.sleep(TIMEOUT_SECONDS)
        with transport._deadline.within(0):
            asking.join(10)
        transport.close()
    assert found == [b"{}"]
