"""Rows on their way into a manifest: new ones, and runs of a base's rows as they stand there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scanner.base import BaseBlock, Found
from scanner.manifest.block import MAX_ROWS, Columns, Row, weight_of
from scanner.wire import BLOCK_HEAD

_BLOCK_ROWS: Final = 1024
_NAME_WEIGHT: Final = 100  # of a single name, most of which it shares with its neighbours
_BLOCK_WEIGHT: Final = 8 << 20  # bytes of paths, results and places, about


class Kept:
    """Rows `start` to `stop` of a block of the base, for the new manifest as they stand."""

    __slots__ = ("block", "start", "stop")

    def __init__(self, block: BaseBlock, start: int) -> None:
        self.block = block
        self.start = start
        self.stop = start + 1


def add_row(rows: list[Row | Kept], one: Row | Found) -> int:
    """About how many bytes it adds to a block."""
    if isinstance(one, Row):
        rows.append(one)
        return len(one.results) + 16 * (len(one.extents) + len(one.meta)) + weight_of(one.paths)
    last = rows[-1] if rows else None
    if isinstance(last, Kept) and last.block is one.block and last.stop == one.number:
        last.stop += 1
    else:
        rows.append(Kept(one.block, one.number))
    block, number = one.block.block, one.number
    names = block.name_starts[number + 1] - block.name_starts[number]
    places = block.place_starts[number + 1] - block.place_starts[number]
    return 16 * places + (_NAME_WEIGHT if names == 1 else weight_of(one.paths))


def blocks_of(volume: int, rows: Sequence[Row | Kept]) -> bytes:
    """Blocks for the manifest, each behind its head. One of the base that did not change goes on as it is, which costs nothing."""
    out: list[bytes] = []
    columns = Columns()

    def flush() -> None:
        nonlocal columns
        if columns:
            inodes = columns.inodes
            out.append(_framed(volume, inodes[0], inodes[-1], len(columns), columns.encode()))
            columns = Columns()

    for one in rows:
        if isinstance(one, Row):
            columns.add(one)
        elif one.start == 0 and one.stop == len(one.block):
            flush()
            out.append(_framed(volume, one.block.first, one.block.last, len(one.block), one.block.raw))
        else:
            if len(columns) + one.stop - one.start > MAX_ROWS:
                flush()
            columns.add_run(one.block.block, one.start, one.stop)
        if len(columns) >= _BLOCK_ROWS or columns.weight >= _BLOCK_WEIGHT:
            flush()
    flush()
    return b"".join(out)


def _framed(volume: int, first: int, last: int, rows: int, raw: bytes) -> bytes:
    return BLOCK_HEAD.pack(volume, first, last, rows, len(raw)) + raw
