"""Sends an answer, whole or spoilt as a fault says."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from demo.aws.errors import Answer
from demo.aws.requests import Environ
from demo.aws.rules import Fault, FaultKind

StartResponse = Callable[..., Any]


def send(answer: Answer, fault: Fault | None, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Write `answer`, spoilt as `fault` says."""
    kind = fault.kind if fault and answer.status < 300 else None
    if fault and kind is FaultKind.HANG_AFTER:
        time.sleep(fault.seconds)
    if kind in (FaultKind.HANG_AFTER, FaultKind.RESET_AFTER):
        drop(environ)
    if kind is not None:
        answer = _spoilt(answer, kind)
    body = answer.body
    start_response(
        f"{answer.status} {'OK' if answer.status < 300 else 'Error'}",
        [*answer.headers, ("Content-Length", str(len(body)))],
    )
    if kind is FaultKind.CUT_BODY:
        return _cut(body, environ)
    return [body]


def _spoilt(answer: Answer, kind: FaultKind) -> Answer:
    headers, body = answer.headers, answer.body
    if kind is FaultKind.WRONG_CHECKSUM:
        wrong = "A" * 43 + "="
        headers = [(name, wrong if name == "x-amz-Checksum" else value) for name, value in headers]
    elif kind is FaultKind.NO_CHECKSUM:
        headers = [(name, value) for name, value in headers if name != "x-amz-Checksum"]
    elif kind is FaultKind.WRONG_BYTES and body:
        body = body[:-1] + bytes([body[-1] ^ 1])
    elif kind is FaultKind.SHORT_BODY:
        body = body[: len(body) // 2]
        headers = [(name, str(len(body)) if name == "x-amz-Data-Length" else value) for name, value in headers]
    elif kind is FaultKind.EMPTY_PAGE:
        body = _emptied(body)
    return Answer(answer.status, headers, body)


def _emptied(body: bytes) -> bytes:
    """A listing's page without its items."""
    fields = json.loads(body)
    return json.dumps({name: [] if isinstance(value, list) else value for name, value in fields.items()}).encode()


def _cut(body: bytes, environ: Environ) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    drop(environ, hard=False)


def drop(environ: Environ, *, hard: bool = True) -> None:
    """End the connection; `hard` resets it. Raises `ConnectionResetError`, for the server to let it be."""
    connection = environ.get("werkzeug.socket")
    if isinstance(connection, socket.socket):
        if hard:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError
