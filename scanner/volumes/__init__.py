"""From disks to volumes: stretches of bytes that may hold a filesystem each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.blocks import BlockSource, Slice
from core.errors import Corrupt, Encrypted, Error, LimitExceeded, Unsupported
from core.findings import Gap, GapReason, InVolume, Machine, OnDisk
from scanner.volumes.base import Partition, Table, Volume
from scanner.volumes.gpt import read_backup, read_gpt
from scanner.volumes.mbr import announces_gpt, read_mbr
from scanner.volumes.signatures import (
    UNUSED_BYTES,
    by_type,
    has_ext_magic,
    has_ext_superblock,
    is_empty,
    recognise,
    recognise_head,
)

__all__ = ["Volume", "by_type", "find_volumes", "recognise"]

_MIN_BYTES = 1024
MAX_VOLUMES = 4096


def find_volumes(disks: Sequence[BlockSource]) -> tuple[list[Volume], list[Gap]]:
    """The volumes of all disks, numbered through, and a gap for each part of a disk that is none.

    A disk with a partition table gives its partitions: those of a GPT, those of an MBR that are not in the GPT, and the
    disk itself as a volume of kind "whole" if a filesystem is there as well (which hides from who trusts the table).
    A disk without a table is one volume if it starts like a filesystem or container. Partitions are given as far as
    they lie on the disk; what is cut off, and that partitions overlap, is a gap. Never raises: a disk that cannot be
    read is a gap.
    """
    volumes: list[Volume] = []
    gaps: list[Gap] = []
    for number, disk in enumerate(disks):
        try:
            _search(number, disk, volumes, gaps)
        except Error as error:
            gaps.append(Gap(OnDisk(number), _reason(error), f"partitions are not known: {error}"))
    if len(volumes) > MAX_VOLUMES:
        detail = f"{len(volumes)} volumes, of which only the first {MAX_VOLUMES} are looked at"
        gaps = [gap for gap in gaps if not isinstance(gap.where, InVolume) or gap.where.volume < MAX_VOLUMES]
        gaps.append(Gap(Machine(), GapReason.LIMIT, detail, len(volumes) - MAX_VOLUMES))
    return volumes[:MAX_VOLUMES], gaps


def _search(number: int, disk: BlockSource, volumes: list[Volume], gaps: list[Gap]) -> None:
    if disk.size < _MIN_BYTES:
        gaps.append(Gap(OnDisk(number), GapReason.UNRECOGNISED, f"a disk of {disk.size} bytes holds no filesystem"))
        return
    tables = _tables(disk)
    partitions = list(_distinct(tables))
    for table in tables:
        gaps.extend(Gap(OnDisk(number), reason, detail) for reason, detail in table.problems)
    for partition in partitions:
        _offer(number, disk, partition, volumes, gaps)
    gaps.extend(_overlaps(number, partitions))
    # the order matters: what is offered so far stays offered if the rest of the disk cannot be read
    if partitions:
        found = recognise_head(disk)
        whole = found is not None or has_ext_superblock(disk)
    else:
        found = recognise(disk)
        whole = has_ext_magic(disk) or (found is not None and found[0] is not GapReason.EMPTY)
    if whole:
        volumes.append(Volume(len(volumes), number, "whole", 0, 0, disk.size, "", "", Slice(disk, 0, disk.size)))
    elif not any(table.partitions or table.problems for table in tables):
        gaps.append(Gap(OnDisk(number), *_nothing(tables, found)))
    elif outside := sum(
        length for start, length in _unused(disk, partitions) if not is_empty(Slice(disk, start, length))
    ):
        detail = f"{outside} bytes outside all partitions hold data"
        gaps.append(Gap(OnDisk(number), GapReason.NOT_A_FILESYSTEM, detail))


def _unused(disk: BlockSource, partitions: list[Partition]) -> Iterator[tuple[int, int]]:
    """(start, length) of what lies in no partition, without a MiB at either end, where tables and boot loaders are."""
    at = 0
    ends = Partition("", 0, disk.size, 1, "")
    for partition in sorted([*partitions, ends], key=lambda one: one.start):
        start, length = at + UNUSED_BYTES, min(partition.start, disk.size) - at - 2 * UNUSED_BYTES
        if length > 0:
            yield start, length
        at = max(at, partition.start + partition.length)


def _tables(disk: BlockSource) -> list[Table]:
    gpt = read_gpt(disk, expected=announces_gpt(disk))
    mbr = read_mbr(disk, gpt.sector_bytes if gpt and gpt.partitions else None)
    tables = [table for table in (gpt, mbr) if table is not None]
    if not tables and not has_ext_magic(disk) and recognise_head(disk) is None and (backup := read_backup(disk)):
        tables.append(backup)
    return tables


def _distinct(tables: list[Table]) -> Iterator[Partition]:
    """All partitions, those with the same place once: a hybrid MBR repeats some of a GPT."""
    seen = set()
    for table in tables:
        for partition in table.partitions:
            place = partition.start, partition.length
            if place not in seen:
                seen.add(place)
                yield partition


def _offer(number: int, disk: BlockSource, partition: Partition, volumes: list[Volume], gaps: list[Gap]) -> None:
    what = f"{partition.kind.upper()} partition {partition.number}"
    start, length = partition.start, partition.length
    if length <= 0:
        gaps.append(Gap(OnDisk(number), GapReason.CORRUPT, f"{what} ends before it starts"))
        return
    if start >= disk.size:
        detail = f"{what} starts {start - disk.size} bytes past the end of the disk"
        gaps.append(Gap(OnDisk(number), GapReason.UNREADABLE, detail))
        return
    missing = start + length - disk.size
    if missing > 0:
        detail = f"{what} ends {missing} bytes past the end of the disk"
        gaps.append(Gap(InVolume(len(volumes)), GapReason.UNREADABLE, detail))
        length -= missing
    source = Slice(disk, start, length)
    kind, name = partition.kind, partition.name
    volumes.append(Volume(len(volumes), number, kind, partition.number, start, length, partition.type, name, source))


def _overlaps(number: int, partitions: list[Partition]) -> list[Gap]:
    """One gap for all partitions of a disk that begin before an earlier one ends."""
    count = 0
    example = ""
    longest: Partition | None = None
    for partition in sorted(partitions, key=lambda one: (one.start, one.number)):
        if partition.length <= 0:
            continue
        if longest is not None and partition.start < longest.start + longest.length:
            count += 1
            example = example or f"{_name(longest)} and {_name(partition)}"
        if longest is None or partition.start + partition.length > longest.start + longest.length:
            longest = partition
    if not count:
        return []
    detail = f"partitions overlap, such as {example}; each was looked at as if it were alone"
    return [Gap(OnDisk(number), GapReason.CORRUPT, detail, count)]


def _name(partition: Partition) -> str:
    return f"{partition.kind.upper()} {partition.number}"


def _nothing(tables: list[Table], found: tuple[GapReason, str] | None) -> tuple[GapReason, str]:
    if tables:
        return GapReason.EMPTY, "a partition table without partitions"
    if found is not None:
        return found
    detail = "no partition table and no known filesystem: an unknown or damaged format, or an encrypted disk"
    return GapReason.UNRECOGNISED, detail


def _reason(error: Error) -> GapReason:
    match error:
        case Corrupt():
            return GapReason.CORRUPT
        case Encrypted():
            return GapReason.ENCRYPTED
        case Unsupported():
            return GapReason.UNSUPPORTED_IMAGE
        case LimitExceeded():
            return GapReason.LIMIT
        case _:
            return GapReason.UNREADABLE
