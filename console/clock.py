"""The console's clock: all times that the console writes are by it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

ASTRAY: Final = timedelta(
    hours=1
)  # times that lie further ahead were written while the clock was wrong, and count for nothing


def now() -> datetime:
    return datetime.now(UTC)
