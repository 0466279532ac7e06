"""What a partition table gives: partitions as they are written down, and volumes as they can be read."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.blocks import BlockSource, Extent
from core.findings import GapReason

SECTOR_BYTES = (512, 4096)  # the logical sector sizes of real disks; an image does not say which it has


@dataclass(frozen=True)
class Partition:
    """One entry of a table. `start` and `length` are bytes, not yet compared with the size of the disk."""

    kind: str
    number: int
    start: int
    length: int
    type: str
    name: str = ""


@dataclass
class Table:
    """The partitions of one disk and what could not be looked at while reading them; `sector_bytes` is its unit."""

    partitions: list[Partition] = field(default_factory=list)
    problems: list[tuple[GapReason, str]] = field(default_factory=list)
    sector_bytes: int = SECTOR_BYTES[0]


@dataclass(frozen=True)
class Volume:
    """A stretch of a disk that may hold a filesystem.

    `index` counts over all disks, `disk` is the place on the command line. `kind` is "gpt", "mbr" or "whole", `number`
    the partition number as the kernel counts (0 for a whole disk). `start` and `length` are bytes on the disk; a
    partition that the disk's end cuts off has the length that is there. `type` is the GPT type GUID in upper case or
    the MBR type like "0x83", empty for a whole disk; `name` is the GPT label.
    """

    index: int
    disk: int
    kind: str
    number: int
    start: int
    length: int
    type: str
    name: str
    source: BlockSource

    def to_disk(self, extent: Extent) -> Extent:
        """The same bytes, counted from the start of the disk."""
        return Extent(extent.offset + self.start, extent.length, extent.logical)
