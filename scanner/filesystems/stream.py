"""A file's content as a stream over runs of a volume: what every filesystem reader hands out."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from core.blocks import BlockSource, Bytes
from core.errors import Unreadable

CHUNK_BYTES = 1 << 20
_ZEROS = bytes(CHUNK_BYTES)


class Run(NamedTuple):
    """`length` bytes of a file from `logical` on, stored at `offset` of the volume."""

    logical: int
    offset: int
    length: int


class RunStream(io.RawIOBase):
    """`size` bytes, of which `runs` (ascending, not overlapping, inside `size`) are stored and all else is zero.

    `chunks` is the fast way to read all of it: pieces of at most 1 MiB, without a copy where the source lends its memory.
    Raises `Unreadable` where the volume ends before the run does.
    """

    def __init__(self, source: BlockSource, runs: Sequence[Run], size: int) -> None:
        super().__init__()
        self._source = source
        self._runs = runs
        self._starts = [run.logical for run in runs]
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("seek before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        piece = self._piece(self._position, min(len(buffer), CHUNK_BYTES))
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def peek(self, size: int = 8192) -> Bytes:
        """The next bytes without moving on: lets `readline` work in pieces instead of byte by byte."""
        return bytes(self._piece(self._position, max(1, min(size, 8192))))

    def chunks(self) -> Iterator[Bytes]:
        """The whole content from the start, piece by piece."""
        position = 0
        while position < self._size:
            piece = self._piece(position, CHUNK_BYTES)
            yield piece
            position += len(piece)

    def _piece(self, position: int, most: int) -> Bytes:
        """Between 1 and `most` bytes at `position`; empty at the end."""
        most = min(most, self._size - position)
        if most <= 0:
            return b""
        at = bisect_right(self._starts, position) - 1
        if at >= 0:
            logical, offset, length = self._runs[at]
            inside = position - logical
            if inside < length:
                wanted = min(most, length - inside)
                data = self._source.read(offset + inside, wanted)
                if len(data) != wanted:
                    raise Unreadable(f"the volume ends inside the file, at byte {position + len(data)} of {self._size}")
                return data
        following = self._starts[at + 1] if at + 1 < len(self._starts) else self._size
        return memoryview(_ZEROS)[: min(most, following - position)]
