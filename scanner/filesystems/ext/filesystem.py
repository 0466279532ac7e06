"""An ext2/3/4 filesystem as files: the journal replayed, then every name of every inode."""

from __future__ import annotations

import hashlib
import stat
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from core.blocks import BlockSource, Extent, Slice
from core.errors import Corrupt, Error, Unreadable, Unsupported
from core.files import FileEntry
from core.findings import Gap, GapReason, InFile, InVolume
from scanner.filesystems.ext.inode import Inode
from scanner.filesystems.ext.inodes import Inodes
from scanner.filesystems.ext.journal import Journal
from scanner.filesystems.ext.mapping import BlockRun, block_runs
from scanner.filesystems.ext.names import Names
from scanner.filesystems.ext.superblock import (
    COMPAT_HAS_JOURNAL,
    INCOMPAT_READ,
    INCOMPAT_RECOVER,
    Superblock,
    read_superblock,
)
from scanner.filesystems.ext.tree import LOST, Tree
from scanner.gaps import GapLog, reason_of
from scanner.volumes.signatures import UNUSED_BYTES, is_empty

_GEOMETRY = (
    "blocks",
    "inodes",
    "block_bytes",
    "first_data_block",
    "blocks_per_group",
    "inodes_per_group",
    "inode_bytes",
    "descriptor_bytes",
    "first_meta_bg",
    "checksum_seed",
)


class ExtEntry:
    """One name of one inode."""

    __slots__ = ("_extents", "_inodes", "deleted", "path", "record", "volume")

    def __init__(self, inodes: Inodes, inode: Inode, path: bytes, *, volume: int, deleted: bool) -> None:
        self._inodes = inodes
        self.record = inode
        self._extents: Sequence[Extent] | None = None
        self.path = path
        self.volume = volume
        self.deleted = deleted

    @property
    def mode(self) -> int:
        return self.record.mode

    @property
    def size(self) -> int:
        return self.record.size

    @property
    def uid(self) -> int:
        return self.record.uid

    @property
    def gid(self) -> int:
        return self.record.gid

    @property
    def mtime_ns(self) -> int:
        return self.record.mtime_ns

    @property
    def inode(self) -> int:
        return self.record.number

    @property
    def nlink(self) -> int:
        return self.record.nlink

    def extents(self) -> Sequence[Extent]:
        if self._extents is None:
            self._extents = [Extent(run.offset, run.length, run.logical) for run in self._inodes.runs(self.record)]
        return self._extents

    def xattrs(self) -> Mapping[bytes, bytes]:
        return self._inodes.attributes(self.record)

    def open(self) -> BinaryIO:
        return self._inodes.open(self.record)

    def view(self) -> memoryview | None:
        """The whole content without a copy, if it lies in one piece and the source lends its memory."""
        return self._inodes.view(self.record)


