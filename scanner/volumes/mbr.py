"""MBR ("DOS") partition tables with extended partitions.

There is no standard; this follows what Linux does (block/partitions/msdos.c as described in the kernel's
documentation, util-linux fdisk) and Microsoft's "Basic Disks and Volumes". All numbers are little-endian, in sectors.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from core.blocks import BlockSource
from core.errors import Error
from core.findings import GapReason
from scanner.volumes.base import SECTOR_BYTES, Partition, Table
from scanner.volumes.signatures import holds_something, is_fat

PROTECTIVE = 0xEE
EXTENDED = (0x05, 0x0F, 0x85)
MAX_LOGICAL = 128

_BOOT_SIGNATURE = b"\x55\xaa"
_ENTRY = struct.Struct("<B3xB3xII")  # boot indicator, type, start, sectors; the CHS fields mean nothing any more


class Entry(NamedTuple):
    """One of the four entries of a boot record. `start` and `sectors` are in sectors."""

    boot: int
    type: int
    start: int
    sectors: int


def announces_gpt(disk: BlockSource) -> bool:
    """Sector 0 holds an entry of type 0xEE. Raises `Unreadable` or `Corrupt` if it cannot be read."""
    entries = _entries(bytes(disk.read(0, 512)))
    return entries is not None and any(entry.type == PROTECTIVE for entry in entries)


def read_mbr(disk: BlockSource, sector_bytes: int | None) -> Table | None:
    """The partitions other than type 0xEE; `None` if sector 0 holds no partition table.

    `sector_bytes` is the unit if a GPT has given it away. An entry counts if it has a length: its type may be 0, as for
    Linux. Raises `Unreadable` or `Corrupt` if sector 0 cannot be read; trouble further on is a problem of the table.
    """
    sector = bytes(disk.read(0, 512))
    entries = _entries(sector)
    if entries is None:
        return None
    used = [(number, entry) for number, entry in enumerate(entries, 1) if entry.sectors]
    if not used or (is_fat(sector) and not any(_is_inside(entry, disk.size) for _, entry in used)):
        return None
    used = [(number, entry) for number, entry in used if entry.type != PROTECTIVE]
    table = Table(sector_bytes=sector_bytes or _sector_bytes(disk, [entry for _, entry in used]))
    for number, entry in used:
        if entry.type not in EXTENDED:
            table.partitions.append(_partition(number, entry, 0, table.sector_bytes))
    for _, entry in used:
        if entry.type in EXTENDED:
            _read_logical(disk, table, entry.start)
    return table


def _entries(sector: bytes) -> list[Entry] | None:
    if len(sector) < 512 or sector[510:512] != _BOOT_SIGNATURE:
        return None
    entries = [Entry(*_ENTRY.unpack_from(sector, at)) for at in range(446, 510, 16)]
    return entries if all(entry.boot in {0, 0x80} for entry in entries) else None


def _partition(number: int, entry: Entry, base: int, sector_bytes: int) -> Partition:
    start = (base + entry.start) * sector_bytes
    return Partition("mbr", number, start, entry.sectors * sector_bytes, f"0x{entry.type:02x}")


def _is_inside(entry: Entry, size: int) -> bool:
    """Behind sector 0 and on the disk. Where an MBR has entries a FAT boot sector has code, which seldom looks like this.

    What the kernel takes for a table is one to us: a filesystem's boot sector in front of it must not hide partitions.
    """
    return 0 < entry.start * 512 < size


def _sector_bytes(disk: BlockSource, entries: list[Entry]) -> int:
    """512, unless there is nothing where the partitions would then start and something where they would with 4096."""
    for sector_bytes in SECTOR_BYTES:
        if any(_is_start(disk, entry, sector_bytes) for entry in entries):
            return sector_bytes
    return SECTOR_BYTES[0]


def _is_start(disk: BlockSource, entry: Entry, sector_bytes: int) -> bool:
    start = entry.start * sector_bytes
    if not 0 < start < disk.size:
        return False
    if entry.type in EXTENDED:
        return _record(disk, start) is not None
    try:
        return holds_something(disk, start, entry.sectors * sector_bytes)
    except Error:
        return False


def _record(disk: BlockSource, offset: int) -> list[Entry] | None:
    """The entries of an extended boot record; the boot indicators of these have no meaning."""
    try:
        sector = bytes(disk.read(offset, 512))
    except Error:
        return None
    if len(sector) < 512 or sector[510:512] != _BOOT_SIGNATURE:
        return None
    return [Entry(*_ENTRY.unpack_from(sector, at)) for at in range(446, 510, 16)]


def _read_logical(disk: BlockSource, table: Table, first: int) -> None:
    """Follow the chain of boot records in the extended partition that starts in sector `first`; numbers go on from 5.

    A logical partition is counted from its own boot record, the next boot record from `first`.
    """
    seen: set[int] = set()
    here = first
    while True:
        if here in seen:
            table.problems.append((GapReason.CORRUPT, "the chain of logical partitions runs in a circle"))
            return
        if len(seen) > MAX_LOGICAL:
            table.problems.append((GapReason.LIMIT, f"more than {MAX_LOGICAL} extended boot records"))
            return
        seen.add(here)
        entries = _record(disk, here * table.sector_bytes)
        if entries is None:
            detail = f"no extended boot record in sector {here}: logical partitions from there on are not known"
            table.problems.append((GapReason.CORRUPT, detail))
            return
        if not _add_logical(disk, table, entries, here):
            return
        links = [entry for entry in entries[:2] if entry.sectors and entry.type in EXTENDED]
        if len(links) > 1:
            table.problems.append((GapReason.CORRUPT, f"more than one next boot record is named in sector {here}"))
        if not links:
            return
        here = first + links[0].start


def _add_logical(disk: BlockSource, table: Table, entries: list[Entry], here: int) -> bool:
    """Add the partitions of the boot record in sector `here`; false when there are too many."""
    number = max([4, *(partition.number for partition in table.partitions)])
    for index, entry in enumerate(entries):
        if not entry.sectors or entry.type in EXTENDED:
            continue
        partition = _partition(number + 1, entry, here, table.sector_bytes)
        if index > 1 and partition.start + partition.length > disk.size:
            continue  # the last two entries have no use, and some tools leave rubbish there; Linux does the same
        if number >= 4 + MAX_LOGICAL:
            detail = f"more than {MAX_LOGICAL} logical partitions; the rest is not looked at"
            table.problems.append((GapReason.LIMIT, detail))
            return False
        table.partitions.append(partition)
        number += 1
    return True
