"""From an error to the reason of a gap: the one place that knows both trees."""

from __future__ import annotations

from core.errors import Corrupt, Encrypted, Error, LimitExceeded, Unreadable, Unsupported
from core.findings import GapReason

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
