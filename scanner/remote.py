"""A disk whose bytes another process fetches: the parser's side, and the words that both sides use.

Each process of the parser has a socket of its own that keeps the borders of messages. A question is a number, a block that
is wanted (or none), blocks that are wanted soon and blocks that were used since the last question; the answer repeats the
number and says in which slot of the shared store (`cloud.store`) the block is, and with which generation. The slot keeps
that block at least until this socket's next message. A worker that was started in the place of a dead one tells by the
number which answers are not for it. Made to work behind the guards: it only reads descriptors that it was started with.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from core.blocks import Extent
from core.errors import LimitExceeded, Unreadable
from scanner.images.base import READ_LIMIT
from scanner.shared import BLOCK_BYTES

QUESTION: Final = struct.Struct("<IHHHxxQ")  # number, disk, hints, used, block; then as many numbers of blocks
ANSWER: Final = struct.Struct(
    "<IBxxxIQ"
)  # number, state, slot, generation or end of the zeros; then text, if it failed
NONE: Final = (1 << 64) - 1  # in the place of a block: only hints, no answer
HERE, ZEROS, FAILED = 0, 1, 2
MAX_HINTS: Final = 64
QUESTION_BYTES: Final = QUESTION.size + 8 * 2 * MAX_HINTS
MAX_TEXT_BYTES: Final = 1000
_WAIT_SECONDS: Final = 150.0  # the other side gives up earlier, and says why
_MOST_KNOWN: Final = 1 << 17
_MOST_PLANNED: Final = 1 << 16
_TRIES: Final = 8
_MOST_AHEAD: Final = 4  # blocks that are fetched ahead of one who reads one after the other without saying so


@dataclass(frozen=True)
class RemotePart:
    """What a parser is told of a disk: its number in the job, bytes, two descriptors, slots, and how far to look ahead."""

    disk: int
    size: int
    data: int
    table: int
    slots: int
    window: int


class Channels:
    """The sockets of a parser: one for each worker, by its number, and the last for the parser itself."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = sockets
        self._now = len(sockets) - 1
        self._pid = 0
        self._number = 0
        self._lost: set[int] = set()

    def use(self, worker: int) -> None:
        """From now on this process is worker number `worker`."""
        self._now = worker

    def say(self, disk: int, block: int, hints: Sequence[int], used: Sequence[int]) -> tuple[int, int, int, str] | None:
        """(state, slot, generation or end, text) for `block`; None if it is `NONE`. Raises `Unreadable`."""
        if self._now in self._lost:
            raise Unreadable("the process that fetches the disk is gone")
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._number = int.from_bytes(os.urandom(4), "little")
        self._number = (self._number + 1) & 0xFFFFFFFF
        numbers = (*hints, *used)
        head = QUESTION.pack(self._number, disk, len(hints), len(used), block)
        connection = self._sockets[self._now]
        try:
            connection.settimeout(_WAIT_SECONDS)
            connection.send(head + struct.pack(f"<{len(numbers)}Q", *numbers))
            while block != NONE:
                said = connection.recv(ANSWER.size + MAX_TEXT_BYTES)
                if len(said) < ANSWER.size:
                    raise OSError("the parent is gone")  # noqa: TRY301  handled just below
                number, state, slot, value = ANSWER.unpack_from(said)
                if number == self._number:
                    return state, slot, value, said[ANSWER.size :].decode("utf-8", "replace")
        except TimeoutError as error:
            self._lost.add(self._now)
            raise Unreadable(f"block {block} of the disk did not come in {_WAIT_SECONDS:g} s") from error
        except OSError as error:
            self._lost.add(self._now)
            raise Unreadable("the process that fetches the disk is gone") from error
        return None


