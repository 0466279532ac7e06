"""What the kernel says is on a filesystem, what our reader says, and how the two differ."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import BinaryIO

from core.errors import Error
from core.files import FileEntry, kind_of
from core.findings import Gap, GapReason, InFile
from scanner.filesystems.base import Filesystem

CHUNK = 1 << 20


@dataclass(frozen=True)
class Truth:
    """One name. `sha256` is hex, of a regular file's content; `target` is a symlink's; sizes in bytes, times in ns."""

    kind: str
    sha256: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    nlink: int
    xattrs: Mapping[bytes, bytes]
    target: bytes
    inode: int


@dataclass
class Seen:
    """All that the reader yielded."""

    names: dict[bytes, Truth] = field(default_factory=dict)
    deleted: dict[bytes, Truth] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    twice: list[bytes] = field(default_factory=list)


def hash_stream(stream: BinaryIO, limit: int | None = None) -> str:
    """Hex sha256 of all of `stream`, or of its first `limit` bytes."""
    digest = hashlib.sha256()
    left = limit
    while left is None or left > 0:
        piece = stream.read(CHUNK if left is None else min(CHUNK, left))
        if not piece:
            break
        digest.update(piece)
        left = None if left is None else left - len(piece)
    return digest.hexdigest()


def kernel_truth(mountpoint: Path) -> dict[bytes, Truth]:
    """Every name below `mountpoint`, by its path on the filesystem (`/` is the root itself).

    Goes down through directory descriptors, since a path on the disk may be longer than PATH_MAX.
    """
    root = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = {b"/": _one_truth(root, b".")}
        found.update(_below(root, b"/"))
    finally:
        os.close(root)
    return found


def _below(folder: int, prefix: bytes) -> Iterator[tuple[bytes, Truth]]:
    for name in sorted(os.listdir(b"/proc/self/fd/%d" % folder)):
        truth = _one_truth(folder, name)
        yield prefix + name, truth
        if truth.kind == "directory":
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                yield from _below(child, prefix + name + b"/")
            finally:
                os.close(child)


def _one_truth(folder: int, name: bytes) -> Truth:
    short = b"/proc/self/fd/%d/%s" % (folder, name)
    found = os.lstat(short)
    kind = kind_of(found.st_mode)
    names = os.listxattr(short, follow_symlinks=False)
    xattrs = {os.fsencode(key): os.getxattr(short, key, follow_symlinks=False) for key in names}
    sha256 = ""
    if kind == "file":
        with open(short, "rb") as stream:
            sha256 = hash_stream(stream)
    return Truth(
        kind=kind,
        sha256=sha256,
        size=found.st_size,
        mode=found.st_mode,
        uid=found.st_uid,
        gid=found.st_gid,
        mtime_ns=found.st_mtime_ns,
        nlink=found.st_nlink,
        xattrs=xattrs,
        target=os.readlink(short) if kind == "symlink" else b"",
        inode=found.st_ino,
    )


def entry_truth(entry: FileEntry, limit: int | None = None) -> Truth:
    """The same of one entry of our reader, at most `limit` bytes of its content; raises what the reader raises."""
    kind = kind_of(entry.mode)
    sha256, target = "", b""
    if kind in {"file", "symlink"}:
        with entry.open() as stream:
            if kind == "symlink":
                target = stream.read(CHUNK)
            else:
                sha256 = hash_stream(stream, limit)
    return Truth(
        kind=kind,
        sha256=sha256,
        size=entry.size,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        nlink=entry.nlink,
        xattrs=dict(entry.xattrs()),
        target=target,
        inode=entry.inode,
    )


def reader_truth(filesystem: Filesystem, *, step: int = 0, limit: int | None = None) -> Seen:
    """All that our reader sees; `step` > 0 asks for that many inodes at a time, as the workers of a scan do.

    A file that cannot be read is a gap, as it is for the scan loop, and keeps its name and a `sha256` of `unread`.
    """
    seen = Seen()
    count = filesystem.index()
    step = step or max(count, 1)
    for start in range(0, max(count, 1), step):
        for entry in filesystem.files(start, min(start + step, count)):
            if isinstance(entry, Gap):
                seen.gaps.append(entry)
                continue
            into = seen.deleted if entry.deleted else seen.names
            if entry.path in into:
                seen.twice.append(entry.path)
            try:
                into[entry.path] = entry_truth(entry, limit)
            except Error as error:
                seen.gaps.append(Gap(InFile.of(entry), GapReason.UNREADABLE, f"{type(error).__name__}: {error}"))
                into[entry.path] = _unread(entry)
    seen.gaps = [*filesystem.gaps, *seen.gaps]
    return seen


def _unread(entry: FileEntry) -> Truth:
    return Truth(
        kind=kind_of(entry.mode),
        sha256="unread",
        size=entry.size,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        nlink=entry.nlink,
        xattrs={},
        target=b"",
        inode=entry.inode,
    )


def differences(
    expected: Mapping[bytes, Truth], got: Mapping[bytes, Truth], ignore: frozenset[str] = frozenset()
) -> list[str]:
    """One line for each name or field that differs, sorted by path; `ignore` names fields that are not compared."""
    lines: list[str] = []
    for path in sorted(expected.keys() | got.keys()):
        if path == b"/" and path not in got:
            continue  # the root has no name, so a reader may leave it out
        if path not in got:
            lines.append(f"missing {path[:120]!r} ({expected[path].kind})")
        elif path not in expected:
            lines.append(f"extra {path[:120]!r} ({got[path].kind})")
        else:
            lines += _field_differences(path, expected[path], got[path], ignore)
    return lines


def _field_differences(path: bytes, expected: Truth, got: Truth, ignore: frozenset[str]) -> Iterator[str]:
    for one in fields(Truth):
        left, right = getattr(expected, one.name), getattr(got, one.name)
        if one.name in ignore or left == right:
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            keys = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
            pairs = [(key, (left.get(key) or b"")[:60], (right.get(key) or b"")[:60]) for key in keys[:3]]
            yield f"{path[:120]!r} ({expected.kind}) xattrs: {len(keys)} differ: {pairs!r}"
        else:
            yield f"{path[:120]!r} ({expected.kind}) {one.name}: expected {left!r:.90}, got {right!r:.90}"


def summary(lines: list[str]) -> str:
    """The first ten differences, for a failing assertion, and how many there are of each sort."""
    if not lines:
        return "no differences"
    sorts = Counter(line.split(" ", 1)[0] if line.startswith(("missing", "extra")) else "field" for line in lines)
    return "\n".join([f"{len(lines)} differences {dict(sorts)}:", *lines[:10]])


def assert_same(expected: Mapping[bytes, Truth], seen: Seen, ignore: frozenset[str] = frozenset()) -> None:
    """The reader saw everything just as expected, and had no gaps."""
    lines = differences(expected, seen.names, ignore)
    lines += [f"gap: {gap}" for gap in seen.gaps]
    lines += [f"listed twice: {path!r}" for path in seen.twice]
    lines += [f"deleted but nobody had it open: {path!r}" for path in seen.deleted]
    assert not lines, summary(lines)


def as_mke2fs_copies(truth: Mapping[bytes, Truth]) -> dict[bytes, Truth]:
    """`truth` of a source tree as `mke2fs -d` carries it over: whole seconds, of which it keeps the low 32 bits."""
    return {path: replace(one, mtime_ns=_low_seconds(one.mtime_ns)) for path, one in truth.items()}


def _low_seconds(mtime_ns: int) -> int:
    seconds = mtime_ns // 1_000_000_000
    return ((seconds + 2**31) % 2**32 - 2**31) * 1_000_000_000
