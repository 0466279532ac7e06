"""Inodes by number, and what each of them holds: its record, its content, its attributes."""

from __future__ import annotations

import io
import stat
from collections.abc import Mapping
from typing import BinaryIO, Final, cast

from core.blocks import BlockSource, Bytes, Extent
from core.errors import Corrupt, Encrypted, Unreadable
from scanner.filesystems.ext import xattr
from scanner.filesystems.ext.groups import Group, Groups
from scanner.filesystems.ext.inode import EA_INODE, ENCRYPTED, EXTENTS, INLINE_DATA, Inode
from scanner.filesystems.ext.mapping import block_runs, only_extent
from scanner.filesystems.ext.superblock import INCOMPAT_EA_INODE, Superblock
from scanner.filesystems.stream import Run, RunStream

_WINDOW_BYTES: Final = 1 << 12  # the walk jumps: larger ones would mostly be read for nothing


class Inodes:
    """All inodes of one filesystem, read when asked for."""

    def __init__(self, source: BlockSource, sb: Superblock) -> None:
        self.source = source
        self.sb = sb
        self.groups = Groups(source, sb)
        self._group: Group | None = None
        self._most = sb.groups * sb.inodes_per_group
        self._placed = (0, 0)  # the number asked for last, and its place
        self._window = (0, b"")

    def place(self, number: int) -> int:
        """Where on the volume the record of an inode is, in bytes. Raises `Corrupt` for a number that does not exist."""
        before, place = self._placed
        if number == before:
            return place
        sb = self.sb
        if not 0 < number <= self._most:
            raise Corrupt(f"there is no inode {number}")
        which, slot = divmod(number - 1, sb.inodes_per_group)
        if self._group is None or self._group.number != which:
            self._group = self.groups[which]
        if not 0 < self._group.inode_table < sb.blocks:
            raise Corrupt(f"the inode table of group {which} is outside the filesystem")
        place = self._group.inode_table * sb.block_bytes + slot * sb.inode_bytes
        self._placed = (number, place)
        return place

    def read(self, number: int) -> Inode:
        """Raises `Corrupt` for a number that does not exist, `Unreadable` if its record is cut off."""
        raw = self.raw(number)
        if len(raw) < self.sb.inode_bytes:
            raise Unreadable(f"the volume ends before inode {number}")
        return Inode(number, raw, self.sb)

    def raw(self, number: int) -> bytes:
        """One record out of a window of the table, since neighbours are asked for one after the other.

        Raises `Corrupt` for a number that does not exist.
        """
        at = self.place(number)
        start, window = self._window
        inside = at - start
        if not 0 <= inside <= len(window) - self.sb.inode_bytes:
            size = max(_WINDOW_BYTES, self.sb.inode_bytes)  # both powers of two, so that no record lies across two
            start = at - at % size
            window = bytes(self.source.read(start, size))
            self._window = (start, window)
            inside = at - start
        return window[inside : inside + self.sb.inode_bytes]

    def runs(self, inode: Inode) -> list[Run]:
        """The stored bytes of a regular file, directory or long symlink, clipped to its size."""
        if (
            inode.kind not in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
            or self._is_fast_symlink(inode)
            or xattr.inline_tail(inode, self.sb) is not None
        ):
            return []
        size = self.sb.block_bytes
        runs = []
        for logical, physical, count in block_runs(self.source, self.sb, inode):
            start = logical * size
            if start >= inode.size:
                break
            runs.append(Run(start, physical * size, min(count * size, inode.size - start)))
        return runs

    def metadata(self, inode: Inode) -> list[Extent]:
        """The blocks besides its record that say where its content is and what its attributes are."""
        trace = Trace(self.source)
        if self.sb.incompat & INCOMPAT_EA_INODE:
            Inodes(trace, self.sb).attributes(inode)  # values may be in inodes of their own: all that is read for them
        elif inode.file_acl:
            trace.places.append(Extent(inode.file_acl * self.sb.block_bytes, self.sb.block_bytes))
        if not self._is_mapped_by_itself(inode):
            block_runs(trace, self.sb, inode)
        return trace.places

    def _is_mapped_by_itself(self, inode: Inode) -> bool:
        """The record alone says where the content is."""
        if inode.kind not in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK} or self._is_fast_symlink(inode):
            return True
        if inode.flags & INLINE_DATA:
            return xattr.inline_tail(inode, self.sb) is not None
        return bool(inode.flags & EXTENTS) and inode.block[6:8] == b"\0\0"  # an extent tree of depth 0

    @staticmethod
    def _is_fast_symlink(inode: Inode) -> bool:
        return inode.kind == stat.S_IFLNK and inode.size < 60 and not inode.flags & (EXTENTS | INLINE_DATA)

    def open(self, inode: Inode) -> BinaryIO:
        """The content of a file, the target of a symlink. Raises `Encrypted`, `Corrupt`, `Unreadable`, `LimitExceeded`."""
        if inode.flags & ENCRYPTED:
            raise Encrypted("encrypted by fscrypt; its key is not here")
        tail = xattr.inline_tail(inode, self.sb)
        if tail is not None:
            return io.BytesIO(_inline(inode, tail))
        if self._is_fast_symlink(inode):
            return io.BytesIO(inode.block[: inode.size])
        if inode.kind not in {stat.S_IFREG, stat.S_IFLNK}:
            return io.BytesIO(b"")
        return cast("BinaryIO", RunStream(self.source, self.runs(inode), inode.size))

    def view(self, inode: Inode) -> memoryview | None:
        """The content of a regular file, if it is one stored extent and the source lends its memory; else None."""
        if inode.kind != stat.S_IFREG or inode.flags & (ENCRYPTED | EXTENTS | INLINE_DATA) != EXTENTS:
            return None
        offset = only_extent(self.sb, inode)
        if offset is None:
            return None
        view = self.source.read(offset, inode.size)
        return view if isinstance(view, memoryview) and len(view) == inode.size else None

    def attributes(self, inode: Inode) -> Mapping[bytes, bytes]:
        def value(number: int) -> bytes:
            holder = self.read(number)
            if not holder.flags & EA_INODE:
                raise Corrupt("an attribute value is in an inode that is not one")
            size = min(holder.size, 1 << 20)
            return RunStream(self.source, self.runs(holder), size).read(size) or b""

        return xattr.attributes(self.source, self.sb, inode, value)


class Trace:
    """A source that remembers what was read of it."""

    def __init__(self, source: BlockSource) -> None:
        self._source = source
        self.size = source.size
        self.places: list[Extent] = []

    def read(self, offset: int, length: int) -> Bytes:
        self.places.append(Extent(offset, length))
        return self._source.read(offset, length)


def _inline(inode: Inode, tail: bytes) -> bytes:
    content = inode.block + tail
    if len(content) < inode.size:
        raise Corrupt("its inline content is shorter than its size")
    return content[: inode.size]
