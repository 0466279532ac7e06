"""Who did what: written, never changed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from console.store import tables

CONSOLE = "console"  # who, where nobody asked for it


def record(connection: Connection, now: datetime, who: str, what: str, subject: str, **detail: Any) -> None:
    """`what` is like `token.made`; `subject` is what it was done to. No secret goes into `detail`."""
    connection.execute(tables.event.insert().values(time=now, who=who, what=what, subject=subject, detail=detail))
