"""Blocks of disks in one memory file of fixed size, which a process without any right can read but not write.

Two files: the data, cut into slots of one block, and a table with one number of 64 bits for each slot, its *generation*.
A reader that was told (slot, generation) copies the bytes and looks at the table afterwards: if the number is still the
same, what it copied is that block, as the number changes before anything else is written into the slot. So an eviction
can make a reader ask again, but never gives it another block's bytes.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple, Self

from core.blocks import Bytes
from core.errors import Unreadable

BLOCK_BYTES: Final = 512 << 10
STORE_BYTES: Final = 160 << 20
_GENERATION_BYTES: Final = 8


class Key(NamedTuple):
    """Block number `block` of the disk that got the number `disk` from `BlockStore.disk`."""

    disk: int
    block: int


class Place(NamedTuple):
    """Where a block is, as long as the slot's generation is this one."""

    slot: int
    generation: int


@dataclass(slots=True)
class _Entry:
    place: Place
    pins: int


class BlockStore:
    """At most `limit_bytes` (at least 8 blocks), the blocks used least recently making room. Safe for many threads.

    `data_fd` and `table_fd` are read-only descriptors for the process that shares it. Raises `OSError` without memory files.
    """

    def __init__(self, limit_bytes: int = STORE_BYTES) -> None:
        self.slots = max(8, limit_bytes // BLOCK_BYTES)
        self._data, self.data_fd = _memory_file("kumomori-blocks", self.slots * BLOCK_BYTES)
        self._table_file, self.table_fd = _memory_file("kumomori-table", self.slots * _GENERATION_BYTES)
        self._map = mmap.mmap(self._table_file, self.slots * _GENERATION_BYTES)
        self._table = memoryview(self._map).cast("Q")
        self._room = threading.Condition()
        self._free = list(range(self.slots - 1, -1, -1))
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()  # the least recently used first
        self._disks = 0
        self._generation = 0
        self._using = 0  # calls that work on the data file at this moment
        self._closed = False

    def disk(self) -> int:
        """A number for one more disk."""
        with self._room:
            self._disks += 1
            return self._disks

    def put(self, key: Key, block: Bytes) -> Place:
        """Keep `block` (at most `BLOCK_BYTES`), pinned once. Waits while all slots are pinned. Raises `Unreadable` if closed."""
        if len(block) > BLOCK_BYTES:
            raise ValueError("more than one block")
        with self._room:
            if (known := self._pinned(key)) is not None:
                return known
            slot = self._slot()
            self._using += 1
        # nobody knows of this slot now: it can be written without holding up the others
        try:
            os.pwrite(self._data, block, slot * BLOCK_BYTES)
        finally:
            self._used()
        with self._room:
            if self._closed:
                raise Unreadable("the block store was closed")
            if (known := self._pinned(key)) is not None:  # another thread was faster
                self._free.append(slot)
                return known
            self._generation += 1
            place = Place(slot, self._generation)
            self._table[slot] = place.generation
            self._entries[key] = _Entry(place, 1)
            return place

    def pin(self, key: Key) -> Place | None:
        """Where `key` is, if it is here; it stays there until `unpin`."""
        with self._room:
            return self._pinned(key)

    def unpin(self, key: Key) -> None:
        with self._room:
            entry = self._entries.get(key)
            if entry is not None and entry.pins:
                entry.pins -= 1
                if not entry.pins:
                    self._room.notify()

    def touch(self, key: Key) -> bool:
        """It was used just now; False if it is not here."""
        with self._room:
            if key not in self._entries:
                return False
            self._entries.move_to_end(key)
            return True

    def copy(self, place: Place, start: int, length: int) -> bytes | None:
        """`length` bytes from `start` on of the block at `place`, None if it is not there any more."""
        with self._room:
            if self._closed:
                raise Unreadable("the block store was closed")
            self._using += 1
        try:
            data = os.pread(self._data, length, place.slot * BLOCK_BYTES + start)
        finally:
            self._used()
        with self._room:
            return data if not self._closed and self._table[place.slot] == place.generation else None

    def forget(self, disk: int) -> None:
        """All blocks of a disk that is not read any more, but for those still pinned."""
        with self._room:
            for key in [key for key, entry in self._entries.items() if key.disk == disk and not entry.pins]:
                self._free.append(self._evict(key))
            self._room.notify_all()

    def _used(self) -> None:
        with self._room:
            self._using -= 1
            if self._closed:
                self._room.notify_all()

    def _pinned(self, key: Key) -> Place | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.pins += 1
        self._entries.move_to_end(key)
        return entry.place

    def _slot(self) -> int:
        while not self._closed:
            if self._free:
                return self._free.pop()
            for key, entry in self._entries.items():
                if not entry.pins:
                    return self._evict(key)
            self._room.wait(1)
        raise Unreadable("the block store was closed")

    def _evict(self, key: Key) -> int:
        slot = self._entries.pop(key).place.slot
        self._table[slot] = 0  # before anybody writes there
        return slot

    def close(self) -> None:
        with self._room:
            if self._closed:
                return
            self._closed = True
            self._entries.clear()
            self._table.release()
            self._map.close()
            self._room.notify_all()
            while self._using:  # a number of a closed file could soon be another file's
                self._room.wait()
        for fd in (self._data, self.data_fd, self._table_file, self.table_fd):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _memory_file(name: str, size: int) -> tuple[int, int]:
    """(to write, to read)"""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.fchmod(fd, 0)  # the reader's descriptor is no way to one that can write
    except OSError:
        os.close(fd)
        raise
    return fd, reader
