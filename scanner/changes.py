"""Which bytes of a disk changed since an earlier scan: as the platform tells it, or found by comparing two disks."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from core.blocks import BlockSource, Extent
from core.errors import ConfigError
from core.text import printable

MAX_EXTENTS: Final = 4_000_000  # 2 TB of 512 KiB blocks
_MAX_FILE_BYTES: Final = 256 << 20
_COMPARE_BYTES: Final = 1 << 20
_SPACE: Final = b" \t\r\n"
_BEGIN: Final = re.compile(rb"[ \t\r\n]*\[[ \t\r\n]*(?P<next>\]?)")
_ENTRY: Final = re.compile(
    rb"""\s*\{\s*"(?P<first>offset|length)"\s*:\s*(?P<one>0|[1-9][0-9]{0,18})\s*,"""
    rb"""\s*"(?P<second>offset|length)"\s*:\s*(?P<other>0|[1-9][0-9]{0,18})\s*\}\s*(?P<next>[,\]])"""
)
GRAIN_BYTES: Final = 4096  # what a difference is rounded to: no filesystem of ours writes less at once


class Changes:
    """Stretches of a disk or volume, in order, none touching another."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, stretches: Iterable[tuple[int, int]] = ()) -> None:
        """(offset, length) in any order, overlapping or not. Raises `ValueError` for a negative number."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        for offset, length in sorted(stretches):
            if offset < 0 or length < 0:
                raise ValueError("offset and length are not negative")
            if not length:
                continue
            if self._ends and offset <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], offset + length)
            else:
                self._starts.append(offset)
                self._ends.append(offset + length)

    def __iter__(self) -> Iterator[Extent]:
        return (Extent(start, end - start) for start, end in zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self._ends) - sum(self._starts)

    @property
    def end(self) -> int:
        return self._ends[-1] if self._ends else 0

    def touch(self, offset: int, length: int) -> bool:
        """Whether one of the `length` bytes from `offset` on is among them."""
        at = bisect_right(self._starts, offset) - 1
        if at >= 0 and self._ends[at] > offset:
            return length > 0
        return at + 1 < len(self._starts) and self._starts[at + 1] < offset + length

    def within(self, start: int, length: int) -> Changes:
        """Those of a volume at `start`, counted from its start."""
        cut = []
        for offset, end in zip(self._starts, self._ends, strict=True):
            begin, stop = max(offset, start), min(end, start + length)
            if begin < stop:
                cut.append((begin - start, stop - begin))
        return Changes(cut)

    def joined(self, others: Iterable[tuple[int, int]]) -> Changes:
        return Changes([*((one.offset, one.length) for one in self), *others])


def read_changes(path: Path) -> list[tuple[int, int]]:
    """A file with a JSON list of `{"offset": bytes, "length": bytes}`, in any order. Raises `ConfigError`."""
    shown = printable(str(path))
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read ({error.strerror}); --changed takes a JSON file") from error
    if len(raw) > _MAX_FILE_BYTES:
        raise ConfigError(f"{shown}: more than {_MAX_FILE_BYTES} bytes; leave --base and --changed out for a full scan")
    return list(_extents(shown, raw))


def _extents(shown: str, raw: bytes) -> Iterator[tuple[int, int]]:
    """Entry by entry: made into objects all at once, a file of brackets would take fifty times its size of memory."""
    found = _BEGIN.match(raw)
    number = 0
    while found is not None and found["next"] != b"]":
        found = _ENTRY.match(raw, found.end())
        if found is None or found["first"] == found["second"]:
            break
        number += 1
        if number > MAX_EXTENTS:
            raise ConfigError(
                f"{shown}: more than {MAX_EXTENTS} extents; leave --base and --changed out for a full scan"
            )
        one, other = int(found["one"]), int(found["other"])
        yield (one, other) if found["first"] == b"offset" else (other, one)
    if found is None or found["next"] != b"]" or raw[found.end() :].strip(_SPACE):
        raise ConfigError(
            f'{shown}: is not JSON of the agreed form, a list of {{"offset": bytes, "length": bytes}} with whole numbers that '
            f"are not negative (entry {number})"
        )


def differences(old: BlockSource, new: BlockSource) -> Iterator[tuple[int, int]]:
    """(offset, length) where two disks differ, in steps of 4 KiB; what only the longer one has counts as different."""
    begin = end = 0
    for offset, length in _different(old, new):
        if offset == end:
            end += length
            continue
        if end > begin:
            yield begin, end - begin
        begin, end = offset, offset + length
    if end > begin:
        yield begin, end - begin


def _different(old: BlockSource, new: BlockSource) -> Iterator[tuple[int, int]]:
    common = min(old.size, new.size)
    for start in range(0, common, _COMPARE_BYTES):
        length = min(_COMPARE_BYTES, common - start)
        before, after = bytes(old.read(start, length)), bytes(new.read(start, length))
        if before == after:
            continue
        for at in range(0, length, GRAIN_BYTES):
            if before[at : at + GRAIN_BYTES] != after[at : at + GRAIN_BYTES]:
                yield start + at, min(GRAIN_BYTES, length - at)
    if old.size != new.size:
        yield common, max(old.size, new.size) - common
