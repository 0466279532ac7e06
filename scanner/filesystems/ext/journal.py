"""Replay of the jbd2 journal in memory: what the kernel would write at mount is laid over the source, which stays as it is.

A snapshot of a running machine is never cleanly unmounted; without this, files are missing and deleted ones still show.
Source: "ext4 Data Structures and Algorithms", 3.6 Journal (jbd2), and the three passes of the kernel's fs/jbd2/recovery.c.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from core.blocks import BlockSource, Bytes, Extent, is_far, prefetch
from core.errors import Corrupt, Unsupported
from scanner.filesystems.ext.crc import MASK, crc32_be, crc32c
from scanner.filesystems.ext.mapping import BlockRun

_MAGIC: Final = 0xC03B3998
_DESCRIPTOR, _COMMIT, _SUPER_V1, _SUPER_V2, _REVOKE = 1, 2, 3, 4, 5
_COMPAT_CHECKSUM: Final = 0x1
_64BIT, _ASYNC, _CSUM_V2, _CSUM_V3, _FAST_COMMIT = 0x2, 0x4, 0x8, 0x10, 0x20
_INCOMPAT_READ: Final = 0x1 | _64BIT | _ASYNC | _CSUM_V2 | _CSUM_V3 | _FAST_COMMIT
_ESCAPED, _SAME_UUID, _LAST = 0x1, 0x2, 0x8
_FAST_COMMIT_HEAD: Final = 9
_MIN_BLOCKS: Final = 1024  # of a journal, without the area of fast commits
_HEADER: Final = struct.Struct(">III")


class Overlay:
    """`base` with some blocks replaced by others of the same disk: the replayed journal.

    `places` maps a block number to (byte offset where its newer content stands, whether its first four bytes were escaped);
    `blocks` are its keys in order.
    """

    def __init__(self, base: BlockSource, block_bytes: int, places: dict[int, tuple[int, bool]]) -> None:
        self._base = base
        self._block_bytes = block_bytes
        self._places = places
        self.blocks = sorted(places)
        self.size = base.size

    def read(self, offset: int, length: int) -> Bytes:
        size = self._block_bytes
        at = bisect_left(self.blocks, offset // size)
        if at == len(self.blocks) or self.blocks[at] * size >= offset + length:
            return self._base.read(offset, length)
        patched = bytearray(self._base.read(offset, length))
        end = offset + len(patched)
        while at < len(self.blocks) and self.blocks[at] * size < end:
            block = self.blocks[at]
            start = max(offset, block * size)
            stop = min(end, (block + 1) * size)
            patched[start - offset : stop - offset] = self._content(block)[start - block * size : stop - block * size]
            at += 1
        return memoryview(patched)

    @property
    def far(self) -> bool:
        return is_far(self._base)

    def prefetch(self, extents: Sequence[Extent]) -> None:
        prefetch(self._base, extents)

    def _content(self, block: int) -> bytes:
        place, escaped = self._places[block]
        content = bytes(self._base.read(place, self._block_bytes))
        return _MAGIC.to_bytes(4, "big") + content[4:] if escaped else content


@dataclass(slots=True)
class _Tag:
    """One block that a transaction wrote: its home, where in the log it stands, and its checksum (None: has none)."""

    block: int
    log_block: int
    escaped: bool
    checksum: int | None


@dataclass(slots=True)
class _Transaction:
    sequence: int
    tags: list[_Tag] = field(default_factory=list)
    revoked: list[int] = field(default_factory=list)


class Journal:
    """The log in the blocks `runs` of `source`. `gaps` says in words what could not be replayed."""

    def __init__(self, source: BlockSource, runs: Sequence[BlockRun], block_bytes: int) -> None:
        """Raises `Corrupt` or `Unsupported` if there is no journal that we can read."""
        self._source = source
        self._block_bytes = block_bytes
        self._runs = runs
        self._starts = [run.logical for run in runs]
        self.gaps: list[str] = []
        raw = self._read(0)[:1024]
        magic, kind, _sequence = _HEADER.unpack_from(raw)
        if magic != _MAGIC or kind not in {_SUPER_V1, _SUPER_V2}:
            raise Corrupt("the journal has no superblock")
        size, self._last, self._first, self._sequence, self._start = struct.unpack_from(">IIIII", raw, 12)
        compat, self._incompat = struct.unpack_from(">II", raw, 36) if kind == _SUPER_V2 else (0, 0)
        self._checksummed_v1 = bool(compat & _COMPAT_CHECKSUM)
        self._checksummed = bool(self._incompat & (_CSUM_V2 | _CSUM_V3))
        if self._incompat & ~_INCOMPAT_READ:
            raise Unsupported(f"the journal has unknown features {self._incompat & ~_INCOMPAT_READ:#x}")
        if size != block_bytes:
            raise Corrupt(f"the journal's blocks are {size} bytes, the filesystem's {block_bytes}")
        if self._checksummed and crc32c(MASK, raw[:252] + bytes(4) + raw[256:]) != int.from_bytes(raw[252:256], "big"):
            raise Corrupt("the journal's superblock has a wrong checksum")
        self._seed = crc32c(MASK, raw[48:64])
        if self._incompat & _FAST_COMMIT:
            fast = struct.unpack_from(">I", raw, 84)[0] or 256
            self._last -= fast if self._last - fast >= _MIN_BLOCKS else 0
        blocks = runs[-1].logical + runs[-1].blocks if runs else 0
        if not 0 < self._first < self._last <= blocks:
            raise Corrupt("the journal's size contradicts itself")
        if self._start and not self._first <= self._start < self._last:
            raise Corrupt("the journal starts outside itself")

    def replay(self, blocks: int) -> Overlay | None:
        """The source as it is after replay, or None if there is nothing to replay. `blocks`: of the filesystem."""
        if not self._start:
            return None
        transactions = list(self._committed())
        revoked: dict[int, int] = {}
        for transaction in transactions:
            for block in transaction.revoked:
                revoked[block] = transaction.sequence
        places: dict[int, tuple[int, bool]] = {}
        for transaction in transactions:
            for tag in transaction.tags:
                last = revoked.get(tag.block)
                if last is not None and _distance(last, transaction.sequence) >= 0:
                    continue
                if tag.block >= blocks:
                    self.gaps.append(f"the journal writes outside the filesystem (block {tag.block})")
                elif self._data_right(tag, transaction.sequence):
                    places[tag.block] = (self._place(tag.log_block), tag.escaped)
                else:
                    self.gaps.append(f"the journal's copy of block {tag.block} has a wrong checksum")
        return Overlay(self._source, self._block_bytes, places) if places else None

    def _committed(self) -> Iterator[_Transaction]:
        """The transactions whose commit is there, in order; ends where the log ends."""
        at = self._start
        sequence = self._sequence
        current = _Transaction(sequence)
        running_crc = MASK
        suspect = False
        newest = 0
        budget = self._last - self._first
        while budget > 0:
            block = self._read(at)
            at = self._next(at)
            budget -= 1
            magic, kind, number = _HEADER.unpack_from(block)
            if magic != _MAGIC or number != sequence:
                break
            if kind == _DESCRIPTOR:
                suspect |= self._checksummed and not self._tail_right(block)
                tags = self._tags(block)
                if self._checksummed_v1:
                    running_crc = crc32_be(running_crc, block)
                for tag in tags:
                    tag.log_block = at
                    if self._checksummed_v1:
                        running_crc = crc32_be(running_crc, self._read(at))
                    at = self._next(at)
                    budget -= 1
                current.tags += tags
            elif kind == _REVOKE:
                suspect |= self._checksummed and not self._tail_right(block)
                current.revoked += self._revoked(block)
            elif kind == _COMMIT:
                (time,) = struct.unpack_from(">Q", block, 48)
                if suspect or not self._commit_right(block, running_crc):
                    # older than the last commit: blocks of an earlier turn of the log, where recovery simply ends
                    if time >= newest:
                        self.gaps.append(
                            f"transaction {sequence} of the journal has a wrong checksum; it and later ones were left out"
                        )
                    break
                newest = time
                yield current
                sequence = (sequence + 1) & MASK
                current = _Transaction(sequence)
                running_crc = MASK
            else:
                break
        if self._incompat & _FAST_COMMIT and self._has_fast_commit(sequence):
            self.gaps.append("the journal ends in fast commits, which are not replayed: the newest changes are missing")

    def _tags(self, block: bytes) -> list[_Tag]:
        wide = bool(self._incompat & _64BIT)
        v3 = bool(self._incompat & _CSUM_V3)
        size = 16 if v3 else 8 + (2 if self._incompat & _CSUM_V2 else 0) + (4 if wide else 0)
        end = self._block_bytes - (4 if self._checksummed else 0)
        tags = []
        at = 12
        while at + size <= end:
            if v3:
                number, flags, high, checksum = struct.unpack_from(">IIII", block, at)
            else:
                number, checksum, flags = struct.unpack_from(">IHH", block, at)
                (high,) = struct.unpack_from(">I", block, at + 8) if wide else (0,)
            number |= high << 32 if wide else 0
            tags.append(_Tag(number, 0, bool(flags & _ESCAPED), checksum if self._checksummed else None))
            at += size if flags & _SAME_UUID else size + 16
            if flags & _LAST:
                break
        return tags

    def _revoked(self, block: bytes) -> list[int]:
        (end,) = struct.unpack_from(">I", block, 12)
        size = 8 if self._incompat & _64BIT else 4
        end = min(end, self._block_bytes - (4 if self._checksummed else 0))
        count = max(0, end - 16) // size
        return list(struct.unpack_from(f">{count}{'Q' if size == 8 else 'I'}", block, 16))

    def _tail_right(self, block: bytes) -> bool:
        return crc32c(self._seed, block[:-4] + bytes(4)) == int.from_bytes(block[-4:], "big")

    def _commit_right(self, block: bytes, running_crc: int) -> bool:
        found = int.from_bytes(block[16:20], "big")
        if self._checksummed:
            return crc32c(self._seed, block[:16] + bytes(4) + block[20:]) == found
        if self._checksummed_v1:
            kind, size = block[12], block[13]
            return (kind, size, found) == (1, 4, running_crc) or (kind, size, found) == (0, 0, 0)
        return True

    def _data_right(self, tag: _Tag, sequence: int) -> bool:
        if tag.checksum is None:
            return True
        found = crc32c(crc32c(self._seed, sequence.to_bytes(4, "big")), self._read(tag.log_block))
        return bool(tag.checksum == (found if self._incompat & _CSUM_V3 else found & 0xFFFF))

    def _has_fast_commit(self, sequence: int) -> bool:
        """Whether there is a fast commit on top of the last full one; their area begins one block behind the log's last."""
        block = self._read(self._last + 1)
        tag, _length, _features, number = struct.unpack_from("<HHII", block)
        return bool(tag == _FAST_COMMIT_HEAD and number == sequence)

    def _next(self, at: int) -> int:
        return at + 1 if at + 1 < self._last else self._first

    def _place(self, log_block: int) -> int:
        """Byte offset on the volume of a block of the log."""
        at = bisect_left(self._starts, log_block + 1) - 1
        run = self._runs[at] if at >= 0 else None
        if run is None or log_block >= run.logical + run.blocks:
            raise Corrupt("the journal has a hole")
        return (run.physical + log_block - run.logical) * self._block_bytes

    def _read(self, log_block: int) -> bytes:
        block = bytes(self._source.read(self._place(log_block), self._block_bytes))
        if len(block) < self._block_bytes:
            raise Corrupt("the volume ends inside the journal")
        return block


def _distance(one: int, other: int) -> int:
    """`one - other` for transaction numbers, which wrap at 2**32."""
    return ((one - other + (1 << 31)) & MASK) - (1 << 31)
