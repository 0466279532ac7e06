"""Which blocks hold a file: extent trees and indirect blocks, both as runs of blocks.

Source: "ext4 Data Structures and Algorithms", 4.2 The Contents of inode.i_block. Every pointer is checked against the
filesystem's size; logical order must rise, as the kernel insists, so that no block list can be made to loop or explode.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from core.blocks import BlockSource
from core.errors import Corrupt, LimitExceeded, Unreadable
from scanner.filesystems.ext.crc import crc32c
from scanner.filesystems.ext.inode import EXTENTS, Inode
from scanner.filesystems.ext.superblock import Superblock

MAX_RUNS: Final = 2_000_000
_MAGIC: Final = 0xF30A
_HEADER: Final = struct.Struct("<HHHH4x")
_LEAF: Final = struct.Struct("<IHHI")
_ONLY: Final = struct.Struct("<HHHH4xIHHI")  # a header and its first leaf
_INDEX: Final = struct.Struct("<IIH2x")
_UNWRITTEN: Final = 0x8000


class BlockRun(NamedTuple):
    """`blocks` blocks of a file from its block `logical` on, stored from block `physical` on."""

    logical: int
    physical: int
    blocks: int


def block_runs(source: BlockSource, sb: Superblock, inode: Inode) -> list[BlockRun]:
    """The stored, written blocks of `inode`, ascending; holes and unwritten extents are left out.

    Raises `Corrupt`, `Unreadable`, or `LimitExceeded` for more than 2 million runs.
    """
    walk = _extents(source, sb, inode, inode.block, None) if inode.flags & EXTENTS else _indirect(source, sb, inode)
    runs: list[BlockRun] = []
    end = 0
    for logical, physical, count in walk:
        if logical < end:
            raise Corrupt("its block map is out of order")
        if physical <= 0 or physical + count > sb.blocks:
            raise Corrupt(f"its block map points outside the filesystem (block {physical})")
        end = logical + count
        if runs:
            before = runs[-1]
            if before.logical + before.blocks == logical and before.physical + before.blocks == physical:
                runs[-1] = BlockRun(before.logical, before.physical, before.blocks + count)
                continue
        if len(runs) >= MAX_RUNS:
            raise LimitExceeded(f"more than {MAX_RUNS} extents")
        runs.append(BlockRun(logical, physical, count))
    return runs


def only_extent(sb: Superblock, inode: Inode) -> int | None:
    """Where on the volume the content is, in bytes, if it is one written extent in the record itself, as it mostly is.

    None says nothing more than that: `block_runs` then tells what there is, and what is wrong with it.
    """
    magic, entries, most, depth, logical, length, high, low = _ONLY.unpack_from(inode.block)
    if magic != _MAGIC or entries != 1 or depth or not 0 < most <= 4 or logical or not 0 < length <= _UNWRITTEN:
        return None
    physical = low | high << 32
    if not 0 < physical <= sb.blocks - length or length * sb.block_bytes < inode.size:
        return None
    return int(physical * sb.block_bytes)


def read_block(source: BlockSource, sb: Superblock, number: int) -> bytes:
    """One whole metadata block. Raises `Corrupt` for a number outside the filesystem, `Unreadable` if it is cut off."""
    if not 0 < number < sb.blocks:
        raise Corrupt(f"a metadata pointer leads outside the filesystem (block {number})")
    block = bytes(source.read(number * sb.block_bytes, sb.block_bytes))
    if len(block) < sb.block_bytes:
        raise Unreadable(f"the volume ends before metadata block {number}")
    return block


def _extents(
    source: BlockSource, sb: Superblock, inode: Inode, node: bytes, depth: int | None
) -> Iterator[tuple[int, int, int]]:
    magic, entries, most, node_depth = _HEADER.unpack_from(node)
    if magic != _MAGIC or entries > most or 12 + 12 * most > len(node) or node_depth > 5:
        raise Corrupt("its extent tree is broken")
    if depth is not None:
        if node_depth != depth:
            raise Corrupt("its extent tree has a wrong depth")
        if sb.has_checksums and not _tail_right(node, 12 + 12 * most, inode, sb):
            raise Corrupt("an extent block has a wrong checksum")
    if node_depth == 0:
        for at in range(12, 12 + 12 * entries, 12):
            logical, length, high, low = _LEAF.unpack_from(node, at)
            if not length:
                raise Corrupt("its extent tree has an empty extent")
            if length <= _UNWRITTEN:
                yield logical, low | high << 32, length
        return
    before = -1
    for at in range(12, 12 + 12 * entries, 12):
        logical, low, high = _INDEX.unpack_from(node, at)
        if logical <= before:
            raise Corrupt("its extent tree is out of order")
        before = logical
        child = read_block(source, sb, low | high << 32)
        first = True
        for run in _extents(source, sb, inode, child, node_depth - 1):
            if first and run[0] < logical:
                raise Corrupt("its extent tree is out of order")
            first = False
            yield run


def _tail_right(node: bytes, at: int, inode: Inode, sb: Superblock) -> bool:
    if at + 4 > len(node):
        return False
    return crc32c(inode.seed(sb), node[:at]) == int.from_bytes(node[at : at + 4], "little")


def _indirect(source: BlockSource, sb: Superblock, inode: Inode) -> Iterator[tuple[int, int, int]]:
    """Runs by 12 direct pointers and trees of depth 1, 2 and 3."""
    pointers = struct.unpack("<15I", inode.block)
    per_block = sb.block_bytes // 4
    wanted = -(-inode.size // sb.block_bytes)
    budget = [sb.blocks]  # no file owns more pointer blocks than the filesystem has blocks
    yield from _pointers(pointers[:12], 0, wanted)
    logical = 12
    for depth in (1, 2, 3):
        if logical >= wanted:
            return
        if pointers[11 + depth]:
            yield from _tree(source, sb, pointers[11 + depth], depth, logical, wanted, budget)
        logical += per_block**depth


def _tree(
    source: BlockSource, sb: Superblock, block: int, depth: int, logical: int, wanted: int, budget: list[int]
) -> Iterator[tuple[int, int, int]]:
    budget[0] -= 1
    if budget[0] < 0:
        raise Corrupt("its indirect blocks refer to each other")
    per_block = sb.block_bytes // 4
    pointers = struct.unpack(f"<{per_block}I", read_block(source, sb, block))
    if depth == 1:
        yield from _pointers(pointers, logical, wanted)
        return
    for at, pointer in enumerate(pointers):
        start = logical + at * per_block ** (depth - 1)
        if start >= wanted:
            return
        if pointer:
            yield from _tree(source, sb, pointer, depth - 1, start, wanted, budget)


def _pointers(pointers: tuple[int, ...], logical: int, wanted: int) -> Iterator[tuple[int, int, int]]:
    start = count = first = 0
    for at, pointer in enumerate(pointers[: max(0, wanted - logical)]):
        if count and pointer == start + count:
            count += 1
            continue
        if count:
            yield first, start, count
        start, first, count = pointer, logical + at, 1 if pointer else 0
    if count:
        yield first, start, count
