"""Column types that hold the same on SQLite and PostgreSQL."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


def in_utc(time: datetime) -> datetime:
    """`time` in UTC; the ends of the calendar, where an offset would lead out of it, are moved in. Raises `ValueError` if naive."""
    if time.tzinfo is None:
        raise ValueError("a time without an offset")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        return _EARLIEST if time.year == 1 else _LATEST


class UtcDateTime(TypeDecorator[datetime]):
    """A time with an offset, kept in UTC. SQLite has no such type: text there, which sorts by time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        utc = in_utc(value)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Bytes(TypeDecorator[bytes]):
    """Bytes, such as a path on a disk."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        return None if value is None else bytes(value)


class Escaped(TypeDecorator[str]):
    """Any text, with NUL and lone surrogates, which PostgreSQL's own text refuses."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        return None if value is None else value.encode("utf-8", "surrogatepass")

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else bytes(value).decode("utf-8", "surrogatepass")


class Json(TypeDecorator[Any]):
    """JSON as ASCII text in bytes, so that what stands in its strings does not matter. NULL stays None."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        return None if value is None else json.dumps(value, separators=(",", ":")).encode("ascii")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        return None if value is None else json.loads(bytes(value))


Key = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
Name = sa.String(63).with_variant(sa.String(63, collation="C"), "postgresql")
PackageWord = sa.String(512).with_variant(sa.String(512, collation="C"), "postgresql")
Serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")
