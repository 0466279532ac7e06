"""What has been over for long is forgotten: rows of scans that ended, results that the console has."""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, select

from client.model import ENDED
from scanner.fleet import kept
from scanner.fleet.database import Database
from scanner.fleet.slots import Fence
from scanner.fleet.tables import base, outbox, resource, scan

KEPT_SECONDS: Final = 30 * 86_400  # an order that comes once more is known for so long
_AT_ONCE: Final = 1_000  # in one transaction


def prune(database: Database, fence: Fence) -> int:
    """Forget up to a thousand scans with their results; how many. A result that was not sent, or that was refused, stays.

    Raises `Unavailable`, `Fenced`.
    """
    with database.write() as connection:
        fence.guard(connection)
        before = kept.now_ms(database, connection) - KEPT_SECONDS * 1000
        unsent = select(outbox.c.scan).where(outbox.c.sent_ms.is_(None))
        still = select(base.c.scan).union(select(resource.c.kept_for).where(resource.c.kept_for.is_not(None)))
        old = (
            connection.execute(
                select(scan.c.id)
                .where(
                    scan.c.state.in_(ENDED), scan.c.ended_ms < before, scan.c.id.not_in(unsent), scan.c.id.not_in(still)
                )
                .limit(_AT_ONCE)
            )
            .scalars()
            .all()
        )
        connection.execute(delete(outbox).where(outbox.c.scan.in_(old)))
        connection.execute(delete(scan).where(scan.c.id.in_(old)))
    return len(old)
