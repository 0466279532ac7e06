"""The loop that ties it together: files through detectors, and files as lines of a listing. No I/O but the files' own."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO

from core.blocks import Bytes, Extent
from core.errors import Error
from core.files import FileEntry, kind_of
from core.findings import Detector, Finding, Gap, GapReason, InFile, Package
from core.text import escape
from scanner.gaps import reason_of
from scanner.wire import Message

_CHUNK_BYTES = 1 << 20
_MAX_TARGET_BYTES = 1 << 16


def scan_inode(items: Sequence[FileEntry | Gap], detectors: Sequence[Detector]) -> Iterator[Finding | Package | Gap]:
    """Every detector on every name of one inode; its content is looked at once, however many names it has."""
    told: set[Gap] = set()
    looked: dict[str, list[Finding | Package | Gap]] = {}
    for item in items:
        if isinstance(item, Gap):
            yield item
            continue
        for detector in detectors:
            try:
                if not detector.wants(item):
                    continue
            except Exception as error:  # noqa: BLE001  hostile bytes may raise anything: this is the border
                yield Gap(InFile.of(item), GapReason.DETECTOR_FAILED, f"{detector.name}: {error!r}"[:500])
                continue
            for result in _results(detector, item, looked):
                if isinstance(result, Gap):
                    if result in told:
                        continue
                    told.add(result)
                yield result


def _results(
    detector: Detector, file: FileEntry, looked: dict[str, list[Finding | Package | Gap]]
) -> Iterable[Finding | Package | Gap]:
    if detector.content_only and detector.name in looked:
        return [replace(known, where=InFile.of(file)) for known in looked[detector.name] if not isinstance(known, Gap)]
    results = list(_inspect(detector, file))
    if detector.content_only:
        looked[detector.name] = results
    return results


def _inspect(detector: Detector, file: FileEntry) -> Iterator[Finding | Package | Gap]:
    try:
        yield from detector.inspect(file)
    except Error as error:
        yield Gap(InFile.of(file), reason_of(error), str(error))
    except MemoryError:
        yield Gap(InFile.of(file), GapReason.OUT_OF_MEMORY, f"{detector.name}: not enough memory for this file")
    except Exception as error:  # noqa: BLE001  hostile bytes may raise anything: this is the border
        yield Gap(InFile.of(file), GapReason.DETECTOR_FAILED, f"{detector.name}: {error!r}"[:500])


ToDisk = Callable[[Extent], Message]


def list_inode(
    items: Sequence[FileEntry | Gap], *, hashed: bool, to_disk: ToDisk | None, xattrs: bool
) -> Iterator[Message | Gap]:
    """One line for every name of one inode, as `kumomori ls` prints them; what cannot be read is a gap beside its line."""
    content: Message | None = None
    for item in items:
        if isinstance(item, Gap):
            yield item
            continue
        if content is None:
            content = {}
            for key, value in _content(item, hashed=hashed, to_disk=to_disk, xattrs=xattrs):
                if isinstance(value, Gap):
                    yield value
                else:
                    content[key] = value
        yield _line(item) | content


def _line(file: FileEntry) -> Message:
    return {
        "volume": file.volume,
        "path": escape(file.path),
        "type": kind_of(file.mode),
        "size": file.size,
        "mode": file.mode,
        "uid": file.uid,
        "gid": file.gid,
        "mtime_ns": file.mtime_ns,
        "inode": file.inode,
        "nlink": file.nlink,
        "deleted": file.deleted,
    }


def _content(
    file: FileEntry, *, hashed: bool, to_disk: ToDisk | None, xattrs: bool
) -> Iterator[tuple[str, object | Gap]]:
    """What takes reading more than the inode: (key, value or gap)."""
    wanted: list[tuple[str, Callable[[], object]]] = []
    if stat.S_ISREG(file.mode) and hashed:
        wanted.append(("sha256", lambda: sha256(file)))
    if stat.S_ISLNK(file.mode):
        wanted.append(("target", lambda: escape(file.open().read(_MAX_TARGET_BYTES))))
    if to_disk:
        shift = to_disk
        wanted.append(("extents", lambda: [shift(extent) for extent in file.extents()]))
    if xattrs:
        wanted.append(("xattrs", lambda: {escape(name): value.hex() for name, value in file.xattrs().items()}))
    for key, read in wanted:
        try:
            yield key, read()
        except Error as error:
            yield key, None
            yield key, Gap(InFile.of(file), reason_of(error), str(error))
        except MemoryError:
            yield key, None
            yield key, Gap(InFile.of(file), GapReason.OUT_OF_MEMORY, f"not enough memory to read its {key}")


def sha256(file: FileEntry) -> str:
    """Hex digest of the content. Raises what `FileEntry.open` raises."""
    digest = hashlib.sha256()
    with file.open() as stream:
        for chunk in chunks(stream):
            digest.update(chunk)
    return digest.hexdigest()


def chunks(stream: BinaryIO) -> Iterator[Bytes]:
    """The rest of a stream in pieces; by its own `chunks` where it has one, which copies nothing."""
    own: Callable[[], Iterator[Bytes]] | None = getattr(stream, "chunks", None)
    if own is not None:
        yield from own()
        return
    while piece := stream.read(_CHUNK_BYTES):
        yield piece
