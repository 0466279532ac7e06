"""The emulator's time: it runs like the real one and can be pushed on, so that a test of seven days takes none."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """Seconds since 1970, UTC. Only rises."""

    def __init__(self) -> None:
        self.ahead = 0.0  # of the real time

    def now(self) -> float:
        return time.time() + self.ahead

    def today(self) -> datetime:
        return datetime.fromtimestamp(self.now(), UTC)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self.ahead += seconds
