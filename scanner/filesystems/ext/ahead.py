"""What is about to be read of the metadata, told to a disk that is far away: else each block would cost a round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from core.blocks import Extent, is_far, prefetch
from core.errors import Error
from scanner.filesystems.ext.inodes import Inodes

GROUPS: Final = 1024  # whose tables are announced together
DIRECTORIES: Final = 512


def announce_tables(inodes: Inodes, first: int) -> None:
    """The inode tables of `GROUPS` groups from `first` on, as far as they are known to be used. Raises nothing."""
    sb = inodes.sb
    if first % GROUPS or not is_far(inodes.source):
        return
    wanted: list[Extent] = []
    try:
        for number in range(first, min(first + GROUPS, sb.groups)):
            group = inodes.groups[number]
            if not group.used_slots or not 0 < group.inode_table < sb.blocks:
                continue
            wanted.append(Extent(group.inode_bitmap * sb.block_bytes, sb.inodes_per_group // 8))
            if sb.counts_unused_inodes:  # else the bitmap has to be read first
                wanted.append(Extent(group.inode_table * sb.block_bytes, group.used_slots * sb.inode_bytes))
    except Error:
        pass  # whoever reads them says why
    prefetch(inodes.source, wanted)


def announce_directories(inodes: Inodes, level: Sequence[int], place: int) -> None:
    """The blocks of `DIRECTORIES` directories of `level` from `place` on. Raises nothing."""
    if place % DIRECTORIES or not is_far(inodes.source):
        return
    wanted: list[Extent] = []
    for number in level[place : place + DIRECTORIES]:
        try:
            wanted += [Extent(run.offset, run.length) for run in inodes.runs(inodes.read(number))]
        except Error:
            continue  # whoever reads it says why
    prefetch(inodes.source, wanted)
