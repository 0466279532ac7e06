"""The ext2/3/4 superblock, and the bounds that everything else is checked against.

Source: kernel documentation, "ext4 Data Structures and Algorithms", 3.1 Super Block.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import Final

from core.blocks import BlockSource
from core.errors import Corrupt, LimitExceeded, Unreadable, Unsupported
from scanner.filesystems.ext.crc import MASK, crc32c

OFFSET: Final = 1024
MAGIC: Final = 0xEF53
MAX_GROUPS: Final = 1 << 22

COMPAT_HAS_JOURNAL: Final = 0x4
COMPAT_SPARSE_SUPER2: Final = 0x200
COMPAT_FAST_COMMIT: Final = 0x400

INCOMPAT_COMPRESSION: Final = 0x1
INCOMPAT_FILETYPE: Final = 0x2
INCOMPAT_RECOVER: Final = 0x4
INCOMPAT_JOURNAL_DEV: Final = 0x8
INCOMPAT_META_BG: Final = 0x10
INCOMPAT_64BIT: Final = 0x80
INCOMPAT_EA_INODE: Final = 0x400
INCOMPAT_CSUM_SEED: Final = 0x2000
INCOMPAT_LARGEDIR: Final = 0x4000
# filetype recover meta_bg extents 64bit mmp flex_bg ea_inode dirdata csum_seed largedir inline_data encrypt casefold
INCOMPAT_READ: Final = (
    0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
)

RO_COMPAT_SPARSE_SUPER: Final = 0x1
RO_COMPAT_GDT_CSUM: Final = 0x10
RO_COMPAT_METADATA_CSUM: Final = 0x400


@dataclass(frozen=True, slots=True)
class Superblock:
    """The fields that reading needs; counts are of this filesystem's own blocks unless the name says bytes."""

    inodes: int
    blocks: int
    first_data_block: int
    block_bytes: int
    blocks_per_group: int
    inodes_per_group: int
    inode_bytes: int
    compat: int
    incompat: int
    ro_compat: int
    uuid: bytes
    label: bytes
    journal_inode: int
    journal_device: int
    descriptor_bytes: int
    first_meta_bg: int
    backup_groups: tuple[int, int]
    hidden_inodes: frozenset[int]
    checksum_seed: int
    checksum_right: bool

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_data_block) // self.blocks_per_group)

    @property
    def has_checksums(self) -> bool:
        return bool(self.ro_compat & RO_COMPAT_METADATA_CSUM)

    @property
    def counts_unused_inodes(self) -> bool:
        """Group descriptors say how much of an inode table was never used."""
        return bool(self.ro_compat & (RO_COMPAT_GDT_CSUM | RO_COMPAT_METADATA_CSUM))

    @property
    def kind(self) -> str:
        """What people call it: by features, as `blkid` does."""
        if self.incompat & ~(INCOMPAT_FILETYPE | INCOMPAT_RECOVER | INCOMPAT_META_BG) or self.ro_compat & ~0x7:
            return "ext4"
        return "ext3" if self.compat & COMPAT_HAS_JOURNAL else "ext2"

    @property
    def uuid_text(self) -> str:
        return str(uuid.UUID(bytes=self.uuid))

    def has_backup(self, group: int) -> bool:
        """Whether `group` begins with a copy of the superblock."""
        if group == 0:
            return True
        if self.compat & COMPAT_SPARSE_SUPER2:
            return group in self.backup_groups
        if group == 1 or not self.ro_compat & RO_COMPAT_SPARSE_SUPER:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def looks_like_ext(source: BlockSource) -> bool:
    """The magic number is where it should be; raises `Unreadable` only."""
    return bytes(source.read(OFFSET + 56, 2)) == MAGIC.to_bytes(2, "little")


def read_superblock(source: BlockSource) -> Superblock:
    """Parse the primary superblock.

    Raises `Corrupt` if its numbers contradict each other, `Unsupported` for what is not a filesystem with files,
    `LimitExceeded` for more than 4 million block groups, `Unreadable` if the volume ends before it.
    """
    raw = bytes(source.read(OFFSET, 1024))
    if len(raw) < 1024:
        raise Unreadable("the volume ends inside the superblock")

    def u32(offset: int) -> int:
        return int(struct.unpack_from("<I", raw, offset)[0])

    def u16(offset: int) -> int:
        return int(struct.unpack_from("<H", raw, offset)[0])

    if u16(56) != MAGIC:
        raise Corrupt("no ext superblock")
    dynamic = u32(76) >= 1
    incompat = u32(96) if dynamic else 0
    ro_compat = u32(100) if dynamic else 0
    wide = bool(incompat & INCOMPAT_64BIT)
    if incompat & INCOMPAT_JOURNAL_DEV:
        raise Unsupported("an external ext journal, which holds no files of its own")
    if incompat & INCOMPAT_COMPRESSION:
        raise Unsupported("ext2 with compressed files (e2compr)")
    if u32(24) > 6:
        raise Corrupt(f"impossible block size 2^{10 + u32(24)}")
    volume_uuid = raw[104:120]
    seed = u32(0x270) if incompat & INCOMPAT_CSUM_SEED else crc32c(MASK, volume_uuid)
    checked = bool(ro_compat & RO_COMPAT_METADATA_CSUM)
    superblock = Superblock(
        inodes=u32(0),
        blocks=u32(4) | (u32(0x150) << 32 if wide else 0),
        first_data_block=u32(20),
        block_bytes=1024 << u32(24),
        blocks_per_group=u32(32),
        inodes_per_group=u32(40),
        inode_bytes=u16(88) if dynamic else 128,
        compat=u32(92) if dynamic else 0,
        incompat=incompat,
        ro_compat=ro_compat,
        uuid=volume_uuid,
        label=raw[120:136].split(b"\0")[0],
        journal_inode=u32(0xE0),
        journal_device=u32(0xE4),
        descriptor_bytes=u16(254) if wide else 32,
        first_meta_bg=u32(0x104),
        backup_groups=(u32(0x24C), u32(0x250)),
        hidden_inodes=frozenset({u32(0xE0), u32(0x240), u32(0x244), u32(0x26C), u32(0x280)}),
        checksum_seed=seed,
        checksum_right=not checked or crc32c(MASK, raw[:0x3FC]) == u32(0x3FC),
    )
    _check(superblock)
    return superblock


def _check(sb: Superblock) -> None:
    """What the kernel's `ext4_fill_super` insists on, as far as reading depends on it."""
    size = sb.inode_bytes
    if size < 128 or size > sb.block_bytes or size & (size - 1):
        raise Corrupt(f"impossible inode size {size}")
    if not 0 < sb.blocks_per_group <= 1 << 31:
        raise Corrupt(f"impossible blocks per group {sb.blocks_per_group}")
    if not sb.block_bytes // size <= sb.inodes_per_group <= sb.block_bytes * 8:
        raise Corrupt(f"impossible inodes per group {sb.inodes_per_group}")
    if not 32 <= sb.descriptor_bytes <= sb.block_bytes or sb.descriptor_bytes & (sb.descriptor_bytes - 1):
        raise Corrupt(f"impossible group descriptor size {sb.descriptor_bytes}")
    if sb.first_data_block >= sb.blocks:
        raise Corrupt("the first data block lies behind the last block")
    if sb.groups > MAX_GROUPS:
        raise LimitExceeded(f"{sb.groups} block groups; {MAX_GROUPS} are read at most")
