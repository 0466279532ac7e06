"""GUID partition tables.

Specification: UEFI 2.10, chapter 5, "GUID Partition Table (GPT) Disk Layout". All numbers are little-endian.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass

from core.blocks import BlockSource
from core.errors import Error
from core.findings import GapReason
from scanner.volumes.base import SECTOR_BYTES, Partition, Table

SIGNATURE = b"EFI PART"
MAX_ENTRIES = 1024
MAX_ENTRY_BYTES = 4096

# signature, revision, header size, CRC, zero, my LBA, other LBA, first and last usable LBA, disk GUID,
# LBA of the entries, their count, their size, their CRC
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")  # type, GUID, first and last LBA, attributes, name
_UNUSED = bytes(16)


@dataclass(frozen=True)
class Copy:
    """One intact copy of the table; the header's checksum, place and entries have been checked."""

    sector: int
    lba: int
    other_lba: int
    partitions: tuple[Partition, ...]


def read_gpt(disk: BlockSource, *, expected: bool) -> Table | None:
    """The table, or `None` if the disk has none; `expected` says that an MBR announces one (type 0xEE).

    Primary copies are looked for at both sector sizes. If none is intact but one was there or is expected, the backup
    is taken from where the damaged primary says it is and from the last sectors of the disk; a whole table read that
    way hides nothing, so it is no gap. A gap is: no intact copy, or two copies that list different partitions (then the
    partitions of both are given). Never raises: a copy that cannot be read counts as damaged.
    """
    primaries = [copy for sector in SECTOR_BYTES if (copy := _copy(disk, sector, 1))]
    damaged = [] if primaries else [sector for sector in SECTOR_BYTES if _header_at(disk, sector)]
    if primaries:
        copies = primaries + [copy for one in primaries if (copy := _copy(disk, one.sector, one.other_lba))]
        # whoever reads the disk with the other sector size sees only the backup at its end
        known = {(copy.sector, copy.lba) for copy in copies}
        copies += [copy for copy in _backups(disk, []) if (copy.sector, copy.lba) not in known]
    elif damaged or expected:
        copies = _backups(disk, damaged)
    else:
        return None
    if not copies:
        return Table(problems=[(GapReason.CORRUPT, "both copies of the GUID partition table are damaged or missing")])
    return _merged(copies)


def read_backup(disk: BlockSource) -> Table | None:
    """The table of a disk whose start says nothing at all, from its last sector."""
    copies = _backups(disk, [])
    return _merged(copies) if copies else None


def _merged(copies: list[Copy]) -> Table:
    table = Table(partitions=list(copies[0].partitions), sector_bytes=copies[0].sector)
    known = {_place(partition) for partition in table.partitions}
    different = False
    for copy in copies[1:]:
        different |= {_place(partition) for partition in copy.partitions} != known
        for partition in copy.partitions:
            if _place(partition) not in {_place(other) for other in table.partitions}:
                table.partitions.append(partition)
    if different:
        detail = "the copies of the GUID partition table list different partitions; those of all copies are looked at"
        table.problems.append((GapReason.CORRUPT, detail))
    return table


def _place(partition: Partition) -> tuple[int, int]:
    return partition.start, partition.length


def _backups(disk: BlockSource, damaged: list[int]) -> list[Copy]:
    """All intact backups: where damaged primaries point to, and in the last sector of either size."""
    # the other LBA of a damaged primary is a hint like any other: the copy there must be sound
    headers = [(sector, header) for sector in damaged if (header := _header_at(disk, sector))]
    places = [(sector, int(_HEADER.unpack_from(header)[6])) for sector, header in headers]
    places += [(sector, disk.size // sector - 1) for sector in SECTOR_BYTES]
    return [copy for sector, lba in places if (copy := _copy(disk, sector, lba))]


def _header_at(disk: BlockSource, offset: int) -> bytes | None:
    try:
        header = bytes(disk.read(offset, 512))
    except Error:
        return None
    return header if len(header) == 512 and header.startswith(SIGNATURE) else None


def _copy(disk: BlockSource, sector: int, lba: int) -> Copy | None:
    """The copy whose header is in the sector `lba`, if everything about it is right."""
    if lba < 1 or (lba + 1) * sector > disk.size:
        return None
    try:
        header = bytes(disk.read(lba * sector, sector))
        if len(header) < sector or not header.startswith(SIGNATURE):
            return None
        _, _, size, crc, _, my_lba, other, _, _, _, entries_lba, count, each, entries_crc = _HEADER.unpack_from(header)
        if not _HEADER.size <= size <= sector or my_lba != lba:
            return None
        if zlib.crc32(header[:16] + bytes(4) + header[20:size]) != crc:
            return None
        if not 128 <= each <= MAX_ENTRY_BYTES or each & (each - 1) or count > MAX_ENTRIES:
            return None
        entries = bytes(disk.read(entries_lba * sector, count * each))
    except Error:
        return None
    if len(entries) != count * each or zlib.crc32(entries) != entries_crc:
        return None
    return Copy(sector, lba, other, _partitions(entries, each, sector))


def _partitions(entries: bytes, each: int, sector: int) -> tuple[Partition, ...]:
    found = []
    for number, at in enumerate(range(0, len(entries), each), 1):
        kind, _, first, last, _, name = _ENTRY.unpack_from(entries, at)
        if kind != _UNUSED:
            # a last sector before the first gives a negative length, which the caller reports
            length = (last - first + 1) * sector
            label = name.decode("utf-16-le", "replace").partition("\0")[0]
            guid = str(uuid.UUID(bytes_le=kind)).upper()
            found.append(Partition("gpt", number, first * sector, length, guid, label))
    return tuple(found)
