"""Rows of a manifest as a block of columns, the form in which they pass between processes and stand (compressed) in the file.

Each column of numbers is 64-bit little endian with its bytes transposed (all lowest bytes first), so that bytes which are
mostly zero lie together and cost next to nothing when compressed. Decoding trusts nothing: a manifest tells of a hostile disk.
"""

from __future__ import annotations

import stat
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from core.errors import Corrupt

MAX_ROWS: Final = 4096
MAX_BLOCK_BYTES: Final = 28 << 20  # must fit into a frame of `scanner.wire`
HOLE: Final = (1 << 64) - 1  # as an extent's offset: a part of a file that is not stored
_MAX_NAMES: Final = 1 << 20
_MAX_EXTENTS: Final = 1 << 20
_MAX_PATHS_BYTES: Final = 64 << 20
_MASK: Final = (1 << 64) - 1
_SHA_BYTES: Final = 32
_XATTRS_BYTES: Final = 16
_DELETED, _COMPLETE, _HASHED, _XATTRS = 1, 2, 4, 8

Places = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Row:
    """One inode with all its names.

    `sha256` is 32 bytes, or empty if it was not hashed; `xattrs` a digest of 16 bytes, empty if there are none. `extents`
    are the (offset, length) of the content on the volume in the order of the file, parts that are not stored with the offset
    `HOLE`; `meta` the blocks that hold its block map and attributes. Not `complete`: a later scan has to look again.
    `results` is what the scan said of it, opaque here.
    """

    inode: int
    paths: tuple[bytes, ...]
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    nlink: int
    deleted: bool
    sha256: bytes
    xattrs: bytes
    extents: Places
    meta: Places
    complete: bool
    results: bytes


def encode(rows: Sequence[Row]) -> bytes:
    """Between 1 and 4096 rows, inodes ascending. Raises `ValueError` for more than a block can hold."""
    if not 0 < len(rows) <= MAX_ROWS:
        raise ValueError("a block has between 1 and 4096 rows")
    inodes = [row.inode for row in rows]
    times = [divmod(row.mtime_ns, 1_000_000_000) for row in rows]
    names: list[bytes] = []
    prefixes: list[int] = []
    before = b""
    for row in rows:
        for path in row.paths:
            shared = _shared(before, path)
            prefixes.append(shared)
            names.append(path[shared:])
            before = path
    places = [place for row in rows for place in (*row.extents, *row.meta)]
    numbers: tuple[Iterable[int], ...] = (
        _deltas(inodes),
        [row.mode for row in rows],
        [row.uid for row in rows],
        [row.gid for row in rows],
        [row.size for row in rows],
        _zigzag(_deltas([seconds for seconds, _ in times])),
        [nanoseconds for _, nanoseconds in times],
        [row.nlink for row in rows],
        [_flags(row) for row in rows],
        [len(row.paths) for row in rows],
        [len(row.extents) for row in rows],
        [len(row.meta) for row in rows],
        [len(row.results) for row in rows],
        prefixes,
        [len(name) for name in names],
    )
    where: tuple[Iterable[int], ...] = (_zigzag(_gaps(places)), [length for _, length in places])
    blobs = (
        b"".join(row.sha256 for row in rows),
        b"".join(row.xattrs for row in rows),
        b"".join(row.results for row in rows),
    )
    parts = [_transposed(column) for column in numbers]
    parts += [b"".join(names), *(_transposed(column) for column in where), *blobs]
    raw = b"".join([len(rows).to_bytes(4, "little"), *(len(part).to_bytes(4, "little") + part for part in parts)])
    if len(raw) > MAX_BLOCK_BYTES or len(names) > _MAX_NAMES or len(places) > _MAX_EXTENTS:
        raise ValueError("more than a block can hold")
    return raw


def _flags(row: Row) -> int:
    return _DELETED * row.deleted + _COMPLETE * row.complete + _HASHED * bool(row.sha256) + _XATTRS * bool(row.xattrs)


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle
    return low


def _deltas(values: Sequence[int]) -> list[int]:
    return [values[0], *(after - before for before, after in pairwise(values))]


def _zigzag(values: Iterable[int]) -> list[int]:
    """Signed numbers as unsigned ones that are small where the others are near 0; modulo 2**64."""
    found = []
    for value in values:
        wrapped = value & _MASK
        found.append(((wrapped << 1) & _MASK) ^ (_MASK if wrapped >> 63 else 0))
    return found


def _unzigzag(value: int) -> int:
    return (value >> 1) ^ (_MASK if value & 1 else 0)


def _gaps(places: Iterable[tuple[int, int]]) -> Iterable[int]:
    """Offsets as distances from the end of the place before, which is 0 for the next file on an unaged disk."""
    end = 0
    for offset, length in places:
        yield offset - end
        if offset != HOLE:
            end = offset + length


def _transposed(values: Iterable[int]) -> bytes:
    column = array("Q", values)
    if sys.byteorder == "big":
        column.byteswap()
    raw = column.tobytes()
    return b"".join(raw[byte::8] for byte in range(8))


def _column(raw: bytes, count: int) -> array[int]:
    if len(raw) != 8 * count:
        raise Corrupt("a column has a wrong length")
    straight = bytearray(len(raw))
    for byte in range(8):
        straight[byte::8] = raw[byte * count : (byte + 1) * count]
    column = array("Q")
    column.frombytes(straight)
    if sys.byteorder == "big":
        column.byteswap()
    return column


