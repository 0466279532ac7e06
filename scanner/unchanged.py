"""Is an inode as it was at an earlier scan? Decided by blocks, by the stamp of its record and by the hash of its content.

Times decide nothing. Whatever cannot be read counts as changed, and is then looked at as if there were no earlier scan.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from core.blocks import Extent
from core.errors import Error
from core.files import FileEntry
from core.findings import Gap, GapReason, InFile
from scanner.base import BaseVolume, Found
from scanner.filesystems import Filesystem
from scanner.manifest.block import HOLE, STAMP_BYTES, Row
from scanner.plan import Plan

_AT_ONCE_BYTES: Final = 8 << 20  # contents up to this are hashed to see whether they changed, before anything else
_MAX_NAMES: Final = 1 << 17  # of one file in a manifest
_MAX_NAMES_BYTES: Final = 12 << 20
_MAX_EXTENTS: Final = 1 << 16  # of one file in a manifest; a file in more pieces is looked at again each time


class Comparison:
    """For one volume. `key`: secret to whoever writes the disk, so that no two records can be made with the same stamp."""

    def __init__(self, filesystem: Filesystem, key: bytes) -> None:
        self._filesystem = filesystem
        self._key = key

    def is_untouched(self, base: BaseVolume, number: int, found: Found) -> bool:
        """Whether all that decides about this inode is as it was: by its blocks, else by its record's stamp and its hash."""
        touch = base.changes.touch
        try:
            if touch(*self._filesystem.record(number)[:2]):
                then = found.stamp
                if not then or then != self._stamp(number):
                    return False
        except Error:
            return False
        for offset, length in found.meta:
            if touch(offset, length):
                return False
        extents = found.extents
        for offset, length in extents:
            if offset != HOLE and touch(offset, length):
                break
        else:
            return True
        kind = stat.S_IFMT(found.mode)
        if kind == stat.S_IFDIR:
            return True  # of a directory's content only the names count, and they are the same
        found.was_read = kind == stat.S_IFREG and self._has_same_content(found, extents)
        return found.was_read

    def _stamp(self, number: int) -> bytes:
        """Raises `Corrupt`."""
        raw = self._filesystem.raw_record(number)
        return hashlib.blake2b(raw, digest_size=STAMP_BYTES, key=self._key).digest()

    def _has_same_content(self, found: Found, extents: Sequence[tuple[int, int]]) -> bool:
        """Read what lies where the content was: is it what it was? False if it is too much to read at once."""
        then, size = found.sha256, found.size
        if not then or size > _AT_ONCE_BYTES or sum([length for _, length in extents]) != size:
            return False
        read = self._filesystem.source.read
        digest = hashlib.sha256()
        try:
            for offset, length in extents:
                data = bytes(length) if offset == HOLE else read(offset, length)
                if len(data) != length:
                    return False
                digest.update(data)
        except Error:
            return False
        return digest.digest() == then

    def describe(self, plan: Plan) -> None:
        """The row of this inode as it is now, without the content's hash; None in its place if it has no record."""
        file = plan.file
        if file is None:
            return
        paths = tuple(item.path for item in plan.items if not isinstance(item, Gap))
        if len(paths) > _MAX_NAMES or sum(map(len, paths)) > _MAX_NAMES_BYTES:
            detail = f"its {len(paths)} names are more than a manifest holds of one file"
            plan.gaps.append(Gap(InFile.of(file), GapReason.LIMIT, detail))
            return
        complete = True
        extents: tuple[tuple[int, int], ...] = ()
        metadata: tuple[tuple[int, int], ...] = ()
        attributes = stamp = b""
        try:
            extents = _with_holes(file)
            metadata = tuple((one.offset, one.length) for one in self._filesystem.metadata(file))
            attributes = _digest_of(file)
            stamp = self._stamp(plan.number)
            if len(extents) + len(metadata) > _MAX_EXTENTS:
                extents, metadata, complete = (), (), False
        except Error:
            complete = False  # whoever reads the file says why
        plan.row = Row(
            inode=plan.number,
            paths=paths,
            mode=file.mode,
            uid=file.uid,
            gid=file.gid,
            size=file.size,
            mtime_ns=file.mtime_ns,
            nlink=file.nlink,
            deleted=file.deleted,
            sha256=b"",
            xattrs=attributes,
            extents=extents,
            meta=metadata,
            complete=complete,
            results=b"",
            stamp=stamp,
        )

    def compare(self, plan: Plan, base: BaseVolume, found: Found, now: Row) -> None:
        """The record changed: is the content where it was, and untouched? Is even all that a scan looks at as it was?"""
        then = found.row
        if not now.complete or (now.mode, now.size) != (then.mode, then.size):
            return
        if now.extents != then.extents or (not now.extents and now.size):
            return  # inline contents and long targets of links are in the record, which changed
        try:
            if plan.file is not None:
                plan.file.open().close()
        except Error:
            return  # it has become one that cannot be read
        touch = base.changes.touch
        if any(offset != HOLE and touch(offset, length) for offset, length in (*now.extents, *now.meta)):
            return
        now.sha256 = plan.digest = then.sha256
        looks_same = replace(now, stamp=then.stamp, results=then.results) == then
        if base.is_current and looks_same and not any(isinstance(item, Gap) for item in plan.items):
            plan.carried = True
            now.results = then.results

    def contents_to_compare(self, start: int, stop: int, base: BaseVolume) -> list[Extent]:
        """What `is_untouched` is about to read of the inodes at these positions."""
        wanted: list[Extent] = []
        for at in range(start, stop):
            number, paths = self._filesystem.names(at)
            found = base.find(number) if paths else None
            if found is not None and stat.S_ISREG(found.mode) and found.complete and found.size <= _AT_ONCE_BYTES:
                extents = found.extents
                if any(offset != HOLE and base.changes.touch(offset, length) for offset, length in extents):
                    wanted += [Extent(offset, length) for offset, length in extents if offset != HOLE]
        return wanted


def _with_holes(file: FileEntry) -> tuple[tuple[int, int], ...]:
    """Where the content is on the volume, in the order of the file, holes included: equal only if the content is laid out alike."""
    places: list[tuple[int, int]] = []
    at = 0
    for extent in file.extents():
        if extent.logical > at:
            places.append((HOLE, extent.logical - at))
        places.append((extent.offset, extent.length))
        at = extent.logical + extent.length
    if places and at < file.size:
        places.append((HOLE, file.size - at))
    return tuple(places)


def _digest_of(file: FileEntry) -> bytes:
    """16 bytes for all extended attributes, none for none."""
    attributes = file.xattrs()
    if not attributes:
        return b""
    digest = hashlib.sha256()
    for name, value in sorted(attributes.items()):
        digest.update(len(name).to_bytes(4, "little") + name + len(value).to_bytes(4, "little") + value)
    return digest.digest()[:16]
