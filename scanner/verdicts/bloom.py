"""A bloom filter in a file that processes share: says of most unknown contents, without asking the database, that they are.

It starts from the SHA-256 itself, so nothing is hashed again. Bits are only set. Two processes that set bits of one byte at
once may lose one: then a known content counts as unknown and is searched again, which costs time and nothing else. The
same holds for a damaged file; a bit too many sends the question to the database. So it needs no checksum of its bits.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("<8sQ48x")
_MAGIC: Final = b"KUMOBLM1"
_PLACES: Final = struct.Struct("<4I")
BITS_PER_VERDICT: Final = 10  # with 4 bits for each content 1.2 % of the unknown ones are asked for
_MAX_BYTES: Final = 1 << 31


class Bloom:
    """Raises `OSError`, and `ValueError` for a file that is not a filter of this size."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        """Opens the filter in `path`, or makes one of `size_bytes`."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            there = os.fstat(fd).st_size
            if not there:
                os.posix_fallocate(fd, 0, _HEAD.size + size_bytes)  # a full disk is told now, not by a signal later
                os.pwrite(fd, _HEAD.pack(_MAGIC, size_bytes), 0)
                there = _HEAD.size + size_bytes
            if not _HEAD.size < there <= _HEAD.size + _MAX_BYTES:
                raise ValueError("not a filter")
            magic, size = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
            if magic != _MAGIC or size != there - _HEAD.size:
                raise ValueError("not a filter")
            self._map = mmap.mmap(fd, there)
        finally:
            os.close(fd)
        self.size_bytes = size
        self._bits = size * 8

    def __contains__(self, key: bytes) -> bool:
        memory, bits = self._map, self._bits
        for place in _PLACES.unpack_from(key):
            bit = place % bits
            if not memory[64 + (bit >> 3)] >> (bit & 7) & 1:
                return False
        return True

    def add(self, keys: Iterable[bytes]) -> None:
        memory, bits = self._map, self._bits
        for key in keys:
            for place in _PLACES.unpack_from(key):
                bit = place % bits
                memory[64 + (bit >> 3)] |= 1 << (bit & 7)

    def close(self) -> None:
        self._map.close()


def size_for(verdicts: int) -> int:
    """Bytes for so many verdicts."""
    return max(1 << 16, min(_MAX_BYTES, verdicts * BITS_PER_VERDICT // 8))
