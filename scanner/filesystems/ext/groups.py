"""Block groups: where inode tables and bitmaps are. Source: "ext4 Data Structures and Algorithms", 3.2 Block Group Descriptors."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from core.blocks import BlockSource
from scanner.filesystems.ext.crc import MASK, crc16, crc32c
from scanner.filesystems.ext.superblock import INCOMPAT_META_BG, RO_COMPAT_GDT_CSUM, Superblock

INODE_UNINIT = 0x1


@dataclass(frozen=True, slots=True)
class Group:
    """One block group. `used_slots`: how many inode slots from the start of the table may ever have been used."""

    number: int
    inode_table: int
    inode_bitmap: int
    used_slots: int
    checksum_right: bool


class Groups:
    """Descriptors by group number; a descriptor outside the volume reads as one with nothing in it and a wrong checksum."""

    CACHED_BLOCKS = 256

    def __init__(self, source: BlockSource, sb: Superblock) -> None:
        self._source = source
        self._sb = sb
        self._per_block = sb.block_bytes // sb.descriptor_bytes
        self._cache: dict[int, bytes] = {}

    def __getitem__(self, number: int) -> Group:
        sb = self._sb
        which, inside = divmod(number, self._per_block)
        block = self._block(which)
        raw = block[inside * sb.descriptor_bytes : (inside + 1) * sb.descriptor_bytes]
        if len(raw) < sb.descriptor_bytes:
            return Group(number, 0, 0, 0, checksum_right=False)
        bitmap, table = struct.unpack_from("<II", raw, 4)
        (flags,) = struct.unpack_from("<H", raw, 18)
        (unused,) = struct.unpack_from("<H", raw, 28)
        if len(raw) >= 64:
            bitmap |= struct.unpack_from("<I", raw, 0x24)[0] << 32
            table |= struct.unpack_from("<I", raw, 0x28)[0] << 32
            unused |= struct.unpack_from("<H", raw, 0x32)[0] << 16
        used = sb.inodes_per_group
        if sb.counts_unused_inodes:
            used = 0 if flags & INODE_UNINIT else max(0, used - unused)
        return Group(number, table, bitmap, used, self._checksum(number, raw) == struct.unpack_from("<H", raw, 30)[0])

    def tables(self) -> Iterator[bytes]:
        """Where the inode table of each group is, as the descriptors have it."""
        size = self._sb.descriptor_bytes
        for number in range(self._sb.groups):
            which, inside = divmod(number, self._per_block)
            raw = self._block(which)[inside * size : (inside + 1) * size]
            yield raw[8:12] + raw[0x28:0x2C]

    def _block(self, which: int) -> bytes:
        block = self._cache.get(which)
        if block is None:
            if len(self._cache) >= self.CACHED_BLOCKS:
                self._cache.clear()
            size = self._sb.block_bytes
            block = self._cache[which] = bytes(self._source.read(self._location(which) * size, size))
        return block

    def _location(self, which: int) -> int:
        """The block that holds descriptor block number `which` (the kernel's `descriptor_loc`)."""
        sb = self._sb
        if not sb.incompat & INCOMPAT_META_BG or which < sb.first_meta_bg:
            # not first_data_block + 1: bigalloc with 1 KiB blocks has first_data_block 0, its descriptors are in block 2
            return 1024 // sb.block_bytes + 1 + which
        group = which * self._per_block
        backup = int(sb.has_backup(group))
        if sb.block_bytes == 1024 and which == 0 and sb.first_data_block == 0:
            backup += 1
        return sb.first_data_block + group * sb.blocks_per_group + backup

    def _checksum(self, number: int, raw: bytes) -> int:
        """The expected bg_checksum, or the stored one where the filesystem has none."""
        sb = self._sb
        group = number.to_bytes(4, "little")
        if sb.has_checksums:
            return crc32c(sb.checksum_seed, group + raw[:30] + b"\0\0" + raw[32:]) & 0xFFFF
        if sb.ro_compat & RO_COMPAT_GDT_CSUM:
            return crc16(MASK & 0xFFFF, sb.uuid + group + raw[:30] + (raw[32:] if len(raw) > 32 else b""))
        return int(struct.unpack_from("<H", raw, 30)[0])
