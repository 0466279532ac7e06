"""The second waist: `FileEntry` hides filesystems, archives and the agent from detectors."""

from __future__ import annotations

import io
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Optional, Protocol

from core.blocks import Extent

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "chardev",
    stat.S_IFBLK: "blockdev",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def kind_of(mode: int) -> str:
    """The `type` word of a POSIX mode; `unknown` for bits that no system defines."""
    return KINDS.get(stat.S_IFMT(mode), "unknown")


class FileEntry(Protocol):
    """One name of one file. Hard links are entries of their own that share `inode` and follow each other.

    `path` is the absolute path as bytes, exactly as on disk, starting with `/`. Sizes are bytes. `deleted` is true for a
    file that has no name any more but is still allocated (open when the snapshot was taken): its path is made up and
    starts with `/$OrphanFiles/`. `open` raises `Corrupt`, `Encrypted`, `Unsupported` or `Unreadable`, then or on read.
    """

    @property
    def volume(self) -> int: ...
    @property
    def path(self) -> bytes: ...
    @property
    def mode(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def inode(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def deleted(self) -> bool: ...

    def extents(self) -> Sequence[Extent]:
        """Where the bytes are on the volume, in file order, holes left out; empty if the format cannot tell."""
        ...

    def xattrs(self) -> Mapping[bytes, bytes]:
        """Extended attributes as `getxattr` would give them."""
        ...

    def open(self) -> BinaryIO:
        """The content as a seekable stream; for a symlink, its target."""
        ...


@dataclass(frozen=True)
class MemoryFile:
    """A file held in memory: for detector tests and for small members of archives."""

    path: bytes
    content: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    inode: int = 1
    nlink: int = 1
    deleted: bool = False
    volume: int = 0
    attributes: Mapping[bytes, bytes] = field(default_factory=dict)
    declared_size: Optional[int] = None

    @property
    def size(self) -> int:
        return len(self.content) if self.declared_size is None else self.declared_size

    def extents(self) -> Sequence[Extent]:
        return ()

    def xattrs(self) -> Mapping[bytes, bytes]:
        return self.attributes

    def open(self) -> BinaryIO:
        return io.BytesIO(self.content)
