"""Snapshots of a machine with a finding stay for a while, as the policy says: to look at what was there when it was found.

They are marked in the ledger in the transaction in which the base is kept; until that moment is over neither the release of the scan,
nor a later one that gives up the base, nor the sweeper takes them away. Then the sweeper does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, func, or_, select, update

from client.model import ScanKind, ScanOrder
from core.findings import Severity
from core.text import printable
from scanner.fleet import kept
from scanner.fleet.clouds import usd_month
from scanner.fleet.database import Database
from scanner.fleet.tables import resource

USUAL_SECONDS: Final = 7 * 86_400  # where the policy does not say
_RANK: Final = {severity.value: rank for rank, severity in enumerate(Severity)}
_MOST_NAMED: Final = 10
_MOST_SECONDS: Final = 10 * 366 * 86_400


def rank_of(severity: Any, default: Severity) -> int:
    """Ascending with how bad it is, as `Severity` lists them."""
    return _RANK.get(str(severity), _RANK[default.value])


def is_wanted(order: ScanOrder, worst: str) -> bool:
    """`worst` is the severity of the worst finding; empty if there is none. Snapshots of images are not ours to keep."""
    if not worst or order.kind is not ScanKind.INSTANCE or order.place.cloud == "file":
        return False
    least = order.settings.get("evidence.minimum_severity")
    return order.settings.get("evidence.keep_snapshot") is True and (
        rank_of(worst, Severity.CRITICAL) >= rank_of(least, Severity.INFO)
    )


def keep_seconds(order: ScanOrder) -> int:
    """How long evidence stays, if the policy wants any; 0 if it does not."""
    if order.settings.get("evidence.keep_snapshot") is not True:
        return 0
    found = order.settings.get("evidence.keep_seconds")
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        return USUAL_SECONDS
    return min(found, _MOST_SECONDS)


def keep(database: Database, connection: Connection, order: ScanOrder, token: str) -> None:
    """What was made for `token` stays for `evidence.keep_seconds` from now on. A second time, the moment stays the first."""
    until = kept.now_ms(database, connection) + keep_seconds(order) * 1000
    mine = (resource.c.token == token, resource.c.id != "", resource.c.evidence_until_ms.is_(None))
    connection.execute(update(resource).where(*mine).values(evidence_until_ms=until))


def forget(connection: Connection, cloud: str, account: str) -> None:
    """Nobody needs what is kept in this account any more."""
    theirs = (resource.c.cloud == cloud, resource.c.account == account, resource.c.evidence_until_ms.is_not(None))
    connection.execute(update(resource).where(*theirs).values(evidence_until_ms=None))


def is_free(now_ms: int) -> Any:
    """Of a row of the ledger: it is no evidence, or not any more."""
    return or_(resource.c.evidence_until_ms.is_(None), resource.c.evidence_until_ms <= now_ms)


def words(connection: Connection, token: str) -> str:
    """What a person is told at the end of the scan; empty if nothing is kept."""
    rows = connection.execute(
        select(resource.c.id, resource.c.evidence_until_ms, resource.c.cloud, resource.c.size_bytes)
        .where(resource.c.token == token, resource.c.evidence_until_ms.is_not(None))
        .order_by(resource.c.number)
    ).all()
    if not rows:
        return ""
    names = ", ".join(printable(row.id) for row in rows[:_MOST_NAMED])
    until = datetime.fromtimestamp(max(row.evidence_until_ms for row in rows) / 1000, UTC)
    usd = usd_month(rows[0].cloud, [row.size_bytes for row in rows])
    return f"kept as evidence until {until:%Y-%m-%d %H:%MZ}, for about ${usd:.2f} a month: {names}"


def usd(connection: Connection, now_ms: int) -> float:
    """What is kept as evidence and not as a base costs a month."""
    rows: Sequence[Any] = connection.execute(
        select(resource.c.cloud, func.sum(resource.c.size_bytes))
        .where(resource.c.evidence_until_ms > now_ms, resource.c.kept_for.is_(None))
        .group_by(resource.c.cloud)
    ).all()
    return sum(usd_month(cloud, [int(size or 0)]) for cloud, size in rows)
