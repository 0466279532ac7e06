"""Instances as they are shown: with what holds for them, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from client.model import FindingState, InstanceOut, Instances
from console.problems import Refused
from console.store import tables
from console.store.estate import INSTANCE
from console.store.paging import fitting
from core.text import printable

State = Literal["open", "closed", "all"]


def listed(connection: Connection, *, after: str, state: State, text: str, limit: int) -> Instances:
    """By key. `text` is looked for in keys and names, upper and lower case alike."""
    table = tables.instance
    query = _query().order_by(table.c.key).limit(limit + 1)
    if after:
        query = query.where(table.c.key > after)
    if state != "all":
        query = query.where(table.c.closed.is_(None) if state == "open" else table.c.closed.is_not(None))
    if text:
        query = query.where(table.c.search.contains(printable(text).lower(), autoescape=True))
    rows = connection.execute(query).all()
    items = fitting(_out(connection, rows[:limit]))
    return Instances(items=items, next=items[-1].key if len(rows) > len(items) else None)


def get(connection: Connection, key: str) -> InstanceOut:
    """Raises `Refused` (404)."""
    rows = connection.execute(_query().where(tables.instance.c.key == key)).all()
    if not rows:
        raise Refused(404, "no such instance is known")
    return _out(connection, rows)[0]


def _query() -> sa.Select[Any]:
    instance, place = tables.instance, tables.place
    same = (
        (place.c.cloud == instance.c.cloud)
        & (place.c.account == instance.c.account)
        & (place.c.region == instance.c.region)
    )
    return sa.select(instance, place.c.reconciled).select_from(instance.outerjoin(place, same))


def _out(connection: Connection, rows: Sequence[Any]) -> tuple[InstanceOut, ...]:
    keys = [row.key for row in rows]
    finding, gap = tables.finding, tables.gap
    findings = _by_instance(
        connection,
        sa.select(finding.c.instance, sa.func.count())
        .where(finding.c.instance.in_(keys), finding.c.state == FindingState.OPEN.value)
        .group_by(finding.c.instance),
    )
    gaps = _by_instance(
        connection,
        sa.select(gap.c.instance, sa.func.sum(gap.c.count)).where(gap.c.instance.in_(keys)).group_by(gap.c.instance),
    )
    return tuple(
        InstanceOut(
            key=row.key,
            instance=INSTANCE.validate_python(row.document),
            first_seen=row.first_seen,
            last_seen=row.last_seen
            if row.closed is not None or row.reconciled is None
            else max(row.last_seen, row.reconciled),
            closed=row.closed,
            policy=row.policy,
            mode=row.mode,
            unprotected=row.unprotected,
            last_scan=row.last_scan,
            last_scanned=row.last_scanned,
            last_result=row.last_result,
            next_scan=row.next_scan,
            open_findings=findings.get(row.key, 0),
            gaps=min(gaps.get(row.key, 0), 1 << 60),
        )
        for row in rows
    )


def _by_instance(connection: Connection, query: sa.Select[Any]) -> dict[str, int]:
    return {key: int(number) for key, number in connection.execute(query)}
