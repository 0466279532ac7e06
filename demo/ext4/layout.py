"""Where things stand: block groups, and the tables at the start of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

BLOCK = 4096
INODE_SIZE = 256
INODES_IN_BLOCK = BLOCK // INODE_SIZE
MAX_IN_GROUP = BLOCK * 8  # blocks or inodes: one bitmap block counts them


@dataclass(frozen=True)
class Options:
    """What the filesystem is like. `size` in bytes, `time` (creation) in seconds since 1970.

    `wide` turns the 64bit feature on. `group_blocks` is a multiple of 8, at most 32768: small values make many groups.
    """

    size: int
    uuid: UUID
    time: int
    label: bytes = b""
    wide: bool = False
    group_blocks: int = MAX_IN_GROUP
    journal_blocks: int = 1024  # the least that jbd2 takes

    def __post_init__(self) -> None:
        if self.size <= 0 or self.size % BLOCK:
            raise ValueError(f"a filesystem is a multiple of {BLOCK} bytes")
        if self.group_blocks % 8 or not 256 <= self.group_blocks <= MAX_IN_GROUP:
            raise ValueError(f"a group has 256 to {MAX_IN_GROUP} blocks, in steps of 8")
        if len(self.label) > 16 or not 0 <= self.time < 1 << 31 or self.journal_blocks < 1024:
            raise ValueError("label of 16 bytes, time before 2038, journal of 1024 blocks or more")


class Layout:
    """The groups of one filesystem. Without flex_bg every group holds its own tables, so used blocks are its first ones.

    Raises `ValueError` if `inodes_needed` do not fit, or if the last group is too short for its tables.
    """

    def __init__(self, options: Options, inodes_needed: int) -> None:
        self.blocks = options.size // BLOCK
        self.group_blocks = options.group_blocks
        self.groups = -(-self.blocks // self.group_blocks)
        # one inode per 16 KiB, as mkfs has it, or as many as the tree needs
        in_group = -(-max(inodes_needed, self.blocks // 4) // self.groups)
        self.group_inodes = -(-in_group // INODES_IN_BLOCK) * INODES_IN_BLOCK
        self.descriptor_size = 64 if options.wide else 32
        self.descriptor_blocks = -(-self.groups * self.descriptor_size // BLOCK)
        if self.group_inodes > MAX_IN_GROUP or any(self.tables(g).stop > self.end(g) for g in range(self.groups)):
            raise ValueError("the filesystem is too small, or its last group is")

    def start(self, group: int) -> int:
        return group * self.group_blocks

    def end(self, group: int) -> int:
        return min(self.start(group) + self.group_blocks, self.blocks)

    def block_bitmap(self, group: int) -> int:
        """The block with the block bitmap; the inode bitmap and the inode table follow it."""
        copy = 1 + self.descriptor_blocks if has_superblock(group) else 0
        return self.start(group) + copy

    def tables(self, group: int) -> range:
        """All blocks of a group that hold no data of files."""
        return range(self.start(group), self.block_bitmap(group) + 2 + self.group_inodes // INODES_IN_BLOCK)

    def data_blocks(self) -> Iterator[int]:
        for group in range(self.groups):
            yield from range(self.tables(group).stop, self.end(group))

    def inode_offset(self, number: int) -> int:
        """Where an inode stands, in bytes from the start of the filesystem."""
        group, index = divmod(number - 1, self.group_inodes)
        return (self.block_bitmap(group) + 2) * BLOCK + index * INODE_SIZE


def has_superblock(group: int) -> bool:
    """sparse_super: copies in groups 0, 1 and the powers of 3, 5 and 7."""
    return group <= 1 or any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1
