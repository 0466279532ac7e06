"""What volumes and snapshots hold, on disk: a volume is a sparse file, a snapshot is a list of shared blocks.

Blocks of all snapshots stand in one file, each content once: a snapshot, a copy or a clone costs what differs.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from errno import ENXIO
from pathlib import Path
from threading import Lock

BLOCK = 512 << 10
GIB = 1 << 30
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class BlockMap:
    """Which blocks a snapshot has: indexes in rising order, and the slot in the store of each."""

    indexes: array[int] = field(default_factory=lambda: array("Q"))
    slots: array[int] = field(default_factory=lambda: array("Q"))

    def __len__(self) -> int:
        return len(self.indexes)

    def slot(self, index: int) -> int | None:
        """The slot of block `index`; None if the snapshot does not have it."""
        at = bisect_left(self.indexes, index)
        return self.slots[at] if at < len(self.indexes) and self.indexes[at] == index else None

    def set(self, index: int, slot: int) -> int | None:
        """Put `slot` at `index`; the slot that was there, or None."""
        at = bisect_left(self.indexes, index)
        if at < len(self.indexes) and self.indexes[at] == index:
            before, self.slots[at] = self.slots[at], slot
            return before
        self.indexes.insert(at, index)
        self.slots.insert(at, slot)
        return None


class BlockStore:
    """Blocks by slot, in one file; each content is kept once and counted. Safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._lock = Lock()
        self._digests: list[bytes] = []
        self._uses = array("L")
        self._by_digest: dict[bytes, int] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        """How many different blocks are kept."""
        return len(self._by_digest)

    def put(self, data: bytes) -> int:
        """Keep a block of exactly `BLOCK` bytes, once more if it is known; its slot."""
        if len(data) != BLOCK:
            raise ValueError(f"a block is {BLOCK} bytes")
        digest = hashlib.sha256(data).digest()
        with self._lock:
            slot = self._by_digest.get(digest)
            if slot is not None:
                self._uses[slot] += 1
                return slot
            if self._free:
                slot = self._free.pop()
                self._digests[slot], self._uses[slot] = digest, 1
            else:
                slot = len(self._digests)
                self._digests.append(digest)
                self._uses.append(1)
            os.pwrite(self._fd, data, slot * BLOCK)
            self._by_digest[digest] = slot
            return slot

    def read(self, slot: int) -> bytes:
        return os.pread(self._fd, BLOCK, slot * BLOCK)

    def digest(self, slot: int) -> bytes:
        """SHA-256 of a block."""
        return self._digests[slot]

    def share(self, blocks: BlockMap) -> BlockMap:
        """The same blocks for one more owner."""
        with self._lock:
            for slot in blocks.slots:
                self._uses[slot] += 1
        return BlockMap(blocks.indexes[:], blocks.slots[:])

    def release(self, slots: Sequence[int]) -> None:
        """One owner less; what nobody owns is freed on the disk, too."""
        with self._lock:
            for slot in slots:
                self._uses[slot] -= 1
                if not self._uses[slot]:
                    del self._by_digest[self._digests[slot]]
                    self._free.append(slot)
                    _punch(self._fd, slot * BLOCK, BLOCK)

    def close(self) -> None:
        os.close(self._fd)


@dataclass
class Content:
    """The bytes of a volume: a sparse file of `size_bytes`. All snapshots of one `lineage` can be compared."""

    path: Path
    size_bytes: int
    lineage: str

    def write(self, offset: int, data: bytes) -> None:
        """Overwrite bytes in place, as a running machine does."""
        if not 0 <= offset <= self.size_bytes - len(data):
            raise ValueError("outside of the volume")
        with self.path.open("r+b") as out:
            out.seek(offset)
            out.write(data)

    def fill(self, first: int, blocks: int, seed: int = 0) -> None:
        """Overwrite `blocks` blocks from block `first` on with bytes that depend on `seed` and are all different."""
        luck = random.Random(seed)
        with self.path.open("r+b") as out:
            out.seek(first * BLOCK)
            for _ in range(min(blocks, self.size_bytes // BLOCK - first)):
                out.write(luck.randbytes(BLOCK))

    def read(self, offset: int, length: int) -> bytes:
        """Short only at the end."""
        with self.path.open("rb") as source:
            source.seek(offset)
            return source.read(min(length, max(self.size_bytes - offset, 0)))

    def discard(self, offset: int, length: int) -> None:
        """Trim: the bytes are zero, and whole blocks of them are no longer in later snapshots."""
        with self.path.open("r+b") as out:
            _punch(out.fileno(), offset, length)

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Every block with something written to it, in order, as (index, `BLOCK` bytes)."""
        with self.path.open("rb") as source:
            fd = source.fileno()
            at = 0
            while at < self.size_bytes:
                try:
                    at = os.lseek(fd, at, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == ENXIO:  # nothing but a hole up to the end
                        return
                    raise
                index = at // BLOCK
                yield index, os.pread(fd, BLOCK, index * BLOCK).ljust(BLOCK, b"\0")
                at = (index + 1) * BLOCK


def take(content: Content, store: BlockStore) -> BlockMap:
    """All that a volume holds now."""
    taken = BlockMap()
    for index, data in content.blocks():
        taken.indexes.append(index)
        taken.slots.append(store.put(data))
    return taken


def restore(blocks: BlockMap, store: BlockStore, path: Path, size_bytes: int) -> None:
    """Write a volume's file that holds what a snapshot holds; its other bytes are holes."""
    with path.open("wb") as out:
        out.truncate(size_bytes)
        for index, slot in zip(blocks.indexes, blocks.slots, strict=True):
            out.seek(index * BLOCK)
            out.write(store.read(slot))


def _punch(fd: int, offset: int, length: int) -> None:
    mode = _KEEP_SIZE | _PUNCH_HOLE
    if _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot make a hole: {os.strerror(number)}")
