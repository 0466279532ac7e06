"""The names of a filesystem in little memory: about 40 bytes per name, so that a million files fit beside everything else."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

MAX_DEPTH: Final = 4096
MAX_PATH_BYTES: Final = 1 << 15
MAX_NAMES: Final = 50_000_000
_CACHED_BYTES: Final = 8 << 20


class Names:
    """Every (directory, name, inode) that was found; paths are put together when asked for.

    Directories are numbered by inode; `add_directory` says by which name a directory is reached.
    """

    def __init__(self) -> None:
        self._parent = array("I")
        self._inode = array("I")
        self._start = array("Q")
        self._text = bytearray()
        self._directories: dict[int, int] = {}  # inode -> the entry that names it, or -1 for the root
        self._order = array("Q")
        self._paths: dict[int, bytes] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self._inode)

    def add(self, parent: int, name: bytes, inode: int) -> int:
        """Number of the new entry."""
        self._parent.append(parent)
        self._inode.append(inode)
        self._start.append(len(self._text))
        self._text += name
        return len(self._inode) - 1

    def add_directory(self, inode: int, entry: int) -> None:
        self._directories[inode] = entry

    def is_directory(self, inode: int) -> bool:
        return inode in self._directories

    def seal(self) -> Sequence[int]:
        """Sort by inode and return where in that order each inode's names begin; no name is added after."""
        self._order = array("Q", sorted(inode << 32 | entry for entry, inode in enumerate(self._inode)))
        begins = array("I")
        before = -1
        for at, key in enumerate(self._order):
            if key >> 32 != before:
                before = key >> 32
                begins.append(at)
        return begins

    def of_inode(self, begin: int, end: int) -> tuple[int, list[int]]:
        """(inode, its entries) for one stretch that `seal` returned."""
        if end == begin + 1:  # as for nearly all
            key = self._order[begin]
            return key >> 32, [key & 0xFFFFFFFF]
        keys = self._order[begin:end]
        return keys[0] >> 32, [key & 0xFFFFFFFF for key in keys]

    def name(self, entry: int) -> bytes:
        end = self._start[entry + 1] if entry + 1 < len(self._start) else len(self._text)
        return bytes(self._text[self._start[entry] : end])

    def parent(self, entry: int) -> int:
        return self._parent[entry]

    def path(self, entry: int) -> bytes:
        parent = self._parent[entry]
        folder = self._paths.get(parent)
        if folder is None:
            folder = self._directory_path(parent)
        start = self._start
        end = start[entry + 1] if entry + 1 < len(start) else len(self._text)
        return b"%b/%b" % (folder, bytes(self._text[start[entry] : end]))

    def _directory_path(self, inode: int) -> bytes:
        """Path of a directory without a slash at the end; the root's is empty. Depth is bounded where entries are added."""
        parts: list[bytes] = []
        at = inode
        while (known := self._paths.get(at)) is None:
            entry = self._directories[at]
            if entry < 0:
                known = b""
                break
            parts.append(b"/" + self.name(entry))
            at = self._parent[entry]
        path = known + b"".join(reversed(parts))
        self._cached_bytes += len(path) + 200
        if self._cached_bytes > _CACHED_BYTES:
            self._paths.clear()
            self._cached_bytes = len(path) + 200
        self._paths[inode] = path
        return path
