"""How far the console's clock is ahead of ours: between two bounds, from when an answer was asked for and came. Pure."""

from __future__ import annotations

from typing import NamedTuple, Self


class Offset(NamedTuple):
    """In milliseconds; the truth lies between the two."""

    low: int
    high: int

    @classmethod
    def of(cls, asked: int, told: int, came: int) -> Self | None:
        """`told` is the console's time, `asked` and `came` ours before and after. None if ours was set back meanwhile."""
        return cls(told - came, told - asked) if came >= asked else None

    @property
    def middle(self) -> int:
        return (self.low + self.high) // 2

    def narrowed(self, newer: Offset) -> Offset:
        """What both say; if that cannot be, a clock was set or went astray, and the newer counts."""
        low, high = max(self.low, newer.low), min(self.high, newer.high)
        return Offset(low, high) if low <= high else newer
