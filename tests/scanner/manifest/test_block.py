from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Corrupt
from scanner.manifest.block import HOLE, MAX_ROWS, Block, Columns, Row, encode

MOST = (1 << 64) - 1
numbers = st.one_of(st.integers(0, 5000), st.integers(0, MOST))
places = st.lists(st.tuples(st.one_of(numbers, st.just(HOLE)), numbers), max_size=4).map(tuple)
paths = st.lists(st.binary(max_size=12).map(lambda end: b"/shared/" + end), max_size=3).map(tuple)


def made(*values: Any) -> Row:
    return Row(*values)


@st.composite
def blocks(draw: st.DrawFn) -> list[Row]:
    inodes = draw(st.lists(numbers, min_size=1, max_size=8, unique=True))
    return [
        made(
            inode,
            draw(paths),
            draw(st.integers(0, 0xFFFF)),
            *(draw(numbers) for _ in range(3)),
            draw(st.integers(-(1 << 62), 1 << 62)),
            draw(numbers),
            draw(st.booleans()),
            draw(st.sampled_from([b"", b"\xab" * 32])),
            draw(st.sampled_from([b"", b"\xcd" * 16])),
            draw(places),
            draw(places),
            draw(st.booleans()),
            draw(st.binary(max_size=20)),
            draw(st.sampled_from([b"", b"\xef" * 8])),
        )
        for inode in sorted(inodes)
    ]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(blocks())
def test_what_was_written_is_read(rows: list[Row]) -> None:
    block = Block(encode(rows))
    assert [block.row(at) for at in range(len(block))] == rows
    for at, row in enumerate(rows):
        assert block.inodes[at] == row.inode
        assert tuple(block.paths(at)) == row.paths
        assert (block.mode(at), block.size(at), block.complete(at)) == (row.mode, row.size, row.complete)
        assert (block.sha256(at), block.stamp(at), block.results(at)) == (row.sha256, row.stamp, row.results)


@settings(max_examples=300, deadline=None)
@given(blocks(), st.lists(st.integers(0, 8), min_size=2, max_size=9))
def test_runs_of_another_block_are_what_their_rows_are(rows: list[Row], cuts: list[int]) -> None:
    """Runs and single rows in turn, some left out between, give the same bytes as all the rows one by one."""
    decoded = Block(encode(rows))
    borders = [min(cut, len(rows)) for cut in sorted(cuts)]
    chosen: list[Row] = []
    columns, expected = Columns(), Columns()
    for number, (start, stop) in enumerate(pairwise(borders)):
        if number % 3 == 0:
            columns.add_run(decoded, start, stop)
        elif number % 3 == 1:
            for row in rows[start:stop]:
                columns.add(row)
        else:
            continue
        chosen += rows[start:stop]
    for row in chosen:
        expected.add(row)
    assert len(columns) == len(chosen)
    if chosen:
        assert columns.encode() == expected.encode()


def some_rows(count: int) -> list[Row]:
    chance = random.Random(count)
    return [
        made(
            *(11 + number, (b"/usr/share/doc/package%d/file%d" % (number // 7, number),), 0o100644, 0, 0),
            *(chance.randrange(9000), 1_700_000_000_000_000_000 + number % 2 * chance.randrange(10**9), 1, False),
            *(chance.randbytes(32), b"", ((4096 * (1000 + 3 * number), 8192),), (), True, b""),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [0, MAX_ROWS + 1])
def test_too_few_or_many_rows(count: int) -> None:
    with pytest.raises(ValueError):
        encode(some_rows(count))


def test_damaged_blocks_are_refused_or_read_within_bounds() -> None:
    """Whatever is in it: an error of ours, or rows; never another exception."""
    chance = random.Random(1)
    raw = encode(some_rows(40))
    refused = 0
    for _ in range(3000):
        damaged = bytearray(raw)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        if chance.random() < 0.2:
            del damaged[chance.randrange(len(damaged)) :]
        try:
            block = Block(bytes(damaged))
            for at in range(len(block)):
                block.row(at)
        except Corrupt:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0", b"\1\0\0\0\xff\xff\xff\xff", b"\0\x10\0\0" + bytes(1000)],
)
def test_no_blocks_at_all(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        Block(raw)
