"""What a stretch of disk holds, for all that `scanner.filesystems` has no reader for.

Nothing is decoded here: fixed bytes at fixed places, and as much of a header as it takes not to be fooled by chance.
"""

from __future__ import annotations

import struct

from core.blocks import BlockSource, Slice
from core.findings import GapReason
from scanner.volumes.base import Volume
from scanner.volumes.magics import BY_TYPE, MAGICS, SWAP, SWAP_PAGES

Recognised = tuple[GapReason, str]

_HEAD_BYTES = 260 << 10  # covers the ZFS uberblocks and the last superblock place of UFS but one
_MD_MAGIC = 0xA92B4EFC
_UBERBLOCKS = range(128 << 10, 256 << 10, 1024)
_UBERBLOCK_MAGICS = (b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c")
_SAMPLE_BYTES = 64 << 10
_SAMPLES = 64
_MEBIBYTE = 1 << 20


def recognise(source: BlockSource) -> Recognised | None:
    """What is on a volume: a reason and words for its gap, `EMPTY` for zeros all over, `None` for something unknown.

    ext is not known here, as a reader exists: ask the readers first. Raises `Unreadable` or `Corrupt` as the source.
    """
    found = recognise_head(source) or _md_at_end(source)
    if found is None and is_empty(source):
        found = (GapReason.EMPTY, "only zeros at the start, at the end and in samples between")
    return found


def recognise_head(source: BlockSource) -> Recognised | None:
    """As `recognise`, by what stands at the start alone: a partition at the end of a disk may look like the disk."""
    head = bytes(source.read(0, _HEAD_BYTES))
    for row in MAGICS:
        if _has(source, head, row.offset, row.magic) and (
            not row.also or _has(source, head, row.also_offset, row.also)
        ):
            return row.reason, row.detail
    if any(head[at : at + 8] in _UBERBLOCK_MAGICS for at in _UBERBLOCKS):
        return GapReason.UNSUPPORTED_VOLUME, "ZFS pool member is not read yet"
    for page in SWAP_PAGES:
        for magic, detail in SWAP:
            if head[page - 10 : page] == magic:
                return GapReason.SWAP, detail
    if is_fat(head):
        return GapReason.UNSUPPORTED_FILESYSTEM, f"{_fat_name(head)} is not read yet"
    return None


def by_type(volume: Volume) -> Recognised | None:
    """What its entry in the partition table says about a volume in which nothing was found.

    Only for volumes that no reader takes and `recognise` does not know: the entry is a claim, the content is not.
    """
    return BY_TYPE.get(volume.type)


def has_ext_magic(source: BlockSource) -> bool:
    """The magic number of ext2, ext3 and ext4, and nothing more; their reader says whether it is sound."""
    return bytes(source.read(1080, 2)) == b"\x53\xef"


def has_ext_superblock(source: BlockSource) -> bool:
    """The magic number in the company of sensible values: where boot code may have the two bytes by chance."""
    block = bytes(source.read(1024, 100))
    if len(block) < 100 or block[56:58] != b"\x53\xef":
        return False
    inodes, blocks = struct.unpack_from("<II", block)
    (shift,) = struct.unpack_from("<I", block, 24)
    (per_group,) = struct.unpack_from("<I", block, 40)
    (revision,) = struct.unpack_from("<I", block, 76)
    return bool(inodes and blocks and per_group and shift <= 6 and revision <= 1)


UNUSED_BYTES = _MEBIBYTE  # boot loaders live in the first MiB of a disk, and alignment leaves less than that elsewhere


def is_empty(source: BlockSource) -> bool:
    """Zeros in the first and the last MiB and in 64 evenly spread samples of 64 KiB."""
    if _any_set(source, 0, _MEBIBYTE) or _any_set(source, max(0, source.size - _MEBIBYTE), _MEBIBYTE):
        return False
    return not any(_any_set(source, source.size * index // _SAMPLES, _SAMPLE_BYTES) for index in range(1, _SAMPLES))


def is_fat(head: bytes) -> bool:
    """A BIOS parameter block with sensible values ("Microsoft FAT Specification", "Boot Sector and BPB")."""
    if len(head) < 512 or head[0] not in {0xEB, 0xE9} or head[510:512] != b"\x55\xaa":
        return False
    sector, cluster, reserved, copies, _, _, media = struct.unpack_from("<HBHBHHB", head, 11)
    return bool(
        sector in {512, 1024, 2048, 4096}
        and cluster
        and not cluster & (cluster - 1)
        and reserved
        and copies in {1, 2}
        and (media >= 0xF8 or media == 0xF0)
    )


def _fat_name(head: bytes) -> str:
    """FAT12, FAT16 or FAT32, which the number of clusters decides, not the words in the boot sector."""
    sector, cluster, reserved, copies, roots, small, _, fat = struct.unpack_from("<HBHBHHBH", head, 11)
    (large,) = struct.unpack_from("<I", head, 32)
    if not fat:
        return "FAT32"
    data = (small or large) - reserved - copies * fat - -(-roots * 32 // sector)
    return "FAT12" if data // cluster < 4085 else "FAT16"


def _has(source: BlockSource, head: bytes, offset: int, magic: bytes) -> bool:
    end = offset + len(magic)
    if end <= _HEAD_BYTES:
        return head[offset:end] == magic
    return bytes(source.read(offset, len(magic))) == magic


def _md_at_end(source: BlockSource) -> Recognised | None:
    """Linux RAID metadata 1.0, which names its own place, and 0.90 in the byte order of the machine it was made on."""
    sectors = source.size >> 9
    place = (sectors - 16) & ~7
    if place > 0:
        block = bytes(source.read(place << 9, 256))
        if len(block) == 256 and struct.unpack_from("<II", block) == (_MD_MAGIC, 1):
            (own_place,) = struct.unpack_from("<Q", block, 144)
            if own_place == place:
                return GapReason.UNSUPPORTED_VOLUME, "Linux RAID (md 1.0) member is not read yet"
    place = (source.size & ~0xFFFF) - 0x10000
    if place > 0:
        block = bytes(source.read(place, 8))
        if len(block) == 8 and any(struct.unpack(order + "II", block) == (_MD_MAGIC, 0) for order in "<>"):
            return GapReason.UNSUPPORTED_VOLUME, "Linux RAID (md 0.90) member is not read yet"
    return None


def _any_set(source: BlockSource, offset: int, length: int) -> bool:
    content = bytes(source.read(offset, length))
    return content.count(0) != len(content)


def holds_something(disk: BlockSource, start: int, length: int) -> bool:
    """A known signature or an ext superblock stands at byte `start`. Raises as the source."""
    from_start = Slice(disk, start, length)
    return has_ext_superblock(from_start) or recognise_head(from_start) is not None
