"""An ext2/3/4 filesystem as files: journal replayed, all names collected, inodes without a name found.

The walk trusts directories and inode records, never a bitmap or a hash: those only tell which inodes lost their name.
"""

from __future__ import annotations

import io
import stat
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Final, cast

from core.blocks import BlockSource, Extent
from core.errors import Corrupt, Encrypted, Error, LimitExceeded, Unreadable, Unsupported
from core.files import FileEntry
from core.findings import Gap, GapReason, InFile, InVolume
from scanner.filesystems.ext import directory, xattr
from scanner.filesystems.ext.groups import Group, Groups
from scanner.filesystems.ext.inode import EA_INODE, ENCRYPTED, EXTENTS, INLINE_DATA, Inode
from scanner.filesystems.ext.journal import Journal
from scanner.filesystems.ext.mapping import block_runs, read_block
from scanner.filesystems.ext.names import MAX_DEPTH, MAX_NAMES, Names
from scanner.filesystems.ext.superblock import INCOMPAT_READ, INCOMPAT_RECOVER, read_superblock
from scanner.filesystems.stream import Run, RunStream
from scanner.gaps import GapLog, reason_of

_ROOT: Final = 2
_LOST: Final = 0xFFFFFFFF  # a made-up inode number: the directory of all that has no name
LOST_DIRECTORY: Final = b"$OrphanFiles"
_WINDOW_BYTES: Final = 1 << 16
_TABLE_BYTES: Final = 1 << 20

# What one byte per inode slot says: the file type (mode >> 12), and
_NAMED: Final = 0x20
_ATTRIBUTE: Final = 0x40
_UNLINKED: Final = 0x80


class ExtEntry:
    """One name of one inode."""

    __slots__ = ("_filesystem", "_inode", "deleted", "path", "volume")

    def __init__(self, filesystem: ExtFilesystem, inode: Inode, path: bytes, *, deleted: bool) -> None:
        self._filesystem = filesystem
        self._inode = inode
        self.path = path
        self.deleted = deleted
        self.volume = filesystem.volume

    @property
    def mode(self) -> int:
        return self._inode.mode

    @property
    def size(self) -> int:
        return self._inode.size

    @property
    def uid(self) -> int:
        return self._inode.uid

    @property
    def gid(self) -> int:
        return self._inode.gid

    @property
    def mtime_ns(self) -> int:
        return self._inode.mtime_ns

    @property
    def inode(self) -> int:
        return self._inode.number

    @property
    def nlink(self) -> int:
        return self._inode.nlink

    def extents(self) -> Sequence[Extent]:
        return [Extent(run.offset, run.length, run.logical) for run in self._filesystem.runs(self._inode)]

    def xattrs(self) -> Mapping[bytes, bytes]:
        return self._filesystem.attributes(self._inode)

    def open(self) -> BinaryIO:
        return self._filesystem.open(self._inode)


