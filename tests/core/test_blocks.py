from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.blocks import MemorySource, Slice


@given(
    content=st.binary(max_size=200),
    start=st.integers(0, 250),
    length=st.integers(0, 250),
    offset=st.integers(0, 300),
    wanted=st.integers(0, 1 << 70),
)
def test_a_slice_is_a_piece_of_its_parent(content: bytes, start: int, length: int, offset: int, wanted: int) -> None:
    piece = Slice(MemorySource(content), start, length)
    assert piece.size == length
    assert piece.read(offset, wanted) == content[start : start + length][offset : offset + wanted]


@given(
    content=st.binary(max_size=100),
    outer=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    inner=st.tuples(st.integers(0, 100), st.integers(0, 100)),
)
def test_slices_of_slices(content: bytes, outer: tuple[int, int], inner: tuple[int, int]) -> None:
    nested = Slice(Slice(MemorySource(content), *outer), *inner)
    reference = content[outer[0] : outer[0] + outer[1]][inner[0] : inner[0] + inner[1]]
    assert nested.read(0, 1000) == reference


def test_a_slice_does_not_ask_its_parent_for_nothing() -> None:
    class Broken:
        size = 10

        def read(self, offset: int, length: int) -> bytes:
            raise AssertionError

    assert Slice(Broken(), 5, 5).read(5, 10) == b""
    assert Slice(Broken(), 5, 5).read(1 << 80, 10) == b""


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (-5, -5)])
def test_negative_numbers_are_refused(offset: int, length: int) -> None:
    source = MemorySource(b"0123456789")
    with pytest.raises(ValueError):
        source.read(offset, length)
    with pytest.raises(ValueError):
        Slice(source, 2, 5).read(offset, length)
    with pytest.raises(ValueError):
        Slice(source, offset, length)