class ExtFilesystem:
    """See `scanner.filesystems.base.Filesystem`. Opening replays the journal; raises what `read_superblock` raises."""

    def __init__(self, source: BlockSource, volume: int) -> None:
        self.volume = volume
        self.gaps = GapLog()
        self.replayed: Sequence[tuple[int, int]] = ()
        self._sb = read_superblock(source)
        self._check(source)
        if self._sb.incompat & INCOMPAT_RECOVER:
            source = self._replayed(source)
            self._check_after_replay(source)
        self._inodes = Inodes(source, self._sb)
        self._names = Names()
        self._layout = ""
        self._begins: Sequence[int] = array("I")
        self._last: tuple[int, tuple[int, list[int], list[bytes]]] = (-1, (0, [], []))

    @property
    def kind(self) -> str:
        return self._sb.kind

    @property
    def label(self) -> str:
        return self._sb.label.decode("utf-8", "backslashreplace")

    @property
    def uuid(self) -> str:
        return self._sb.uuid_text

    @property
    def layout(self) -> str:
        if not self._layout:
            # numbers that grow with the filesystem move nothing, but a descriptor can lead to a table that was there before
            named = [f"{name}={getattr(self._sb, name)}" for name in _GEOMETRY if name not in {"blocks", "inodes"}]
            features = self._sb.incompat & ~INCOMPAT_RECOVER, self._sb.has_checksums
            try:
                tables = hashlib.sha256(b"".join(self._inodes.groups.tables())).hexdigest()
            except Error:
                tables = "unreadable"
            self._layout = ",".join([*named, f"features={features[0]:#x}/{features[1]:d}", f"tables={tables}"])
        return self._layout

    def _gap(self, reason: GapReason, detail: str) -> None:
        self.gaps.add(Gap(InVolume(self.volume), reason, detail))

    def _check(self, source: BlockSource) -> None:
        sb = self._sb
        missing = sb.blocks * sb.block_bytes - source.size
        if missing > 0:
            self._gap(GapReason.UNREADABLE, f"the filesystem is {missing} bytes longer than its volume")
        if -missing > UNUSED_BYTES and not is_empty(Slice(source, source.size + missing, -missing)):
            self._gap(GapReason.NOT_A_FILESYSTEM, f"{-missing} bytes behind the filesystem hold data")
        if not sb.checksum_right:
            self._gap(GapReason.CORRUPT, "the superblock has a wrong checksum")
        if unknown := sb.incompat & ~INCOMPAT_READ:
            self._gap(
                GapReason.UNSUPPORTED_FEATURE, f"unknown ext4 features {unknown:#x}: files may be missing or wrong"
            )
        if sb.groups * sb.inodes_per_group != sb.inodes:
            self._gap(GapReason.CORRUPT, "the superblock's inode count contradicts its groups")

    def _check_after_replay(self, source: BlockSource) -> None:
        """The kernel goes on with the geometry from before the replay; so must we, or a journal could show another tree."""
        try:
            after = read_superblock(source)
        except Error as error:
            self._gap(GapReason.CORRUPT, f"the superblock in the journal: {error}")
            return
        changed = [name for name in _GEOMETRY if getattr(after, name) != getattr(self._sb, name)]
        if changed:
            detail = f"the superblock in the journal changes {', '.join(changed)}; what stood before was used"
            self._gap(GapReason.CORRUPT, detail)
        else:
            self._sb = after

    def _replayed(self, source: BlockSource) -> BlockSource:
        """The source under its journal; as it is, with a gap, if the journal cannot be replayed."""
        sb = self._sb
        try:
            if not sb.compat & COMPAT_HAS_JOURNAL:
                raise Corrupt("the filesystem asks for a replay, but has no journal")  # nor does the kernel replay one
            journal = Journal(source, _journal_runs(source, sb), sb.block_bytes)
            overlay = journal.replay(sb.blocks)
        except Error as error:
            self._gap(GapReason.JOURNAL_NOT_REPLAYED, f"{error}; the newest changes are missing")
            return source
        for detail in journal.gaps:
            self._gap(GapReason.JOURNAL_NOT_REPLAYED, detail)
        if overlay is None:
            return source
        self.replayed = [(block * sb.block_bytes, sb.block_bytes) for block in overlay.blocks]
        return overlay

    def index(self) -> int:
        """Raises only `LimitExceeded`; all else that is wrong lands in `gaps`."""
        _ = self.layout  # while the time is watched over
        tree = Tree(self._inodes, self.volume, self.gaps)
        tree.build()
        self._names = tree.names
        self._begins = self._names.seal()
        return len(self._begins)

    def files(self, start: int, stop: int) -> Iterator[FileEntry | Gap]:
        for at in range(start, min(stop, len(self._begins))):
            yield from self.inode(at)

    def inode(self, at: int) -> Sequence[FileEntry | Gap]:
        number, entries, paths = self._entries(at)
        if not paths:
            return ()
        try:
            inode = self._inodes.read(number)
        except (Corrupt, Unreadable) as error:
            return [Gap(InFile(self.volume, paths[0]), reason_of(error), str(error))]
        lost = self._names.parent(entries[0]) == LOST
        where = InFile(self.volume, paths[0])
        items: list[FileEntry | Gap] = [
            Gap(where, GapReason.CORRUPT, detail) for detail in self._doubts(inode, len(paths), lost=lost)
        ]
        if inode.mode:
            deleted = lost and not inode.nlink
            items += [ExtEntry(self._inodes, inode, path, volume=self.volume, deleted=deleted) for path in paths]
        return items

    def names(self, at: int) -> tuple[int, list[bytes]]:
        """(inode, paths) at a position below what `index` returned; no paths for what has no entry of its own."""
        number, _, paths = self._entries(at)
        return number, paths

    def _entries(self, at: int) -> tuple[int, list[int], list[bytes]]:
        if self._last[0] != at:  # `names` and `inode` are asked for one position after the other
            begins, names = self._begins, self._names
            end = begins[at + 1] if at + 1 < len(begins) else len(names)
            number, entries = names.of_inode(begins[at], end)
            paths = [] if number == LOST else [names.path(entry) for entry in entries]
            self._last = (at, (number, entries, paths))
        return self._last[1]

    @property
    def source(self) -> BlockSource:
        return self._inodes.source

    def record(self, inode: int) -> Extent:
        """Raises `Corrupt` for a number that does not exist."""
        return Extent(self._inodes.place(inode), self._sb.inode_bytes)

    def raw_record(self, inode: int) -> bytes:
        """Raises `Corrupt` for a number that does not exist; short at the end of the volume."""
        return self._inodes.raw(inode)

    def metadata(self, file: FileEntry) -> Sequence[Extent]:
        """The blocks of its block map and attributes. Raises what `FileEntry.extents` raises."""
        inode = file.record if isinstance(file, ExtEntry) else self._inodes.read(file.inode)
        return self._inodes.metadata(inode)

    def _doubts(self, inode: Inode, names: int, *, lost: bool) -> Sequence[str]:
        """What shows that this record or its directories were damaged."""
        doubts: list[str] = []
        if not inode.checksum_right:
            doubts.append("the inode has a wrong checksum")
        if not inode.mode or (not inode.nlink and not lost):
            doubts.append(f"a name refers to inode {inode.number}, which is not in use")
        elif inode.kind != stat.S_IFDIR and not lost and inode.nlink != names:
            doubts.append(f"the inode has {inode.nlink} links, but {names} names were found")
        if inode.kind == stat.S_IFDIR and not self._names.is_directory(inode.number):
            doubts.append("a directory that was not read")
        return doubts


def _journal_runs(source: BlockSource, sb: Superblock) -> list[BlockRun]:
    if not sb.journal_inode:
        raise Unsupported("the journal is on another device")
    return block_runs(source, sb, Inodes(source, sb).read(sb.journal_inode))
