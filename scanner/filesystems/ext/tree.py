"""All names of a filesystem, and the inodes in use that have none.

The walk trusts directories and inode records, never a bitmap, a hash or the type byte of an entry, so that damage to those
hides nothing: a bitmap only helps to tell which inodes lost their name.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from typing import Final

from core.errors import Corrupt, LimitExceeded, Unreadable
from core.findings import Gap, GapReason, InVolume
from scanner.filesystems.ext import directory, xattr
from scanner.filesystems.ext.ahead import announce_directories, announce_tables
from scanner.filesystems.ext.groups import Group
from scanner.filesystems.ext.inode import EA_INODE, ENCRYPTED, Inode
from scanner.filesystems.ext.inodes import Inodes
from scanner.filesystems.ext.mapping import block_runs, read_block
from scanner.filesystems.ext.names import MAX_DEPTH, MAX_NAMES, MAX_PATH_BYTES, Names
from scanner.gaps import GapLog, reason_of

_ROOT: Final = 2
_FIRST_INODE: Final = 11  # those before have fixed meanings; the superblock's own number could hide more
LOST: Final = 0xFFFFFFFF  # a made-up inode number: the directory of all that has no name
LOST_DIRECTORY: Final = b"$OrphanFiles"
_TABLE_BYTES: Final = 1 << 20

# What one byte per inode slot says: the file type (mode >> 12), and
_NAMED: Final = 0x20
_ATTRIBUTE: Final = 0x40
_UNLINKED: Final = 0x80


class Tree:
    """Fills `names`; what is wrong on the way lands in `gaps`."""

    def __init__(self, inodes: Inodes, volume: int, gaps: GapLog) -> None:
        self.names = Names()
        self._inodes = inodes
        self._source = inodes.source
        self._sb = inodes.sb
        self._volume = volume
        self._gaps = gaps
        self._slots: dict[int, bytearray] = {}

    def _gap(self, reason: GapReason, detail: str) -> None:
        self._gaps.add(Gap(InVolume(self._volume), reason, detail))

    def build(self) -> None:
        """Read all inode tables and directories. Raises only `LimitExceeded`, for too many names."""
        for number in range(self._sb.groups):
            announce_tables(self._inodes, number)
            try:
                self._read_table(self._inodes.groups[number])
            except (Corrupt, Unreadable, LimitExceeded) as error:
                self._gap(reason_of(error), f"the inodes of block group {number}: {error}")
        self.names.add_directory(_ROOT, -1)
        if self._slot(_ROOT) & 0xF != stat.S_IFDIR >> 12:
            self._gap(GapReason.CORRUPT, "the root inode is not a directory")
        self._mark(_ROOT, _NAMED)
        self._walk([_ROOT], 0)
        self._add_lost()
        self._slots.clear()

    def _read_table(self, group: Group) -> None:
        """One byte per used inode slot, so that the walk needs no I/O to tell directories from files."""
        sb = self._sb
        if not group.checksum_right:
            self._gap(GapReason.CORRUPT, f"the descriptor of block group {group.number} has a wrong checksum")
        used = group.used_slots
        if not used or not 0 < group.inode_table < sb.blocks:
            if used:
                self._gap(GapReason.CORRUPT, f"the inode table of block group {group.number} is outside the filesystem")
            return
        bitmap = bytes(self._source.read(group.inode_bitmap * sb.block_bytes, sb.inodes_per_group // 8))
        if not sb.counts_unused_inodes:
            used = min(used, len(bitmap.rstrip(b"\0")) * 8)
        if used:
            self._slots[group.number] = self._slots_of(group, used, bitmap)

    def _slots_of(self, group: Group, used: int, bitmap: bytes) -> bytearray:
        sb = self._sb
        record = struct.Struct(f"<H18xI2xH4xI{sb.inode_bytes - 36}x")
        at = group.inode_table * sb.block_bytes
        end = at + used * sb.inode_bytes
        slots = bytearray()
        while at < end:
            raw = self._source.read(at, min(_TABLE_BYTES, end - at))
            at += _TABLE_BYTES
            if len(raw) % sb.inode_bytes or not raw:
                self._gap(GapReason.UNREADABLE, f"the volume ends inside the inode table of block group {group.number}")
                raw = raw[: len(raw) - len(raw) % sb.inode_bytes]
                end = 0
            for mode, deleted_at, links, flags in record.iter_unpack(raw):
                slot = len(slots)
                if links:
                    slots.append(mode >> 12 | (_ATTRIBUTE if flags & EA_INODE else 0))
                elif mode and deleted_at <= sb.inodes and slot // 8 < len(bitmap) and bitmap[slot // 8] >> slot % 8 & 1:
                    # allocated without a link: open when the snapshot was taken; `deleted_at` chains these, or is 0
                    slots.append(mode >> 12 | _UNLINKED)
                else:
                    slots.append(0)
        return slots

    def _slot(self, number: int) -> int:
        which, slot = divmod(number - 1, self._sb.inodes_per_group)
        slots = self._slots.get(which)
        if slots is not None and slot < len(slots) and slots[slot]:
            return slots[slot]
        try:
            return self._inodes.read(number).mode >> 12
        except (Corrupt, Unreadable):
            return 0

    def _mark(self, number: int, bit: int) -> None:
        which, slot = divmod(number - 1, self._sb.inodes_per_group)
        slots = self._slots.get(which)
        if slots is not None and slot < len(slots):
            slots[slot] |= bit

    def _walk(self, level: list[int], depth: int) -> None:
        """Breadth first, each level in inode order, which is close to disk order."""
        names = self.names
        while level:
            depth += 1
            following: list[int] = []
            for place, parent in enumerate(level):
                announce_directories(self._inodes, level, place)
                for number, name in self._entries_of(parent):
                    entry = self._add_name(parent, name, number)
                    is_directory = self._slot(number) & 0xF == stat.S_IFDIR >> 12
                    self._mark(number, _NAMED)
                    if not is_directory:
                        continue
                    if names.is_directory(number):
                        self._gap(GapReason.CORRUPT, f"directory inode {number} has more than one name")
                    elif depth > MAX_DEPTH or len(names.path(entry)) > MAX_PATH_BYTES:
                        names.add_directory(number, entry)
                        limits = f"{MAX_DEPTH} levels or {MAX_PATH_BYTES} bytes"
                        self._gap(GapReason.LIMIT, f"directories deeper than {limits} were not read")
                    else:
                        names.add_directory(number, entry)
                        following.append(number)
            level = sorted(following)

    def _add_name(self, parent: int, name: bytes, number: int) -> int:
        if len(self.names) >= MAX_NAMES:
            raise LimitExceeded(f"more than {MAX_NAMES} names")
        return self.names.add(parent, name, number)

    def _entries_of(self, number: int) -> Iterator[tuple[int, bytes]]:
        """All (inode, name) of a directory; what cannot be read becomes a gap of this volume."""

        def problem(detail: str) -> None:
            self._gap(GapReason.CORRUPT, f"directory inode {number}: {detail}")

        try:
            inode = self._inodes.read(number)
            if inode.kind != stat.S_IFDIR:
                return
            if not inode.checksum_right:
                problem("the inode has a wrong checksum")
            if inode.flags & ENCRYPTED:
                self._gap(GapReason.ENCRYPTED, f"directory inode {number}: its names are encrypted")
            for area in self._directory_areas(inode, problem):
                for child, name in directory.entries(area, self._sb, problem):
                    if not 0 < child <= self._sb.inodes:
                        problem(f"an entry refers to inode {child}, which does not exist")
                    elif inode.flags & ENCRYPTED:
                        yield child, b"$Encrypted-" + name.hex().encode()
                    else:
                        if b"/" in name or b"\0" in name or not name:
                            problem("a name holds a slash or NUL, or is empty")
                        yield child, name
        except (Corrupt, Unreadable, LimitExceeded) as error:
            self._gap(reason_of(error), f"directory inode {number}: {error}")

    def _directory_areas(self, inode: Inode, problem: directory.Problem) -> Iterator[bytes]:
        sb = self._sb
        tail = xattr.inline_tail(inode, sb)
        if tail is not None:
            yield inode.block[4:]
            yield tail[: max(0, inode.size - 60)]
            return
        seed = inode.seed(sb)
        blocks = -(-inode.size // sb.block_bytes)
        seen = 0
        for logical, physical, count in block_runs(self._source, sb, inode):
            for block_number in range(physical, physical + min(count, max(0, blocks - logical))):
                seen += 1
                block = read_block(self._source, sb, block_number)
                if sb.has_checksums and not directory.block_checksum_right(block, seed):
                    problem("a block has a wrong checksum")
                yield block
        if seen < blocks:
            problem(f"{blocks - seen} of {blocks} blocks are holes")

    def _add_lost(self) -> None:
        """Inodes in use that no directory names: deleted but still open, or cut off by damage."""
        self.names.add_directory(LOST, self.names.add(_ROOT, LOST_DIRECTORY, LOST))
        lost = 0
        for number in self._unnamed():
            slot = self._slot(number)
            if slot & _NAMED:
                continue
            lost += not slot & _UNLINKED
            entry = self._add_name(LOST, b"inode-%d" % number, number)
            if slot & 0xF == stat.S_IFDIR >> 12 and not self.names.is_directory(number):
                self.names.add_directory(number, entry)
                self._walk([number], 1)
        if lost:
            self._gap(
                GapReason.CORRUPT,
                f"{lost} inodes in use have no name; they are listed under /{LOST_DIRECTORY.decode()}",
            )

    def _unnamed(self) -> Iterator[int]:
        sb = self._sb
        for which, slots in sorted(self._slots.items()):
            base = which * sb.inodes_per_group + 1
            for slot, value in enumerate(slots):
                number = base + slot
                if not value or value & (_NAMED | _ATTRIBUTE) or number < _FIRST_INODE:
                    continue
                # quota files and the like; no field of the superblock can hide what was deleted while it ran
                if value & _UNLINKED or number not in sb.hidden_inodes:
                    yield number
