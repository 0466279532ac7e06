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
STAMP_BYTES: Final = 8
_DELETED, _COMPLETE, _HASHED, _XATTRS, _STAMPED = 1, 2, 4, 8, 16
_FLAGS: Final = 31

# columns of plain numbers: mode uid gid size nanoseconds nlink flags, then how many names extents meta bytes of results
_PLAIN: Final = 11

Places = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Row:
    """One inode with all its names.

    `sha256` (of a symbolic link: of its target) is 32 bytes, or empty if it was not hashed; `xattrs` a digest of 16 bytes, empty if there are none. `extents`
    are the (offset, length) of the content on the volume in the order of the file, parts that are not stored with the offset
    `HOLE`; `meta` the blocks that hold its block map and attributes. Not `complete`: a later scan has to look again.
    `results` is what the scan said of it, opaque here. `stamp` is 8 bytes that tell its record from any other, or empty.
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
    stamp: bytes = b""


def weight_of(paths: Sequence[bytes]) -> int:
    """About how many bytes names take in a block; each counts for some even if it shares all its bytes with the one before."""
    return 16 * len(paths) + sum(map(len, paths))


def encode(rows: Sequence[Row]) -> bytes:
    """Between 1 and 4096 rows, inodes ascending. Raises `ValueError` for more than a block can hold."""
    columns = Columns()
    for row in rows:
        columns.add(row)
    return columns.encode()


class Columns:
    """A block in the making: single rows, and runs of rows as they stand in another block, which cost next to nothing."""

    def __init__(self) -> None:
        self.inodes: list[int] = []
        self._seconds: list[int] = []
        self._plain: tuple[array[int], ...] = tuple(array("Q") for _ in range(_PLAIN))
        self._prefixes = array("Q")
        self._suffixes = array("Q")
        self._names: list[bytes] = []  # what of each path is not shared with the one before
        self._last_path = b""
        self._places: list[tuple[int, int]] = []
        self._blobs: tuple[list[bytes], ...] = ([], [], [], [])
        self.weight = 0  # bytes of paths, places and results, about

    def __len__(self) -> int:
        return len(self.inodes)

    def add(self, row: Row) -> None:
        seconds, nanoseconds = divmod(row.mtime_ns, 1_000_000_000)
        self.inodes.append(row.inode)
        self._seconds.append(seconds)
        numbers = (
            *(row.mode, row.uid, row.gid, row.size, nanoseconds, row.nlink, _flags(row)),
            *(len(row.paths), len(row.extents), len(row.meta), len(row.results)),
        )
        for column, number in zip(self._plain, numbers, strict=True):
            column.append(number)
        for path in row.paths:
            self._add_path(path)
        self._places += row.extents
        self._places += row.meta
        self.weight += len(row.results) + 16 * (len(row.extents) + len(row.meta))
        for blob, value in zip(self._blobs, (row.sha256, row.xattrs, row.stamp, row.results), strict=True):
            blob.append(value)

    def _add_path(self, path: bytes) -> None:
        shared = _shared(self._last_path, path)
        self._prefixes.append(shared)
        self._suffixes.append(len(path) - shared)
        self._names.append(path[shared:])
        self._last_path = path
        self.weight += 16 + len(path)

    def add_run(self, block: Block, start: int, stop: int) -> None:
        """Rows `start` to `stop` of a decoded block."""
        self.inodes += block.inodes[start:stop]
        self._seconds += block.seconds[start:stop]
        for column, theirs in zip(self._plain, block.plain, strict=True):
            column.extend(theirs[start:stop])
        first, last = block.name_starts[start], block.name_starts[stop]
        if (
            first < last
        ):  # the first shares with what stands here before it, the others with each other as they did there
            self._add_path(block.all_paths[first])
            self._prefixes.extend(block.prefixes[first + 1 : last])
            self._suffixes.extend(block.suffixes[first + 1 : last])
            self._names.append(block.text[block.suffix_starts[first + 1] : block.suffix_starts[last]])
            self._last_path = block.all_paths[last - 1]
            self.weight += weight_of(block.all_paths[first + 1 : last])
        self._places += block.places[block.place_starts[start] : block.place_starts[stop]]
        for blob, (starts, theirs_raw) in zip(self._blobs, block.blobs, strict=True):
            blob.append(theirs_raw[starts[start] : starts[stop]])
        self.weight += 16 * (block.place_starts[stop] - block.place_starts[start]) + len(self._blobs[3][-1])

    def encode(self) -> bytes:
        """Raises `ValueError` for more or less than a block can hold."""
        count = len(self.inodes)
        if not 0 < count <= MAX_ROWS:
            raise ValueError("a block has between 1 and 4096 rows")
        columns: tuple[Iterable[int], ...] = (
            _deltas(self.inodes),
            _zigzag(_deltas(self._seconds)),
            *self._plain,
            self._prefixes,
            self._suffixes,
        )
        where = (_zigzag(_gaps(self._places)), [length for _, length in self._places])
        parts = [_transposed(column) for column in columns]
        parts += [b"".join(self._names), *(_transposed(column) for column in where)]
        parts += [b"".join(blob) for blob in self._blobs]
        raw = b"".join([count.to_bytes(4, "little"), *(len(part).to_bytes(4, "little") + part for part in parts)])
        if len(raw) > MAX_BLOCK_BYTES or len(self._prefixes) > _MAX_NAMES or len(self._places) > _MAX_EXTENTS:
            raise ValueError("more than a block can hold")
        return raw


def _flags(row: Row) -> int:
    found = _DELETED * row.deleted | _COMPLETE * row.complete | _HASHED * bool(row.sha256)
    return found | _XATTRS * bool(row.xattrs) | _STAMPED * bool(row.stamp)


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
    """A decoded block, as columns. Rows are put together when asked for; single columns cost less. Raises `Corrupt`.

    Of a row `at`: its paths are `all_paths[name_starts[at]:name_starts[at + 1]]`, its places (extents, then what holds
    its block map and attributes) `places[place_starts[at]:place_starts[at + 1]]`.
    """

    def __init__(self, raw: bytes) -> None:
        parts = _Parts(raw)
        self._count = count = parts.count
        deltas = parts.numbers(count)
        if 0 in deltas[1:] or sum(deltas) > _MASK:
            raise Corrupt("inodes are out of order")
        self.inodes: Sequence[int] = list(accumulate(deltas))
        self.seconds = _seconds(parts.numbers(count))
        self.plain = tuple(parts.numbers(count) for _ in range(_PLAIN))
        self._mode, self._uid, self._gid, self._size, self._nanoseconds, self._nlink, self._flags = self.plain[:7]
        names, extents, meta, results = self.plain[7:]
        if max(self._nanoseconds) >= 1_000_000_000:
            raise Corrupt("a time has too many nanoseconds")
        if max(self._mode) > 0xFFFF:
            raise Corrupt("an unknown mode")
        if max(self._flags) > _FLAGS:
            raise Corrupt("unknown flags")
        self.name_starts = _starts(names, _MAX_NAMES)
        self.extent_counts = extents
        self.place_starts = _starts([one + other for one, other in zip(extents, meta, strict=True)], _MAX_EXTENTS)
        count = self.name_starts[-1]
        self.prefixes = parts.numbers(count)
        self.suffixes = parts.numbers(count)
        self.suffix_starts = _starts(self.suffixes, MAX_BLOCK_BYTES)
        self.text = parts.blob(self.suffix_starts[-1])
        self.all_paths = _paths(self.prefixes, self.suffix_starts, self.text)
        self.places = _decoded_places(parts, self.place_starts[-1])
        lengths: tuple[Sequence[int], ...] = (
            [_SHA_BYTES * (flags & _HASHED > 0) for flags in self._flags],
            [_XATTRS_BYTES * (flags & _XATTRS > 0) for flags in self._flags],
            [STAMP_BYTES * (flags & _STAMPED > 0) for flags in self._flags],
            results,
        )
        starts = [_starts(one, MAX_BLOCK_BYTES) for one in lengths]
        self.blobs = tuple((one, parts.blob(one[-1])) for one in starts)
        (self._sha_starts, self._sha), (self._xattr_starts, self._xattrs) = self.blobs[:2]
        (self._stamp_starts, self._stamps), (self._result_starts, self._results) = self.blobs[2:]
        parts.end()

    def __len__(self) -> int:
        return self._count

    @property
    def hashed(self) -> bool:
        """Whether every file and symbolic link in it has its hash."""
        return all(
            flags & _HASHED or stat.S_IFMT(mode) not in {stat.S_IFREG, stat.S_IFLNK}
            for flags, mode in zip(self._flags, self._mode, strict=True)
        )

    def paths(self, at: int) -> list[bytes]:
        return self.all_paths[self.name_starts[at] : self.name_starts[at + 1]]

    def complete(self, at: int) -> bool:
        return self._flags[at] & _COMPLETE > 0

    def mode(self, at: int) -> int:
        return self._mode[at]

    def size(self, at: int) -> int:
        return self._size[at]

    def sha256(self, at: int) -> bytes:
        return self._sha[self._sha_starts[at] : self._sha_starts[at + 1]]

    def stamp(self, at: int) -> bytes:
        return self._stamps[self._stamp_starts[at] : self._stamp_starts[at + 1]]

    def results(self, at: int) -> bytes:
        return self._results[self._result_starts[at] : self._result_starts[at + 1]]

    def row(self, at: int) -> Row:
        places = tuple(self.places[self.place_starts[at] : self.place_starts[at + 1]])
        split = self.extent_counts[at]
        flags = self._flags[at]
        return Row(
            self.inodes[at],
            tuple(self.paths(at)),
            self._mode[at],
            self._uid[at],
            self._gid[at],
            self._size[at],
            self.seconds[at] * 1_000_000_000 + self._nanoseconds[at],
            self._nlink[at],
            flags & _DELETED > 0,
            self.sha256(at),
            self._xattrs[self._xattr_starts[at] : self._xattr_starts[at + 1]],
            places[:split],
            places[split:],
            flags & _COMPLETE > 0,
            self.results(at),
            self.stamp(at),
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


def _seconds(deltas: Iterable[int]) -> list[int]:
    """Seconds since 1970 out of their zigzag differences, modulo 2**64, signed."""
    found = []
    now = 0
    for delta in deltas:
        now = (now + ((delta >> 1) ^ (_MASK if delta & 1 else 0))) & _MASK
        found.append(now - (1 << 64) if now >> 63 else now)
    return found


def _paths(prefixes: Sequence[int], starts: Sequence[int], text: bytes) -> list[bytes]:
    found: list[bytes] = []
    before = b""
    room = _MAX_PATHS_BYTES
    for prefix, (start, end) in zip(prefixes, pairwise(starts), strict=True):
        if prefix > len(before):
            raise Corrupt("a path builds on more than there is")
        before = before[:prefix] + text[start:end]
        room -= len(before)
        if room < 0:
            raise Corrupt("the paths of a block are too long")
        found.append(before)
    return found


def _decoded_places(parts: _Parts, count: int) -> list[tuple[int, int]]:
    found = []
    end = 0
    for gap, length in zip(parts.numbers(count), parts.numbers(count), strict=True):
        offset = (((gap >> 1) ^ (_MASK if gap & 1 else 0)) + end) & _MASK
        found.append((offset, length))
        if offset != HOLE:
            end = (offset + length) & _MASK
    return found
