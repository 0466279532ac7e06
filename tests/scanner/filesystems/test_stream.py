from __future__ import annotations

import io
import os
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.blocks import Bytes, MemorySource
from core.errors import Unreadable
from scanner.filesystems import stream
from scanner.filesystems.stream import Run, RunStream


class Lending(MemorySource):
    """A source that lends its memory, as a mapped disk does."""

    def read(self, offset: int, length: int) -> Bytes:
        return memoryview(self.content)[offset : offset + length]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[bytes, list[Run], int]:
    """(disk, runs, size): runs in any place of the disk, holes between, in front and behind."""
    disk = draw(st.binary(min_size=64, max_size=64))
    runs = []
    logical = 0
    for _ in range(draw(st.integers(0, 5))):
        logical += draw(st.integers(0, 20))
        length = draw(st.integers(1, 20))
        runs.append(Run(logical, draw(st.integers(0, 64 - length)), length))
        logical += length
    return disk, runs, logical + draw(st.integers(0, 20))


def content_of(disk: bytes, runs: Sequence[Run], size: int) -> bytes:
    content = bytearray(size)
    for run in runs:
        content[run.logical : run.logical + run.length] = disk[run.offset : run.offset + run.length]
    return bytes(content)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 80)),
        st.tuples(st.just("readline"), st.integers(-1, 80)),
        st.tuples(st.just("readinto"), st.integers(0, 80)),
        st.tuples(st.just("set"), st.integers(0, 200)),
        st.tuples(st.just("current"), st.integers(-80, 80)),
        st.tuples(st.just("end"), st.integers(-80, 20)),
        st.tuples(st.just("all"), st.just(0)),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(layout=layouts(), steps=steps, lends=st.booleans(), buffered=st.booleans(), chunk=st.integers(1, 40))
def test_reads_like_the_bytes_themselves(
    layout: tuple[bytes, list[Run], int], steps: list[tuple[str, int]], lends: bool, buffered: bool, chunk: int
) -> None:
    disk, runs, size = layout
    reference = io.BytesIO(content_of(*layout))
    source = Lending(disk) if lends else MemorySource(disk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "CHUNK_BYTES", chunk)
        raw = RunStream(source, runs, size)
        ours = io.BufferedReader(raw, 16) if buffered else raw
        assert b"".join(raw.chunks()) == reference.getvalue()
        assert all(0 < len(piece) <= chunk for piece in raw.chunks())
        for step, number in steps:
            take(ours, reference, step, number)
            assert ours.tell() == reference.tell()


def take(ours: io.RawIOBase | io.BufferedIOBase, reference: io.BytesIO, step: str, number: int) -> None:
    match step:
        case "read" if isinstance(ours, RunStream):
            got = ours.read(number) or b""  # a raw stream may give less, but never nothing before the end
            expected = reference.read(number)
            assert expected.startswith(got)
            assert bool(got) == bool(expected)
            reference.seek(len(got) - len(expected), os.SEEK_CUR)
        case "read":
            assert ours.read(number) == reference.read(number)
        case "readline":
            assert ours.readline(number) == reference.readline(number)
        case "readinto":
            buffer = bytearray(number)
            count = ours.readinto(buffer) or 0
            assert buffer[:count] == reference.read(count)
            assert count or not number or reference.tell() >= len(reference.getvalue())
        case "all":
            assert ours.read() == reference.read()
        case _:
            whence = {"set": os.SEEK_SET, "current": os.SEEK_CUR, "end": os.SEEK_END}[step]
            base = {"set": 0, "current": reference.tell(), "end": len(reference.getvalue())}[step]
            if base + number < 0:
                with pytest.raises((ValueError, OSError)):
                    ours.seek(number, whence)
            else:
                assert ours.seek(number, whence) == reference.seek(number, whence)


@given(layout=layouts())
def test_lines_are_those_of_the_bytes(layout: tuple[bytes, list[Run], int]) -> None:
    disk, runs, size = layout
    text = disk.translate(bytes(10 if byte % 4 == 0 else byte for byte in range(256)))
    assert list(RunStream(MemorySource(text), runs, size)) == list(io.BytesIO(content_of(text, runs, size)))


@given(layout=layouts(), end=st.integers(0, 63))
def test_a_disk_that_ends_early(layout: tuple[bytes, list[Run], int], end: int) -> None:
    disk, runs, size = layout
    cut = RunStream(MemorySource(disk[:end]), runs, size)
    if all(run.offset + run.length <= end for run in runs):
        assert cut.read() == content_of(disk, runs, size)
        return
    with pytest.raises(Unreadable):
        cut.read()
    with pytest.raises(Unreadable):
        b"".join(RunStream(MemorySource(disk[:end]), runs, size).chunks())


def test_a_hole_takes_no_memory() -> None:
    huge = RunStream(MemorySource(b"x"), [], 1 << 60)
    assert huge.seek(0, os.SEEK_END) == 1 << 60
    huge.seek((1 << 60) - 3)
    assert huge.read() == bytes(3)
    assert len(next(iter(huge.chunks()))) == stream.CHUNK_BYTES


def test_it_is_a_stream_for_reading() -> None:
    ours = RunStream(MemorySource(b"abc"), [Run(0, 0, 3)], 3)
    assert ours.readable()
    assert ours.seekable()
    assert not ours.writable()
