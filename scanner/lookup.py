"""How workers ask the parent for verdicts: one socket for each worker, which keeps the borders of messages.

A question is four bytes of number and up to 512 keys (SHA-256 and size, 40 bytes each); the answer repeats the number and
has one byte for each key, then JSON with what is known of those that are not simply clean. A worker that was started in
the place of a dead one tells by the number which answers are not for it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scanner.wire import WireError, dump, load

KEY_BYTES: Final = 40
MAX_KEYS: Final = 512
_ANSWER_BYTES: Final = 128 << 10  # stays below the system's limit for one message
_WAIT_SECONDS: Final = 60.0
_UNKNOWN, _CLEAN, _MORE = 0, 1, 2

FoundMessage = tuple[str, dict[str, Any]]  # namespace of a rule, and a finding as `scanner.wire.finding_out` gives it


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a content: its findings, and the namespaces whose rules it was not searched for."""

    findings: tuple[FoundMessage, ...] = ()
    missing: frozenset[str] = frozenset()


CLEAN: Final = Verdict()


def key_of(digest: bytes, size: int) -> bytes:
    return digest + size.to_bytes(8, "little")


class Client:
    """The worker's side. After a failure it knows nothing more: contents are then scanned."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection: socket.socket | None = connection
        self._number = 0
        self._pid = 0

    def ask(self, keys: Sequence[bytes]) -> list[Verdict | None]:
        known: list[Verdict | None] = []
        for at in range(0, len(keys), MAX_KEYS):
            known += self._ask(keys[at : at + MAX_KEYS])
        return known

    def _ask(self, keys: Sequence[bytes]) -> list[Verdict | None]:
        if self._connection is None:
            return [None] * len(keys)
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._number = int.from_bytes(os.urandom(4), "little")
        self._number = (self._number + 1) & 0xFFFFFFFF
        head = self._number.to_bytes(4, "little")
        try:
            self._connection.settimeout(_WAIT_SECONDS)
            self._connection.send(head + b"".join(keys))
            while not (answer := self._connection.recv(_ANSWER_BYTES)).startswith(head):
                if not answer:
                    raise OSError("the parent is gone")  # noqa: TRY301  handled just below
            return _understood(answer[4:], len(keys))
        except (OSError, WireError):
            self._connection = None
            return [None] * len(keys)


def _understood(answer: bytes, count: int) -> list[Verdict | None]:
    states, rest = answer[:count], answer[count:]
    known: list[Verdict | None] = [CLEAN if state == _CLEAN else None for state in states]
    if rest:
        for at, findings, missing in load(rest)["more"]:
            known[at] = Verdict(tuple((name, finding) for name, finding in findings), frozenset(missing))
    return known


Lookup = Callable[[Sequence[bytes]], Sequence[Verdict | None]]


def answer(connection: socket.socket, lookup: Lookup) -> bool:
    """The parent's side: one question, one answer; False when the other end is closed. Raises `WireError`."""
    try:
        question = connection.recv(4 + KEY_BYTES * MAX_KEYS + 1)
    except BlockingIOError:
        return True
    except OSError:
        return False
    if not question:
        return False
    size = len(question) - 4
    if size < 0 or size % KEY_BYTES or size > KEY_BYTES * MAX_KEYS:
        raise WireError("a question for verdicts that is none")
    keys = [question[at : at + KEY_BYTES] for at in range(4, len(question), KEY_BYTES)]
    states = bytearray()
    more: list[list[object]] = []
    room = _ANSWER_BYTES - 4 - len(keys) - 100
    for at, known in enumerate(lookup(keys)):
        if known is None:
            states.append(_UNKNOWN)
        elif not known.findings and not known.missing:
            states.append(_CLEAN)
        else:
            entry = [at, list(known.findings), sorted(known.missing)]
            room -= len(json.dumps(entry)) + 2
            states.append(_MORE if room >= 0 else _UNKNOWN)  # what is too long to tell is scanned again
            if room >= 0:
                more.append(entry)
    try:
        connection.send(question[:4] + bytes(states) + (dump({"more": more}) if more else b""))
    except BlockingIOError:
        pass  # it asked and asked and never listened
    except OSError:
        return False
    return True
