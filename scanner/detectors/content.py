"""A file's bytes as one buffer, for scanners that take a file whole."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import BinaryIO

from core.blocks import Bytes, Extent
from core.files import FileEntry
from core.findings import Gap, GapReason, InFile

MAX_HOLE_BYTES = 1 << 20
# What stands for a longer hole: enough that two runs of data never look like neighbours
HOLE_BYTES = 4096
READ_BYTES = 8 << 20


@dataclass(frozen=True)
class Content:
    """`data`, and where its runs begin: `runs` holds (offset in `data`, offset in the file), both ascending.

    `missing` is how many bytes the file should have but did not give; `sparse` says that long holes were left out.
    """

    data: Bytes
    runs: Sequence[tuple[int, int]] = ((0, 0),)
    missing: int = 0
    sparse: bool = False

    def file_offset(self, offset: int) -> int:
        """Where the byte at `offset` of `data` stands in the file."""
        start, logical = self.runs[bisect_right(self.runs, offset, key=itemgetter(0)) - 1]
        return logical + offset - start


def read_content(file: FileEntry, max_bytes: int) -> Content | Gap:
    """The whole file, or a gap if it is longer than `max_bytes`.

    A longer file whose extents are known is taken without its holes of more than 1 MiB, 4 KiB of zeros in place of
    each, if what is left fits. What `view_of` gives is not copied.
    Raises what `FileEntry.open` raises.
    """
    if file.size > max_bytes:
        runs = _stored_runs(file.extents(), file.size)
        stored = sum(length for _, length in runs) + HOLE_BYTES * len(runs)
        if not runs or stored > max_bytes:
            return Gap(InFile.of(file), GapReason.FILE_TOO_LARGE, f"{file.size} bytes; the limit is {max_bytes}")
        with file.open() as stream:
            return _read_runs(stream, runs)
    data: Bytes | None = view_of(file)
    if data is None:
        with file.open() as stream:
            data = _whole(stream, file.size)
    return Content(data, missing=file.size - len(data))


def view_of(file: FileEntry) -> memoryview | None:
    """The whole content without a copy, from a file that has `view`; None if it has none, or cannot lend it just now."""
    lend: Callable[[], memoryview | None] | None = getattr(file, "view", None)
    return None if lend is None else lend()


def read_ends(file: FileEntry, ends_bytes: int) -> Content:
    """The first and the last `ends_bytes` of a file that is longer than both, with 4 KiB of zeros between them.

    Raises what `FileEntry.open` raises.
    """
    with file.open() as stream:
        return _read_runs(stream, [(0, ends_bytes), (file.size - ends_bytes, ends_bytes)])


def _stored_runs(extents: Sequence[Extent], size: int) -> list[tuple[int, int]]:
    """(offset, length) in the file of what is stored, clipped to the file, with holes of up to 1 MiB filled in."""
    runs = [(0, 0)]  # so that a short hole at the start is filled in, too
    for extent in sorted(extents, key=lambda extent: extent.logical):
        start, end = max(0, extent.logical), min(size, extent.logical + extent.length)
        if start >= end:
            continue
        if runs and start - (runs[-1][0] + runs[-1][1]) <= MAX_HOLE_BYTES:
            last, length = runs[-1]
            runs[-1] = (last, max(length, end - last))
        else:
            runs.append((start, end - start))
    return [run for run in runs if run[1]]


def _read_runs(stream: BinaryIO, stored: Sequence[tuple[int, int]]) -> Content:
    data = bytearray()
    runs: list[tuple[int, int]] = []
    missing = 0
    for logical, length in stored:
        if logical:
            runs.append((len(data), logical - HOLE_BYTES))
            data += bytes(HOLE_BYTES)
        runs.append((len(data), logical))
        stream.seek(logical)
        piece = _read(stream, length)
        data += piece
        missing += length - len(piece)
    return Content(memoryview(data), runs, missing, sparse=True)


def _whole(stream: BinaryIO, size: int) -> bytes:
    """By the stream's own `chunks` where it has one: what it lends is copied once, not three times."""
    own = getattr(stream, "chunks", None)
    return b"".join(own())[:size] if callable(own) else _read(stream, size)


def _read(stream: BinaryIO, length: int) -> bytes:
    """Up to `length` bytes; short at the end of the stream. Read in pieces: a declared size alone takes no memory."""
    first = stream.read(min(length, READ_BYTES))
    if len(first) == length or not first:
        return first
    pieces = [first]
    have = len(first)
    while have < length:
        piece = stream.read(min(length - have, READ_BYTES))
        if not piece:
            break
        pieces.append(piece)
        have += len(piece)
    return b"".join(pieces)
