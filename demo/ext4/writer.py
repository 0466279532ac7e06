"""Puts the pieces together: data first, then inodes, then the tables and superblocks that count them."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from demo.ext4.layout import BLOCK, MAX_IN_GROUP, Layout, Options, has_superblock
from demo.ext4.records import (
    EXTENTS_FLAG,
    Body,
    crc32c,
    directory_blocks,
    extent_leaves,
    extent_root,
    inode_record,
    inode_seed,
    runs_of,
    seal_xattr_block,
    split_xattrs,
)
from demo.ext4.tree import JOURNAL, LOST_AND_FOUND, Inode, Node, Tree, plan

_COMPAT = 0x4 | 0x8  # has_journal, ext_attr
_INCOMPAT = 0x2 | 0x40  # filetype, extents
_INCOMPAT_64BIT = 0x80
_RO_COMPAT = 0x1 | 0x2 | 0x20 | 0x40 | 0x400  # sparse_super, large_file, dir_nlink, extra_isize, metadata_csum
_INLINE_TARGET = 60  # a shorter target of a symlink stands in the inode
_TABLE_ZEROED = 0x4
_ZEROS = bytes(BLOCK)


def write(out: BinaryIO, nodes: Iterable[Node], options: Options, *, start: int = 0) -> dict[bytes, int]:
    """Write a filesystem of `options.size` bytes at byte `start` of `out`, and return the inode number of every path.

    `out` must be seekable and read as zeros there: only what is not zero is written, so that a sparse file stays sparse.
    Raises `ValueError` if the tree does not fit or is not one that this writer makes (see `Node`).
    """
    tree = plan(nodes, options.time)
    _Writer(out, start, options, tree).run()
    return tree.numbers


class _Writer:
    def __init__(self, out: BinaryIO, start: int, options: Options, tree: Tree) -> None:
        self.out = out
        self.start = start
        self.options = options
        self.tree = tree
        self.used_inodes = tree.inodes[-1].number
        self.layout = Layout(options, self.used_inodes)
        self.free = self._free_blocks()
        self.next_block = 0
        self.seed = crc32c(0xFFFFFFFF, options.uuid.bytes)

    def run(self) -> None:
        journal_map = self.journal()
        numbers = [orphan.number for orphan in self.tree.orphans]
        next_orphan = dict(zip(numbers, [*numbers[1:], 0], strict=False))
        for inode in self.tree.inodes:
            self.inode(inode, self.body(inode), next_orphan.get(inode.number, 0))
        self.put_tables(journal_map)

    def _free_blocks(self) -> Iterator[int]:
        for block in self.layout.data_blocks():
            self.next_block = block + 1
            yield block

    def put(self, offset: int, data: bytes) -> None:
        self.out.seek(self.start + offset)
        self.out.write(data)

    def take(self) -> int:
        """The next free block."""
        block = next(self.free, None)
        if block is None:
            raise ValueError("the tree does not fit into the filesystem")
        return block

    def inode(self, inode: Inode, body: Body, dtime: int = 0) -> None:
        record = inode_record(inode, body, self.seed, self.options.time, dtime)
        self.put(self.layout.inode_offset(inode.number), record)

    def journal(self) -> bytes:
        """A journal with nothing in it, jbd2 version 2, all its blocks allocated; returns its block map.

        Source: kernel documentation, "Journal (jbd2)". Big endian, unlike all else.
        """
        count = self.options.journal_blocks
        pairs = [(logical, self.take()) for logical in range(count)]
        # magic, superblock v2, sequence; block size, length, first block; first transaction, where it starts (none), error
        superblock = struct.pack(">IIIIIIIII", 0xC03B3998, 4, 0, BLOCK, count, 1, 1, 0, 0)
        self.put(pairs[0][1] * BLOCK, superblock.ljust(64, b"\0") + struct.pack(">I", 1))  # one user: this filesystem
        node = Node(b"", stat.S_IFREG | 0o600, mtime_ns=self.options.time * 10**9)
        inode = Inode(JOURNAL, node, links=1)
        area, extra = self.map_blocks(inode, pairs)
        self.inode(inode, Body(area, EXTENTS_FLAG, count * BLOCK, count + extra))
        return area

    def body(self, inode: Inode) -> Body:
        """Write what belongs to an inode but does not stand in it."""
        inline, outside = split_xattrs(inode.node.xattrs)
        xattr_block = 0
        if outside:
            xattr_block = self.take()
            self.put(xattr_block * BLOCK, seal_xattr_block(outside, xattr_block, self.seed))
        count = 1 if outside else 0
        content = self.content(inode)
        is_link = inode.node.kind == stat.S_IFLNK
        if is_link and len(content) < _INLINE_TARGET:
            return Body(content.ljust(60, b"\0"), 0, len(content), count, xattr_block, inline)
        if not is_link and inode.node.kind not in (stat.S_IFREG, stat.S_IFDIR):
            return Body(bytes(60), 0, 0, count, xattr_block, inline)
        pairs = []
        for offset in range(0, len(content), BLOCK):
            piece = content[offset : offset + BLOCK]
            if piece != _ZEROS[: len(piece)]:
                pairs.append((offset // BLOCK, self.take()))
                self.put(pairs[-1][1] * BLOCK, piece)
        area, extra = self.map_blocks(inode, pairs)
        return Body(area, EXTENTS_FLAG, len(content), count + len(pairs) + extra, xattr_block, inline)

    def content(self, inode: Inode) -> bytes:
        if inode.is_directory:
            return directory_blocks(inode, inode_seed(self.seed, inode.number))
        return inode.node.target or inode.node.content

    def map_blocks(self, inode: Inode, pairs: list[tuple[int, int]]) -> tuple[bytes, int]:
        """The extent tree over `pairs` (logical, physical): its root, and how many blocks of its own it took."""
        runs = runs_of(pairs)
        leaf_blocks = []
        for leaf in extent_leaves(runs, inode_seed(self.seed, inode.number)):
            leaf_blocks.append(self.take())
            self.put(leaf_blocks[-1] * BLOCK, leaf)
        return extent_root(runs, leaf_blocks), len(leaf_blocks)

    def put_tables(self, journal_map: bytes) -> None:
        descriptors = bytearray()
        free_blocks = 0
        for group in range(self.layout.groups):
            free, descriptor = self.group(group)
            descriptors += descriptor
            free_blocks += free
        for group in filter(has_superblock, range(self.layout.groups)):
            superblock = self.superblock(group, free_blocks, journal_map)
            first = self.layout.start(group) * BLOCK
            # the first 1024 bytes of the disk are left to a boot loader
            self.put(first + (0 if group else 1024), superblock)
            self.put(first + BLOCK, bytes(descriptors))

    def group(self, group: int) -> tuple[int, bytes]:
        """Write the bitmaps of a group; return its free blocks and its descriptor."""
        layout = self.layout
        blocks = layout.end(group) - layout.start(group)
        # blocks and inodes are given out in rising order, so what is used is always the first part of a group
        used_end = max(layout.tables(group).stop, min(layout.end(group), self.next_block))
        used = used_end - layout.start(group)
        first_inode = group * layout.group_inodes + 1
        inodes = min(max(self.used_inodes - first_inode + 1, 0), layout.group_inodes)
        here = range(first_inode, first_inode + layout.group_inodes)
        directories = sum(inode.is_directory and inode.number in here for inode in self.tree.inodes)

        block_bitmap = _bitmap(used, blocks)
        inode_bitmap = _bitmap(inodes, layout.group_inodes)
        place = layout.block_bitmap(group)
        self.put(place * BLOCK, block_bitmap + inode_bitmap)
        block_sum = crc32c(self.seed, block_bitmap[: layout.group_blocks // 8])
        inode_sum = crc32c(self.seed, inode_bitmap[: layout.group_inodes // 8])
        unused = layout.group_inodes - inodes
        descriptor = struct.pack(
            "<IIIHHHHIHHHH",
            *(place, place + 1, place + 2),
            *(blocks - used, unused, directories, _TABLE_ZEROED, 0),
            *(block_sum & 0xFFFF, inode_sum & 0xFFFF, unused, 0),
        )
        if self.options.wide:
            descriptor += struct.pack("<24xHH4x", block_sum >> 16, inode_sum >> 16)
        checksum = crc32c(self.seed, struct.pack("<I", group), descriptor) & 0xFFFF
        return blocks - used, descriptor[:30] + struct.pack("<H", checksum) + descriptor[32:]

    def superblock(self, group: int, free_blocks: int, journal_map: bytes) -> bytes:
        options, layout = self.options, self.layout
        inodes = layout.group_inodes * layout.groups
        incompat = _INCOMPAT | (_INCOMPAT_64BIT if options.wide else 0)
        orphan = self.tree.orphans[0].number if self.tree.orphans else 0
        block = bytearray(1024)
        put = struct.pack_into
        # counts: inodes, blocks, reserved, free blocks, free inodes; first block; log2 of KiB in a block and a cluster
        put("<8I", block, 0x00, inodes, layout.blocks, 0, free_blocks, inodes - self.used_inodes, 0, 2, 2)
        put("<5I", block, 0x20, layout.group_blocks, layout.group_blocks, layout.group_inodes, 0, options.time)
        # mounted 0 of any number of times; magic; clean; on errors go on; checked when; Linux; dynamic revision
        put("<6H4I", block, 0x34, 0, 0xFFFF, 0xEF53, 1, 1, 0, options.time, 0, 0, 1)
        put("<IHHIII", block, 0x54, LOST_AND_FOUND, 256, group, _COMPAT, incompat, _RO_COMPAT)
        block[0x68:0x78] = options.uuid.bytes
        block[0x78:0x88] = options.label.ljust(16, b"\0")
        put("<III", block, 0xE0, JOURNAL, 0, orphan)
        block[0xEC:0xFC] = options.uuid.bytes  # seed of directory hashes; no directory here has an index
        put(
            "<BBH", block, 0xFC, 1, 1, layout.descriptor_size if options.wide else 0
        )  # half MD4; journal backed up below
        put("<I", block, 0x108, options.time)
        block[0x10C:0x148] = journal_map
        put("<II", block, 0x148, 0, options.journal_blocks * BLOCK)
        put("<HHI", block, 0x15C, 32, 32, 2)  # extra bytes of inodes: least, wanted; hashes take bytes as unsigned
        put("<B", block, 0x175, 1)  # checksums are CRC32C
        put("<I", block, 0x3FC, crc32c(0xFFFFFFFF, bytes(block[:0x3FC])))
        return bytes(block)


def _bitmap(used: int, total: int) -> bytes:
    """A block of bits: the first `used` are set, and all that stand for nothing, from `total` on."""
    bits = (1 << used) - 1 | ((1 << MAX_IN_GROUP) - (1 << total))
    return bits.to_bytes(BLOCK, "little")
