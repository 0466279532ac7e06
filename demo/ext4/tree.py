"""The tree to write: what a caller says (`Node`), and the numbered inodes that come of it (`Inode`)."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

ROOT = 2
JOURNAL = 8
LOST_AND_FOUND = 11  # also the first inode that is not reserved
MAX_LINKS = 65000  # EXT4_LINK_MAX
MAX_NAME = 255
MAX_TARGET = 4095
_KINDS = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK}
_NO_OWNER = 0xFFFFFFFF
_EARLIEST = -(1 << 31)
_LATEST = (1 << 34) - (1 << 31) - 1


@dataclass(frozen=True)
class Node:
    """One name. `path` is absolute; `mode` is as in `stat`, type bits included; every parent must be a node, too.

    Nodes with the same `key` are hard links: one inode, which takes everything but the name from the first of them.
    A `deleted` node has an inode and content but no name, as if it were still open: its path is not written.
    Extended attributes are `user.`, `trusted.` and `security.` ones. Blocks of `content` that are zero become holes.
    """

    path: bytes
    mode: int = stat.S_IFREG | 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    content: bytes = b""
    target: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    deleted: bool = False
    key: str = ""

    @property
    def kind(self) -> int:
        """The type bits of the mode."""
        return stat.S_IFMT(self.mode)


@dataclass
class Inode:
    """A numbered node. `entries` are the names in a directory, without `.` and `..`; `parent` is that of a directory."""

    number: int
    node: Node
    links: int = 0
    parent: int = ROOT
    entries: list[tuple[bytes, Inode]] = field(default_factory=list)

    @property
    def is_directory(self) -> bool:
        return self.node.kind == stat.S_IFDIR


@dataclass(frozen=True)
class Tree:
    """`inodes` by rising number: the root, then 11 (`lost+found`), 12 and so on; `orphans` are those without a name."""

    inodes: list[Inode]
    orphans: list[Inode]
    numbers: dict[bytes, int]


def plan(nodes: Iterable[Node], time: int) -> Tree:
    """Number the inodes and hang the names in. `/` is made if it is not a node; `/lost+found` always is.

    Raises `ValueError` for a tree that ext4 cannot hold or that this writer does not do.
    """
    given = list(nodes)
    folder = Node(b"/", stat.S_IFDIR | 0o755, mtime_ns=time * 10**9)
    root = next((node for node in given if node.path == b"/"), folder)
    lost = Node(b"/lost+found", stat.S_IFDIR | 0o700, mtime_ns=time * 10**9)
    others = [node for node in given if node.path != b"/"]
    if len(given) - len(others) > 1 or root.deleted or root.kind != stat.S_IFDIR:
        raise ValueError("the root is one directory")

    inodes = [Inode(ROOT, root), Inode(LOST_AND_FOUND, lost)]
    named = {b"/": inodes[0], lost.path: inodes[1]}
    orphans: list[Inode] = []
    keyed: dict[str, Inode] = {}
    for node in others:
        _check(node)
        inode = keyed.get(node.key) if node.key else None
        if inode is None:
            inode = Inode(inodes[-1].number + 1, node)
            inodes.append(inode)
        elif inode.is_directory or node.deleted or inode.node.deleted:
            raise ValueError(f"{node.path!r}: only files with names have hard links")
        if node.key:
            keyed[node.key] = inode
        if node.deleted:
            orphans.append(inode)
        elif node.path in named:
            raise ValueError(f"{node.path!r} is there twice")
        else:
            named[node.path] = inode
    _hang(named)
    return Tree(inodes, orphans, {path: inode.number for path, inode in named.items()})


def _hang(named: dict[bytes, Inode]) -> None:
    """Put every name into its directory and count links: one a name, two a directory, one a subdirectory's `..`."""
    for path, inode in named.items():
        if inode.is_directory:
            inode.links += 2
        else:
            inode.links += 1
        if path == b"/":
            continue
        above, _, name = path.rpartition(b"/")
        parent = named.get(above or b"/")
        if parent is None or not parent.is_directory:
            raise ValueError(f"{path!r}: its parent is not a directory of the tree")
        parent.entries.append((name, inode))
        if inode.is_directory:
            parent.links += 1
            inode.parent = parent.number
    if any(inode.links > MAX_LINKS for inode in named.values()):
        raise ValueError(f"an inode has at most {MAX_LINKS} links")


def _check(node: Node) -> None:
    """Raise `ValueError` for a node that cannot be written."""
    names = node.path.split(b"/")
    if names[0] or any(name in (b"", b".", b"..") or len(name) > MAX_NAME for name in names[1:]) or b"\0" in node.path:
        raise ValueError(f"not an absolute path that ext4 can hold: {node.path!r}")
    if node.kind not in _KINDS:
        raise ValueError(f"{node.path!r}: files of mode {node.mode:o} are not written")
    if node.kind == stat.S_IFLNK and (not 0 < len(node.target) <= MAX_TARGET or b"\0" in node.target):
        raise ValueError(f"{node.path!r}: not a target of a symlink")
    if (node.content and node.kind != stat.S_IFREG) or (node.target and node.kind != stat.S_IFLNK):
        raise ValueError(f"{node.path!r}: only a regular file has content, only a symlink a target")
    if node.deleted and node.kind == stat.S_IFDIR:
        raise ValueError(f"{node.path!r}: a directory is not written as deleted")
    if not _EARLIEST <= node.mtime_ns // 10**9 <= _LATEST:
        raise ValueError(f"{node.path!r}: ext4 cannot hold this time")
    # the last number of 32 bits means "nobody at all": the kernel opens no file that it owns
    if not (0 <= node.uid < _NO_OWNER and 0 <= node.gid < _NO_OWNER and 0 <= node.mode < 1 << 16):
        raise ValueError(f"{node.path!r}: mode, uid or gid out of range")
