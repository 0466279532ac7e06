"""What differs between two manifests of one machine: evidence for an analyst."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from core.errors import LimitExceeded
from core.files import kind_of
from core.text import escape
from scanner.manifest.block import Block, Row
from scanner.manifest.file import Reader
from scanner.wire import MAX_VOLUMES, Message, WireError, int_in, text_in

KINDS: Final = ("added", "removed", "changed", "moved")
WHATS: Final = ("content", "content?", "type", "size", "owner", "mode", "mtime", "xattrs", "links", "deleted")
_ROW_BYTES: Final = 700  # what one kept name costs, about, besides its path


@dataclass(frozen=True, slots=True)
class Side:
    """A file as one of the manifests has it. `sha256` is None if it was not hashed."""

    path: bytes
    inode: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    nlink: int
    deleted: bool
    sha256: str | None
    xattrs: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs. `what` names what did, of `WHATS`; "content?" says that a side was not hashed.

    `volume` is the number in the new manifest, in the old one for what was removed. "moved" is the same content in the same
    inode under another path, `old` tells which.
    """

    kind: str
    volume: int
    what: tuple[str, ...]
    old: Side | None
    new: Side | None

    @property
    def path(self) -> bytes:
        side = self.new or self.old
        assert side is not None
        return side.path

    def to_message(self) -> Message:
        return {
            "kind": self.kind,
            "volume": self.volume,
            "path": escape(self.path),
            "what": list(self.what),
            "old": _side_out(self.old),
            "new": _side_out(self.new),
        }


def diff(
    old: Reader, new: Reader, pairs: Sequence[tuple[int, int]], *, most_bytes: int = 512 << 20
) -> Iterator[Change]:
    """Sorted by volume and path. `pairs` are the numbers (old, new) of volumes that are the same; -1: there is none.

    Inodes that are equal cost little; only what differs is kept in memory. Raises `LimitExceeded` if that is more than
    about `most_bytes`, `Corrupt` for a damaged manifest.
    """
    for before, after in pairs:
        gone: dict[bytes, Side] = {}
        come: dict[bytes, Side] = {}
        room = most_bytes
        for was, now in _by_inode(old, before, new, after):
            if was is not None and now is not None and _alike(was, now):
                continue
            for row, sides in ((was, gone), (now, come)):
                for side in _sides(row):
                    room -= _ROW_BYTES + 2 * len(side.path)
                    if room < 0:
                        raise LimitExceeded(f"the manifests differ in more than {most_bytes} bytes can hold")
                    sides[side.path] = side
        yield from sorted(_joined(gone, come, before, after), key=lambda change: (change.path, change.kind))


def _by_inode(old: Reader, before: int, new: Reader, after: int) -> Iterator[tuple[Row | None, Row | None]]:
    """Rows of both, joined by inode; blocks that are equal byte by byte are passed over whole."""
    ours, theirs = _Walk(old, before), _Walk(new, after)
    while ours.block is not None or theirs.block is not None:
        if (
            ours.block is not None
            and theirs.block is not None
            and ours.at == theirs.at == 0
            and ours.raw == theirs.raw
            and ours.block.hashed
        ):
            ours.next_block()
            theirs.next_block()
        elif theirs.block is None or (ours.block is not None and ours.inode < theirs.inode):
            yield ours.take(), None
        elif ours.block is None or theirs.inode < ours.inode:
            yield None, theirs.take()
        else:
            yield ours.take(), theirs.take()


class _Walk:
    """Row by row through one volume of a manifest."""

    def __init__(self, reader: Reader, volume: int) -> None:
        self._raws = (raw for chunk in reader.chunks(volume) for raw in reader.read(chunk))
        self.raw = b""
        self.block: Block | None = None
        self.at = 0
        self.next_block()

    def next_block(self) -> None:
        raw = next(self._raws, None)
        self.raw = raw or b""
        self.block = None if raw is None else Block(raw)
        self.at = 0

    @property
    def inode(self) -> int:
        assert self.block is not None
        return self.block.inodes[self.at]

    def take(self) -> Row:
        assert self.block is not None
        row = self.block.row(self.at)
        self.at += 1
        if self.at == len(self.block):
            self.next_block()
        return row


