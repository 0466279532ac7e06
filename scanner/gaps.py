"""From an error to the reason of a gap: the one place that knows both trees."""

from __future__ import annotations

from collections.abc import Iterator

from core.errors import Corrupt, Encrypted, Error, LimitExceeded, Unreadable, Unsupported
from core.findings import Gap, GapReason, InFile, InVolume, Location

_REASONS: tuple[tuple[type[Error], GapReason], ...] = (
    (Encrypted, GapReason.ENCRYPTED),
    (Unsupported, GapReason.UNSUPPORTED_FEATURE),
    (LimitExceeded, GapReason.LIMIT),
    (Unreadable, GapReason.UNREADABLE),
    (Corrupt, GapReason.CORRUPT),
)


def reason_of(error: Error) -> GapReason:
    """The reason under which `error` is reported."""
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), GapReason.CORRUPT)


class GapLog:
    """Gaps as they come, bounded: a hostile disk can hold millions of broken files.

    The same gap is kept once. At most `limit` gaps are kept for each place (disk, volume, machine) and reason, and
    `most_bytes` of paths and details in all; the others are only counted and come out as one `Gap` with their number.
    """

    def __init__(self, limit: int = 1000, most_bytes: int = 64 << 20) -> None:
        self._limit = limit
        self._room = most_bytes
        self._kept: dict[Gap, None] = {}
        self._seen: dict[tuple[Location, GapReason], int] = {}
        self._dropped: dict[tuple[Location, GapReason], int] = {}

    def add(self, gap: Gap) -> None:
        place = InVolume(gap.where.volume) if isinstance(gap.where, InFile) else gap.where
        key = (place, gap.reason)
        if gap in self._kept:
            return
        seen = self._seen[key] = self._seen.get(key, 0) + 1
        size = len(gap.detail) + (len(gap.where.path) if isinstance(gap.where, InFile) else 0)
        if seen <= self._limit and size <= self._room:
            self._room -= size
            self._kept[gap] = None
        else:
            self._dropped[key] = self._dropped.get(key, 0) + gap.count

    def __iter__(self) -> Iterator[Gap]:
        yield from self._kept
        for (place, reason), count in self._dropped.items():
            yield Gap(place, reason, f"{count:,} more of this kind, not listed one by one", count)
