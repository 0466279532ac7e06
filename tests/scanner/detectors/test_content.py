from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.blocks import Extent
from core.files import MemoryFile
from core.findings import Gap, GapReason
from scanner.detectors.content import HOLE_BYTES, MAX_HOLE_BYTES, Content, read_content

MIB = 1 << 20


class HoleyStream(io.RawIOBase):
    """Zeros, with `pieces` (offset to bytes) in them; gives at most 1,000 bytes at a time to test short reads."""

    def __init__(self, size: int, pieces: dict[int, bytes]) -> None:
        self.size, self.pieces, self.position = size, pieces, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0
        self.position = offset
        return offset

    def read(self, length: int = -1) -> bytes:
        length = max(0, min(length, 1000, self.size - self.position))
        out = bytearray(length)
        for start, piece in self.pieces.items():
            low, high = max(start, self.position), min(start + len(piece), self.position + length)
            if low < high:
                out[low - self.position : high - self.position] = piece[low - start : high - start]
        self.position += length
        return bytes(out)


@dataclass(frozen=True)
class SparseFile(MemoryFile):
    runs: Sequence[Extent] = ()
    pieces: tuple[tuple[int, bytes], ...] = ()

    def extents(self) -> Sequence[Extent]:
        return self.runs

    def open(self) -> BinaryIO:
        return cast(BinaryIO, HoleyStream(self.size, dict(self.pieces)))


@dataclass(frozen=True)
class MappedFile(MemoryFile):
    """A file that lends its bytes."""

    def view(self) -> memoryview | None:
        return None if self.content.startswith(b"?") else memoryview(self.content)


def content_of(file: MemoryFile, max_bytes: int) -> Content:
    content = read_content(file, max_bytes)
    assert isinstance(content, Content)
    return content


def test_a_file_within_the_limit_is_taken_whole() -> None:
    content = content_of(MemoryFile(b"/f", b"x" * 100), 100)
    assert (bytes(content.data), content.missing, content.sparse) == (b"x" * 100, 0, False)
    assert content.file_offset(42) == 42


@pytest.mark.parametrize(
    ("size", "missing"),
    [
        pytest.param(50, 0, id="longer-than-declared"),
        pytest.param(100, 0, id="as-declared"),
        pytest.param(1 << 40, (1 << 40) - 100, id="declares-a-tebibyte"),
    ],
)
def test_a_declared_size_takes_no_memory(size: int, missing: int) -> None:
    content = content_of(MemoryFile(b"/f", b"x" * 100, declared_size=size), 1 << 50)
    assert (len(content.data), content.missing) == (min(size, 100), missing)


@pytest.mark.parametrize(
    ("data", "view"), [pytest.param(b"lent", True, id="lent"), pytest.param(b"?not", False, id="stream-says-no")]
)
def test_a_stream_may_lend_its_buffer(data: bytes, view: bool) -> None:
    content = content_of(MappedFile(b"/f", data), 100)
    assert isinstance(content.data, memoryview) is view
    assert bytes(content.data) == data


def test_a_file_over_the_limit_is_a_gap_with_both_sizes() -> None:
    gap = read_content(MemoryFile(b"/f", b"x" * 101), 100)
    assert isinstance(gap, Gap)
    assert gap.reason is GapReason.FILE_TOO_LARGE
    assert "101" in gap.detail
    assert "100" in gap.detail


def test_long_holes_are_left_out_and_offsets_are_those_of_the_file() -> None:
    far = 300 << 30
    file = SparseFile(
        b"/f",
        declared_size=far + 8,
        runs=(Extent(0, 4096, 0), Extent(0, 4096, far - 4088)),
        pieces=((0, b"head"), (far, b"tail")),
    )
    content = content_of(file, MIB)
    data = bytes(content.data)
    assert content.sparse
    assert content.missing == 0
    assert len(data) == 4096 + HOLE_BYTES + 4096
    assert content.file_offset(data.index(b"head")) == 0
    assert content.file_offset(data.index(b"tail")) == far


def test_short_holes_stay() -> None:
    file = SparseFile(
        b"/f",
        declared_size=100 * MIB,
        runs=(Extent(0, 10, 0), Extent(0, 10, MAX_HOLE_BYTES + 10)),
        pieces=((5, b"a"), (MAX_HOLE_BYTES + 12, b"b")),
    )
    content = content_of(file, 4 * MIB)
    assert len(content.data) == MAX_HOLE_BYTES + 20
    assert content.file_offset(bytes(content.data).index(b"b")) == MAX_HOLE_BYTES + 12


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param((), id="no-extents"),
        pytest.param((Extent(0, 1 << 62, 0),), id="one-huge"),
        pytest.param((Extent(0, 0, 0), Extent(0, 10, 1 << 60)), id="outside-the-file"),
        pytest.param(tuple(Extent(0, 1, n * 3 * MIB) for n in range(300)), id="many-runs"),
    ],
)
def test_extents_that_do_not_help_leave_the_gap(runs: tuple[Extent, ...]) -> None:
    gap = read_content(SparseFile(b"/f", declared_size=1 << 40, runs=runs), MIB)
    assert isinstance(gap, Gap)
    assert gap.reason is GapReason.FILE_TOO_LARGE


extents = st.lists(
    st.builds(Extent, st.just(0), st.integers(0, 3000), st.integers(-(1 << 20), 1 << 26)), min_size=1, max_size=6
)


@given(extents)
def test_any_extents_give_bounded_content_or_a_gap(runs: list[Extent]) -> None:
    limit = 2 * MIB
    file = SparseFile(b"/f", declared_size=40 << 20, runs=tuple(runs))
    content = read_content(file, limit)
    if isinstance(content, Gap):
        return
    assert len(content.data) <= limit
    for offset in {0, len(content.data) // 2, len(content.data) - 1}:
        assert 0 <= content.file_offset(offset) < file.size
    for extent in runs:
        if 0 <= extent.logical < file.size and extent.length:
            starts = [start for start, _ in content.runs if content.file_offset(start) <= extent.logical]
            assert starts, "data before the first run"