class RemoteSource:
    """See `core.blocks.BlockSource`. `prefetch` replaces what was announced before."""

    far = True

    def __init__(self, part: RemotePart, channels: Channels) -> None:
        self.size = part.size
        self._disk = part.disk
        self._data = part.data
        self._window = max(1, min(part.window, MAX_HINTS))
        self._channels = channels
        self._table = memoryview(mmap.mmap(part.table, part.slots * 8, prot=mmap.PROT_READ)).cast("Q")
        self._known: dict[int, tuple[int, int]] = {}
        self._zeros = (0, 0)
        self._used: dict[int, None] = {}
        self._plan: list[int] = []
        self._places: dict[int, int] = {}
        self._sent = 0
        self._last = -1
        self._streak = 0
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        length = min(length, max(0, self.size - offset))
        if not length:
            return b""
        if length > READ_LIMIT:
            raise LimitExceeded(f"one read of {length} bytes; the limit is {READ_LIMIT}")
        first, start = divmod(offset, BLOCK_BYTES)
        with self._lock:
            if start + length <= BLOCK_BYTES:
                return self._piece(first, start, length, first)
            last = (offset + length - 1) // BLOCK_BYTES
            pieces = [self._piece(first, start, BLOCK_BYTES - start, last)]
            pieces += [self._piece(block, 0, BLOCK_BYTES, last) for block in range(first + 1, last)]
            pieces.append(self._piece(last, 0, offset + length - last * BLOCK_BYTES, last))
        return b"".join(pieces)

    def prefetch(self, extents: Sequence[Extent]) -> None:
        """These are read soon, in that order: they are fetched meanwhile, a bounded number ahead of the reader."""
        with self._lock:
            self._plan = list(islice(dict.fromkeys(self._wanted(extents)), _MOST_PLANNED))
            self._places = {block: place for place, block in enumerate(self._plan)}
            self._sent = 0
            if hints := self._next_hints(0):
                self._say(NONE, hints)

    def _wanted(self, extents: Sequence[Extent]) -> Iterator[int]:
        for one in extents:
            end = min(one.offset + one.length, self.size)
            if one.offset < 0 or end <= one.offset:
                continue
            for block in range(one.offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1):
                known = self._known.get(block)
                if known is None or self._table[known[0]] != known[1]:
                    yield block

    def _next_hints(self, place: int) -> list[int]:
        """What comes into view for a reader at `place` of the plan; in some numbers, so that messages are few."""
        until = min(len(self._plan), place + self._window)
        if until - self._sent < min(self._window // 2, len(self._plan) - self._sent) or until <= self._sent:
            return []
        hints, self._sent = self._plan[self._sent : until], until
        return hints

    def _piece(self, block: int, start: int, length: int, last: int) -> bytes:
        place = self._places.get(block)
        hints = self._next_hints(place) if place is not None else []
        for _ in range(_TRIES):
            if self._zeros[0] <= block < self._zeros[1]:
                if hints:
                    self._say(NONE, hints)
                return bytes(length)
            known = self._known.get(block)
            if known is None:
                rest = range(block + 1, min(last, block + MAX_HINTS - len(hints)) + 1)
                known = self._ask(block, [*hints, *(one for one in rest if one not in self._known)])
                hints = []
                if known is None:
                    continue
            data = os.pread(self._data, length, known[0] * BLOCK_BYTES + start)
            if self._table[known[0]] == known[1] and len(data) == length:
                self._used[block] = None
                if hints or len(self._used) >= 4 * MAX_HINTS:
                    self._say(NONE, hints)
                return data
            self._known.pop(block, None)  # it had to make room for another
        raise Unreadable(f"block {block} of the disk was given up {_TRIES} times before it could be read")

    def _ask(self, block: int, hints: Sequence[int]) -> tuple[int, int] | None:
        """(slot, generation), None if it is among zeros. Raises `Unreadable`."""
        answer = self._say(block, [*hints, *self._ahead(block)][:MAX_HINTS])
        assert answer is not None
        state, slot, value, text = answer
        if state == ZEROS:
            self._zeros = (block, value)
            return None
        if state != HERE:
            raise Unreadable(text)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[block] = (slot, value)
        return slot, value

    def _ahead(self, block: int) -> range:
        """Tables of metadata lie in a row, and nobody announces them."""
        self._streak = self._streak + 1 if block == self._last + 1 else 0
        self._last = block
        if block in self._places:
            return range(0)
        blocks = -(-self.size // BLOCK_BYTES)
        return range(block + 1, min(block + 1 + min(self._streak, _MOST_AHEAD), blocks))

    def _say(self, block: int, hints: Sequence[int]) -> tuple[int, int, int, str] | None:
        used = list(islice(reversed(self._used), MAX_HINTS))
        self._used.clear()
        return self._channels.say(self._disk, block, hints, used)