class Block:
    """A decoded block. Rows are put together when asked for; single columns cost less. Raises `Corrupt`."""

    def __init__(self, raw: bytes) -> None:
        parts = _Parts(raw)
        self._count = parts.count
        deltas = parts.numbers(self._count)
        if any(delta == 0 for delta in deltas[1:]) or sum(deltas) > _MASK:
            raise Corrupt("inodes are out of order")
        self.inodes: Sequence[int] = list(accumulate(deltas))
        self._mode, self._uid, self._gid, self._size = (parts.numbers(self._count) for _ in range(4))
        self._seconds = [
            seconds & _MASK for seconds in accumulate(_unzigzag(value) for value in parts.numbers(self._count))
        ]
        self._nanoseconds = parts.numbers(self._count)
        if max(self._nanoseconds) >= 1_000_000_000:
            raise Corrupt("a time has too many nanoseconds")
        self._nlink, self._flags, names, extents, meta, results = (parts.numbers(self._count) for _ in range(6))
        if max(self._flags) > 15:
            raise Corrupt("unknown flags")
        self._name_starts = _starts(names, _MAX_NAMES)
        self._extent_counts = extents
        self._place_starts = _starts([one + other for one, other in zip(extents, meta, strict=True)], _MAX_EXTENTS)
        self._paths = _paths(parts, self._name_starts[-1])
        self._places = _decoded_places(parts, self._place_starts[-1])
        self._sha_starts = _starts([_SHA_BYTES * (flags & _HASHED > 0) for flags in self._flags], MAX_ROWS * _SHA_BYTES)
        self._sha = parts.blob(self._sha_starts[-1])
        self._xattr_starts = _starts([_XATTRS_BYTES * (flags & _XATTRS > 0) for flags in self._flags], 1 << 20)
        self._xattrs = parts.blob(self._xattr_starts[-1])
        self._result_starts = _starts(results, MAX_BLOCK_BYTES)
        self._results = parts.blob(self._result_starts[-1])
        parts.end()

    def __len__(self) -> int:
        return self._count

    @property
    def hashed(self) -> bool:
        """Whether every regular file in it has its hash."""
        return all(
            flags & _HASHED or not stat.S_ISREG(mode) for flags, mode in zip(self._flags, self._mode, strict=True)
        )

    def paths(self, at: int) -> tuple[bytes, ...]:
        return tuple(self._paths[self._name_starts[at] : self._name_starts[at + 1]])

    def extents_of(self, at: int) -> Sequence[tuple[int, int]]:
        """All its places: `extents`, then `meta`."""
        return self._places[self._place_starts[at] : self._place_starts[at + 1]]

    def complete(self, at: int) -> bool:
        return self._flags[at] & _COMPLETE > 0

    def mode(self, at: int) -> int:
        return self._mode[at]

    def size(self, at: int) -> int:
        return self._size[at]

    def sha256(self, at: int) -> bytes:
        return self._sha[self._sha_starts[at] : self._sha_starts[at + 1]]

    def results(self, at: int) -> bytes:
        return self._results[self._result_starts[at] : self._result_starts[at + 1]]

    def row(self, at: int) -> Row:
        places = tuple(self.extents_of(at))
        split = self._extent_counts[at]
        seconds = self._seconds[at]
        if seconds >> 63:
            seconds -= 1 << 64
        flags = self._flags[at]
        return Row(
            self.inodes[at],
            self.paths(at),
            self._mode[at],
            self._uid[at],
            self._gid[at],
            self._size[at],
            seconds * 1_000_000_000 + self._nanoseconds[at],
            self._nlink[at],
            flags & _DELETED > 0,
            self.sha256(at),
            self._xattrs[self._xattr_starts[at] : self._xattr_starts[at + 1]],
            places[:split],
            places[split:],
            flags & _COMPLETE > 0,
            self.results(at),
        )


class _Parts:
    """Cuts a block into its parts."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) > MAX_BLOCK_BYTES:
            raise Corrupt("a block is too long")
        self._raw = raw
        self._at = 4
        self.count = int.from_bytes(raw[:4], "little")
        if not 0 < self.count <= MAX_ROWS:
            raise Corrupt("a block has a wrong number of rows")

    def _next(self) -> bytes:
        end = self._at + 4
        size = int.from_bytes(self._raw[self._at : end], "little")
        if end + size > len(self._raw):
            raise Corrupt("a block is cut short")
        self._at = end + size
        return self._raw[end : end + size]

    def numbers(self, count: int) -> array[int]:
        return _column(self._next(), count)

    def blob(self, size: int) -> bytes:
        found = self._next()
        if len(found) != size:
            raise Corrupt("a part of a block has a wrong length")
        return found

    def end(self) -> None:
        if self._at != len(self._raw):
            raise Corrupt("a block is longer than its parts")


def _starts(lengths: Sequence[int], most: int) -> list[int]:
    starts = [0, *accumulate(lengths)]
    if starts[-1] > most:
        raise Corrupt("a block claims to hold more than it can")
    return starts


def _paths(parts: _Parts, count: int) -> list[bytes]:
    prefixes = parts.numbers(count)
    starts = _starts(parts.numbers(count), MAX_BLOCK_BYTES)
    text = parts.blob(starts[-1])
    found: list[bytes] = []
    before = b""
    room = _MAX_PATHS_BYTES
    for at, prefix in enumerate(prefixes):
        if prefix > len(before):
            raise Corrupt("a path builds on more than there is")
        before = before[:prefix] + text[starts[at] : starts[at + 1]]
        room -= len(before)
        if room < 0:
            raise Corrupt("the paths of a block are too long")
        found.append(before)
    return found


def _decoded_places(parts: _Parts, count: int) -> list[tuple[int, int]]:
    found = []
    end = 0
    for gap, length in zip(parts.numbers(count), parts.numbers(count), strict=True):
        offset = (_unzigzag(gap) + end) & _MASK
        found.append((offset, length))
        if offset != HOLE:
            end = (offset + length) & _MASK
    return found
