"""How fast we may ask: quotas of an account that many readers share, found out by being told off.

A quota that is written down is where a `Pace` starts. Others use it up as well, so the rate falls when the service says
"too many" and comes back bit by bit, as TCP does on a shared line.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

_FALL: Final = 0.85  # of the rate is left after being told off; a deep fall would leave half of the quota unused
_SETTLE_SECONDS: Final = 0.25  # refusals of calls that were under way together count once
_GROWTH: Final = 0.03  # of the quota, each second
_FLOOR: Final = 0.02  # of the quota is asked for however often we are told off
_BURST_SECONDS: Final = 0.05  # what was not used may be made up for as far as this


class Pace:
    """A token bucket whose rate adapts. Pure: every method is told the time, in seconds that never go back."""

    def __init__(self, per_second: float, *, burst_seconds: float = _BURST_SECONDS) -> None:
        if per_second <= 0 or burst_seconds < 0:
            raise ValueError("a quota is more than nothing")
        self.quota = per_second
        self.rate = per_second
        self._burst = burst_seconds
        self._next = 0.0  # when the next call would be due if all came evenly
        self._grown = 0.0
        self._fell = float("-inf")

    def reserve(self, now: float) -> float:
        """Take one call; returns in how many seconds it may be made. Calls get their turns in the order of asking."""
        self._grow(now)
        due = max(self._next, now - self._burst)
        self._next = due + 1 / self.rate
        return max(0.0, due - now)

    def throttled(self, now: float) -> None:
        """The service said that it was too much."""
        self._grow(now)
        if now - self._fell >= _SETTLE_SECONDS:
            self._fell = now
            self.rate = max(self.quota * _FLOOR, self.rate * _FALL)

    def _grow(self, now: float) -> None:
        passed, self._grown = now - self._grown, max(now, self._grown)
        if passed > 0 and self.rate < self.quota:
            self.rate = min(self.quota, self.rate + self.quota * _GROWTH * passed)


class Cancelled(Exception):
    """The wait was ended from outside."""


class Pacer:
    """A `Pace` for threads of this process. `taken` counts the calls that were let through."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace = Pace(per_second)
        self._clock = clock
        self._lock = threading.Lock()
        self.taken = 0

    @property
    def rate(self) -> float:
        """Calls per second at this moment."""
        return self._pace.rate

    def wait(self, stop: threading.Event) -> None:
        """Until a call may be made. Raises `Cancelled` when `stop` is set."""
        with self._lock:
            seconds = self._pace.reserve(self._clock())
            self.taken += 1
        if stop.wait(seconds) if seconds else stop.is_set():
            raise Cancelled

    def throttled(self) -> None:
        with self._lock:
            self._pace.throttled(self._clock())


@dataclass
class Quotas:
    """Those of one account in one region that concern reading snapshots, in calls per second.

    One object for all readers of that account in this process. The defaults are what AWS gives every account; that of a
    snapshot cannot be raised. Source: Amazon EBS endpoints and quotas, "GetSnapshotBlock requests per account".
    """

    blocks_per_second: float = 1000
    snapshot_blocks_per_second: float = 1000
    lists_per_second: float = 50
    _snapshots: dict[str, Pacer] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.blocks = Pacer(self.blocks_per_second)
        self.lists = Pacer(self.lists_per_second)

    def of_snapshot(self, snapshot: str) -> Pacer:
        with self._lock:
            if snapshot not in self._snapshots:
                if len(self._snapshots) >= _MOST_SNAPSHOTS:
                    del self._snapshots[next(iter(self._snapshots))]  # the oldest: it starts afresh if it comes back
                self._snapshots[snapshot] = Pacer(self.snapshot_blocks_per_second)
            return self._snapshots[snapshot]


_MOST_SNAPSHOTS: Final = 4096


def backoff_seconds(attempt: int, *, first: float = 0.1, most: float = 5.0) -> float:
    """How long to wait before try number `attempt` (from 1 on): "full jitter", so that many do not come back together."""
    return random.uniform(0, min(most, first * 2.0 ** min(attempt, 16)))
