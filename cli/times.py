"""Times as people type them."""

from __future__ import annotations

from datetime import UTC, datetime

from core.errors import ConfigError
from core.text import printable


def moment(text: str) -> datetime | None:
    """In UTC unless it says so; None of an empty text. Raises `ConfigError`."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{printable(text)}: is no time; write it like 2027-01-31 or 2027-01-31T12:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
