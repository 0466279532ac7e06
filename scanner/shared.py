"""Memory that the workers of one parser share. Made before the guards: they refuse new shared memory."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Final

from core.blocks import BlockSource, Bytes, Extent, is_far, prefetch

BLOCK_BYTES: Final = 512 << 10  # what cloud platforms hand out at once
_SLOT_BYTES: Final = 16
_SLOTS: Final = 1 << 19
_MOST_BLOCKS: Final = 1 << 28  # of one disk: 128 TiB


class Seen:
    """Contents that were found clean in this scan, by 16 bytes of their SHA-256.

    Direct-mapped: a new entry replaces the one in its place, so it is bounded and needs no lock. A half-written entry
    equals no digest but by 64 bits of chance, and then only one of this disk's own files.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOTS * _SLOT_BYTES)

    def add(self, digest: bytes) -> None:
        at = int.from_bytes(digest[16:20], "little") % _SLOTS * _SLOT_BYTES
        self._memory[at : at + _SLOT_BYTES] = digest[:_SLOT_BYTES]

    def __contains__(self, digest: bytes) -> bool:
        at = int.from_bytes(digest[16:20], "little") % _SLOTS * _SLOT_BYTES
        return self._memory[at : at + _SLOT_BYTES] == digest[:_SLOT_BYTES]


class Touched:
    """A disk that counts the bytes asked of it, and its blocks of 512 KiB, each once.

    `bytes_read` counts in this process alone, and bytes asked for twice count twice; `blocks` is shared by all workers.
    """

    def __init__(self, source: BlockSource, board: mmap.mmap | None, first: int) -> None:
        """The disk's blocks are bytes of `board` from `first` on; without a board blocks are not counted."""
        self._source = source
        self._board = board
        self._first = first
        self.size = source.size
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> Bytes:
        data = self._source.read(offset, length)
        size = len(data)
        self.bytes_read += size
        if self._board is not None and size:
            first = self._first + offset // BLOCK_BYTES
            last = self._first + (offset + size - 1) // BLOCK_BYTES
            if first == last:
                self._board[first] = 1
            else:
                self._board[first : last + 1] = b"\1" * (last + 1 - first)
        return data

    @property
    def far(self) -> bool:
        return is_far(self._source)

    def prefetch(self, extents: Sequence[Extent]) -> None:
        prefetch(self._source, extents)


class Blocks:
    """Room to count the blocks of disks whose sizes are not known before they are opened."""

    def __init__(self, bytes_of_files: int) -> None:
        """`bytes_of_files`: the disks' image files together; a disk may be larger than its file, then it is not counted."""
        # a sparse format may hold far more than its file: room for 16 TiB costs nothing until it is used
        self._room = min(_MOST_BLOCKS, bytes_of_files // BLOCK_BYTES + (16 << 40) // BLOCK_BYTES)
        self._board = mmap.mmap(-1, self._room)
        self._used = 0

    def watch(self, source: BlockSource) -> Touched:
        wanted = -(-source.size // BLOCK_BYTES)
        if self._used + wanted > self._room:
            return Touched(source, None, 0)
        first = self._used
        self._used += wanted
        return Touched(source, self._board, first)

    def count(self) -> int:
        """Blocks that were read, of all disks."""
        return sum(self._board[at : min(at + (1 << 20), self._used)].count(1) for at in range(0, self._used, 1 << 20))
