"""What a scan costs at AWS: an estimate before it, the true count after it. Pure; in US dollars.

Prices are those of us-east-1 in November 2026 and the operator's to set: requests of EBS direct (List… and Get… per 1,000)
and the storage of snapshots per GB (2**30 bytes) and month. Not counted: KMS requests, traffic through NAT or PrivateLink.
Source: EBS pricing page, "EBS direct APIs for snapshots"; EBS User Guide for page and block sizes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from core.errors import ConfigError

BLOCK_BYTES: Final = 512 << 10
PAGE_BLOCKS: Final = 10_000  # the most that one List… call tells of
_GIB: Final = 1 << 30
_MONTH_SECONDS: Final = 30 * 86400
_THOUSAND: Final = 1000


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars. Raises `ConfigError` for a negative one."""

    list_per_1000: Decimal = Decimal("0.0006")
    get_per_1000: Decimal = Decimal("0.003")
    storage_per_gib_month: Decimal = Decimal("0.05")

    def __post_init__(self) -> None:
        if min(self.list_per_1000, self.get_per_1000, self.storage_per_gib_month) < 0:
            raise ConfigError("a price is not negative")


@dataclass(frozen=True, slots=True)
class Calls:
    """Requests made, and `stored_byte_seconds`: snapshot bytes times the seconds that they were kept."""

    list_snapshot_blocks: int = 0
    list_changed_blocks: int = 0
    get_snapshot_block: int = 0
    stored_byte_seconds: int = 0

    def __add__(self, other: Calls) -> Calls:
        return Calls(
            self.list_snapshot_blocks + other.list_snapshot_blocks,
            self.list_changed_blocks + other.list_changed_blocks,
            self.get_snapshot_block + other.get_snapshot_block,
            self.stored_byte_seconds + other.stored_byte_seconds,
        )

    def dollars(self, prices: Prices) -> Decimal:
        listed = self.list_snapshot_blocks + self.list_changed_blocks
        requests = listed * prices.list_per_1000 + self.get_snapshot_block * prices.get_per_1000
        storage = prices.storage_per_gib_month * self.stored_byte_seconds / _GIB / _MONTH_SECONDS
        return requests / _THOUSAND + storage


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known or assumed of a disk before its scan; fractions are 0 to 1.

    `written`: how much of it was ever written. `read`: how much of that a first scan reads. `changed`: how much of the
    disk differs at the next scan. `keep_seconds`: how long its snapshot lives (until the next scan, if it is kept as base).
    """

    size_bytes: int
    written: float = 0.5
    read: float = 0.6
    changed: float = 0.02
    keep_seconds: int = 3600

    def __post_init__(self) -> None:
        if self.size_bytes < 0 or self.keep_seconds < 0:
            raise ConfigError("sizes and times are not negative")
        if not all(0 <= part <= 1 for part in (self.written, self.read, self.changed)):
            raise ConfigError("fractions are between 0 and 1")


@dataclass(frozen=True, slots=True)
class Estimate:
    """US dollars: the first scan, each later one, and a month with `scans_per_month` of which the first is the first."""

    first: Decimal
    later: Decimal
    month: Decimal


def estimate(disks: Iterable[Expected], scans_per_month: int, prices: Prices | None = None) -> Estimate:
    """Raises `ConfigError` for a negative number of scans."""
    if scans_per_month < 0:
        raise ConfigError("the number of scans is not negative")
    prices = prices or Prices()
    first = later = Decimal(0)
    for disk in disks:
        first += first_scan(disk).dollars(prices)
        later += later_scan(disk).dollars(prices)
    month = first + later * (scans_per_month - 1) if scans_per_month else Decimal(0)
    return Estimate(first, later, month)


def first_scan(disk: Expected) -> Calls:
    """Nothing is known: list what was written, read part of it, store a full snapshot."""
    written = _part(_blocks(disk.size_bytes), disk.written)
    stored = written * BLOCK_BYTES * disk.keep_seconds
    return Calls(
        list_snapshot_blocks=_pages(written), get_snapshot_block=_part(written, disk.read), stored_byte_seconds=stored
    )


def later_scan(disk: Expected) -> Calls:
    """A base is there: list what changed, and what was written for its tokens; read the changes, store them."""
    blocks = _blocks(disk.size_bytes)
    changed = _part(blocks, disk.changed)
    return Calls(
        list_snapshot_blocks=_pages(_part(blocks, disk.written)),
        list_changed_blocks=_pages(changed),
        get_snapshot_block=changed,
        stored_byte_seconds=changed * BLOCK_BYTES * disk.keep_seconds,
    )


def storage_usd_month(size_bytes: int, written: float = 0.5, prices: Prices | None = None) -> float:
    """What a kept snapshot of a disk of that size costs a month, as if nothing of it were shared with another one."""
    return float((prices or Prices()).storage_per_gib_month * Decimal(written) * size_bytes / _GIB)


def _blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES)


def _part(blocks: int, fraction: float) -> int:
    return min(blocks, -int(-blocks * fraction // 1))


def _pages(blocks: int) -> int:
    return max(1, -(-blocks // PAGE_BLOCKS))