def _alike(one: Row, other: Row) -> bool:
    """Nothing that a change tells differs. Where the content lies does not count."""
    ours, theirs = (
        (row.paths, row.mode, row.uid, row.gid, row.size, row.mtime_ns, row.nlink, row.deleted, row.sha256, row.xattrs)
        for row in (one, other)
    )
    return ours == theirs and (bool(one.sha256) or stat.S_IFMT(one.mode) not in {stat.S_IFREG, stat.S_IFLNK})


def _sides(row: Row | None) -> Iterator[Side]:
    if row is None:
        return
    for path in row.paths:
        yield Side(
            path,
            row.inode,
            row.mode,
            row.uid,
            row.gid,
            row.size,
            row.mtime_ns,
            row.nlink,
            row.deleted,
            row.sha256.hex() or None,
            row.xattrs,
        )


def _joined(gone: dict[bytes, Side], come: dict[bytes, Side], before: int, after: int) -> Iterator[Change]:
    for path in gone.keys() & come.keys():
        was, now = gone.pop(path), come.pop(path)
        what = differences_of(was, now)
        if what:
            yield Change("changed", after, what, was, now)
    by_inode = {(side.inode, side.sha256, side.mode, side.size): side for side in gone.values()}
    for side in sorted(come.values(), key=lambda side: side.path):
        was_there = by_inode.pop((side.inode, side.sha256, side.mode, side.size), None)
        if was_there is not None and (side.sha256 or not stat.S_ISREG(side.mode)):
            del gone[was_there.path]
            yield Change("moved", after, differences_of(was_there, side), was_there, side)
        else:
            yield Change("added", after, (), None, side)
    for side in gone.values():
        yield Change("removed", before, (), side, None)


def differences_of(old: Side, new: Side) -> tuple[str, ...]:
    """Of `WHATS`, in their order. The inode does not count: editors and package managers replace files."""
    unknown = old.sha256 is None or new.sha256 is None
    kind = stat.S_IFMT(old.mode)  # of a symbolic link the target is its content
    regular = kind == stat.S_IFMT(new.mode) and kind in {stat.S_IFREG, stat.S_IFLNK}
    found = (
        ("content", regular and not unknown and old.sha256 != new.sha256),
        ("content?", regular and unknown),
        ("type", stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode)),
        ("size", old.size != new.size),
        ("owner", (old.uid, old.gid) != (new.uid, new.gid)),
        ("mode", stat.S_IMODE(old.mode) != stat.S_IMODE(new.mode)),
        ("mtime", old.mtime_ns != new.mtime_ns),
        ("xattrs", old.xattrs != new.xattrs),
        ("links", old.nlink != new.nlink),
        ("deleted", old.deleted != new.deleted),
    )
    return tuple(name for name, differs in found if differs)


_NUMBERS: Final = ("inode", "uid", "gid", "size", "nlink")
_MAX_MODE: Final = 0xFFFF


def _side_out(side: Side | None) -> Message | None:
    if side is None:
        return None
    return {
        "path": escape(side.path),
        "type": kind_of(side.mode),
        "inode": side.inode,
        "mode": side.mode,
        "uid": side.uid,
        "gid": side.gid,
        "size": side.size,
        "mtime_ns": side.mtime_ns,
        "nlink": side.nlink,
        "deleted": side.deleted,
        "sha256": side.sha256,
    }


def change_in(value: object) -> Message:
    """A change as the parser tells it, checked. Raises `WireError`."""
    match value:
        case {"kind": str(kind), "volume": volume, "path": path, "what": list(what), "old": old, "new": new}:
            if kind not in KINDS or not set(what) <= set(WHATS) or (old is None and new is None):
                raise WireError("a change of an unknown kind")
            return {
                "kind": kind,
                "volume": int_in(volume, MAX_VOLUMES),
                "path": text_in(path),
                "what": list(what),
                "old": _side_in(old),
                "new": _side_in(new),
            }
    raise WireError("a change was expected")


def _side_in(value: Any) -> Message | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise WireError("a file was expected")
    mtime_ns, deleted, digest = value.get("mtime_ns"), value.get("deleted"), value.get("sha256")
    if type(mtime_ns) is not int or abs(mtime_ns) >= 1 << 96 or type(deleted) is not bool:
        raise WireError("a file was expected")
    return {
        "path": text_in(value.get("path")),
        "type": text_in(value.get("type"), 20),
        **{name: int_in(value.get(name)) for name in _NUMBERS},
        "mode": int_in(value.get("mode"), _MAX_MODE),
        "mtime_ns": mtime_ns,
        "deleted": deleted,
        "sha256": None if digest is None else text_in(digest, 64),
    }