class ExtFilesystem:
    """See `scanner.filesystems.base.Filesystem`. Opening replays the journal; raises what `read_superblock` raises."""

    def __init__(self, source: BlockSource, volume: int) -> None:
        self.volume = volume
        self.gaps = GapLog()
        self._source = source
        self._sb = read_superblock(source)
        self._check_size()
        self._replay_journal()
        self._groups = Groups(self._source, self._sb)
        self._names = Names()
        self._begins: Sequence[int] = array("I")
        self._slots: dict[int, bytearray] = {}
        self._window = (0, b"")
        self._group: Group | None = None

    @property
    def kind(self) -> str:
        return self._sb.kind

    @property
    def label(self) -> str:
        return self._sb.label.decode("utf-8", "backslashreplace")

    @property
    def uuid(self) -> str:
        return self._sb.uuid_text

    # opening

    def _gap(self, reason: GapReason, detail: str) -> None:
        self.gaps.add(Gap(InVolume(self.volume), reason, detail))

    def _check_size(self) -> None:
        sb = self._sb
        missing = sb.blocks * sb.block_bytes - self._source.size
        if missing > 0:
            self._gap(GapReason.UNREADABLE, f"the filesystem is {missing} bytes longer than its volume")
        if not sb.checksum_right:
            self._gap(GapReason.CORRUPT, "the superblock has a wrong checksum")
        if unknown := sb.incompat & ~INCOMPAT_READ:
            self._gap(
                GapReason.UNSUPPORTED_FEATURE, f"unknown ext4 features {unknown:#x}: files may be missing or wrong"
            )
        if sb.groups * sb.inodes_per_group != sb.inodes:
            self._gap(GapReason.CORRUPT, "the superblock's inode count contradicts its groups")

    def _replay_journal(self) -> None:
        sb = self._sb
        if not sb.incompat & INCOMPAT_RECOVER:
            return
        try:
            if not sb.journal_inode:
                raise Unsupported("the journal is on another device")
            self._groups = Groups(self._source, sb)
            self._window, self._group = (0, b""), None
            inode = self.read_inode(sb.journal_inode)
            journal = Journal(self._source, block_runs(self._source, sb, inode), sb.block_bytes)
            overlay = journal.replay(sb.blocks)
            for detail in journal.gaps:
                self._gap(GapReason.JOURNAL_NOT_REPLAYED, detail)
            if overlay:
                self._source = overlay
                self._sb = read_superblock(overlay)
        except Error as error:
            self._gap(GapReason.JOURNAL_NOT_REPLAYED, f"{error}; the newest changes are missing")

    # inodes

    def read_inode(self, number: int) -> Inode:
        """Raises `Corrupt` for a number that does not exist, `Unreadable` if its record is cut off."""
        sb = self._sb
        if not 0 < number <= sb.groups * sb.inodes_per_group:
            raise Corrupt(f"there is no inode {number}")
        which, slot = divmod(number - 1, sb.inodes_per_group)
        if self._group is None or self._group.number != which:
            self._group = self._groups[which]
        if not 0 < self._group.inode_table < sb.blocks:
            raise Corrupt(f"the inode table of group {which} is outside the filesystem")
        at = self._group.inode_table * sb.block_bytes + slot * sb.inode_bytes
        raw = self._table_bytes(at)
        if len(raw) < sb.inode_bytes:
            raise Unreadable(f"the volume ends before inode {number}")
        return Inode(number, raw, sb)

    def _table_bytes(self, at: int) -> bytes:
        """One record out of a window of the table, since neighbours are asked for one after the other."""
        start, window = self._window
        inside = at - start
        if not 0 <= inside <= len(window) - self._sb.inode_bytes:
            start = at - at % _WINDOW_BYTES
            window = bytes(self._source.read(start, _WINDOW_BYTES))
            self._window = (start, window)
            inside = at - start
        return window[inside : inside + self._sb.inode_bytes]

    def runs(self, inode: Inode) -> list[Run]:
        """The stored bytes of a regular file, directory or long symlink, clipped to its size."""
        if (
            inode.flags & INLINE_DATA
            or inode.kind not in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
            or self._is_fast_symlink(inode)
        ):
            return []
        size = self._sb.block_bytes
        runs = []
        for logical, physical, count in block_runs(self._source, self._sb, inode):
            start = logical * size
            if start >= inode.size:
                break
            runs.append(Run(start, physical * size, min(count * size, inode.size - start)))
        return runs

    @staticmethod
    def _is_fast_symlink(inode: Inode) -> bool:
        return inode.kind == stat.S_IFLNK and inode.size < 60 and not inode.flags & (EXTENTS | INLINE_DATA)

    def open(self, inode: Inode) -> BinaryIO:
        if inode.flags & ENCRYPTED:
            raise Encrypted("encrypted by fscrypt; its key is not here")
        if inode.flags & INLINE_DATA:
            return io.BytesIO(self._inline(inode))
        if self._is_fast_symlink(inode):
            return io.BytesIO(inode.block[: inode.size])
        if inode.kind not in {stat.S_IFREG, stat.S_IFLNK}:
            return io.BytesIO(b"")
        return cast("BinaryIO", RunStream(self._source, self.runs(inode), inode.size))

    def _inline(self, inode: Inode) -> bytes:
        content = inode.block + xattr.inline_tail(inode, self._sb)
        if len(content) < inode.size:
            raise Corrupt("its inline content is shorter than its size")
        return content[: inode.size]

    def attributes(self, inode: Inode) -> Mapping[bytes, bytes]:
        def value(number: int) -> bytes:
            holder = self.read_inode(number)
            if not holder.flags & EA_INODE:
                raise Corrupt("an attribute value is in an inode that is not one")
            size = min(holder.size, 1 << 20)
            return RunStream(self._source, self.runs(holder), size).read(size) or b""

        return xattr.attributes(self._source, self._sb, inode, value)

    # indexing

    def index(self) -> int:
        """Read all directories and inode tables. Raises only `LimitExceeded`; all else that is wrong lands in `gaps`."""
        for number in range(self._sb.groups):
            try:
                self._read_table(self._groups[number])
            except (Corrupt, Unreadable, LimitExceeded) as error:
                self._gap(reason_of(error), f"the inodes of block group {number}: {error}")
        self._names.add_directory(_ROOT, -1)
        if self._slot(_ROOT) & 0xF != stat.S_IFDIR >> 12:
            self._gap(GapReason.CORRUPT, "the root inode is not a directory")
        self._mark(_ROOT, _NAMED)
        self._walk([_ROOT], 0)
        self._add_lost()
        self._begins = self._names.seal()
        return len(self._begins)

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
            return self.read_inode(number).mode >> 12
        except (Corrupt, Unreadable):
            return 0

    def _mark(self, number: int, bit: int) -> None:
        which, slot = divmod(number - 1, self._sb.inodes_per_group)
        slots = self._slots.get(which)
        if slots is not None and slot < len(slots):
            slots[slot] |= bit

    def _walk(self, level: list[int], depth: int) -> None:
        """Breadth first, each level in inode order, which is close to disk order."""
        names = self._names
        while level:
            depth += 1
            following: list[int] = []
            for parent in level:
                for number, name in self._entries_of(parent):
                    entry = self._add_name(parent, name, number)
                    is_directory = self._slot(number) & 0xF == stat.S_IFDIR >> 12
                    self._mark(number, _NAMED)
                    if not is_directory:
                        continue
                    if names.is_directory(number):
                        self._gap(GapReason.CORRUPT, f"directory inode {number} has more than one name")
                    elif depth > MAX_DEPTH:
                        names.add_directory(number, entry)
                        self._gap(GapReason.LIMIT, f"directories nested deeper than {MAX_DEPTH} were not read")
                    else:
                        names.add_directory(number, entry)
                        following.append(number)
            level = sorted(following)

    def _add_name(self, parent: int, name: bytes, number: int) -> int:
        if len(self._names) >= MAX_NAMES:
            raise LimitExceeded(f"more than {MAX_NAMES} names")
        return self._names.add(parent, name, number)

    def _entries_of(self, number: int) -> Iterator[tuple[int, bytes]]:
        """All (inode, name) of a directory; what cannot be read becomes a gap of this volume."""

        def problem(detail: str) -> None:
            self._gap(GapReason.CORRUPT, f"directory inode {number}: {detail}")

        try:
            inode = self.read_inode(number)
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
            self.gaps.add(Gap(InVolume(self.volume), reason_of(error), f"directory inode {number}: {error}"))

    def _directory_areas(self, inode: Inode, problem: directory.Problem) -> Iterator[bytes]:
        sb = self._sb
        if inode.flags & INLINE_DATA:
            yield inode.block[4:]
            tail = xattr.inline_tail(inode, sb)
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
        self._names.add_directory(_LOST, self._names.add(_ROOT, LOST_DIRECTORY, _LOST))
        lost = 0
        for number in self._unnamed():
            slot = self._slot(number)
            if slot & _NAMED:
                continue
            lost += not slot & _UNLINKED
            entry = self._add_name(_LOST, b"inode-%d" % number, number)
            if slot & 0xF == stat.S_IFDIR >> 12 and not self._names.is_directory(number):
                self._names.add_directory(number, entry)
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
                if value and not value & (_NAMED | _ATTRIBUTE):
                    number = base + slot
                    if number >= sb.first_inode and number not in sb.hidden_inodes:
                        yield number

    # the files

    def files(self, start: int, stop: int) -> Iterator[FileEntry | Gap]:
        for at in range(start, min(stop, len(self._begins))):
            end = self._begins[at + 1] if at + 1 < len(self._begins) else len(self._names)
            number, entries = self._names.of_inode(self._begins[at], end)
            if number != _LOST:
                yield from self._named(number, entries)

    def _named(self, number: int, entries: list[int]) -> Iterator[FileEntry | Gap]:
        paths = [self._names.path(entry) for entry in entries]
        first = InFile(self.volume, paths[0])
        try:
            inode = self.read_inode(number)
        except (Corrupt, Unreadable) as error:
            yield Gap(first, reason_of(error), str(error))
            return
        lost = self._names.parent(entries[0]) == _LOST
        deleted = lost and not inode.nlink
        for detail in self._doubts(inode, len(paths), lost=lost):
            yield Gap(first, GapReason.CORRUPT, detail)
        if inode.mode:
            for path in paths:
                yield ExtEntry(self, inode, path, deleted=deleted)

    def _doubts(self, inode: Inode, names: int, *, lost: bool) -> Iterator[str]:
        """What shows that this record or its directories were damaged."""
        if not inode.checksum_right:
            yield "the inode has a wrong checksum"
        if not inode.mode or (not inode.nlink and not lost):
            yield f"a name refers to inode {inode.number}, which is not in use"
        elif inode.kind != stat.S_IFDIR and not lost and inode.nlink != names:
            yield f"the inode has {inode.nlink} links, but {names} names were found"
        if inode.kind == stat.S_IFDIR and not self._names.is_directory(inode.number):
            yield "a directory that was not read"
