"""What is due next, and what is held."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from client.model import Hold, HoldOut, Schedule, Upcoming
from console.problems import Refused
from console.store import tables
from console.store.events import record
from console.store.findings import shown
from console.store.paging import cursor, parts_of, time_of

ALL = "all"


def listed(connection: Connection, now: datetime, *, after: str, limit: int) -> Schedule:
    """By due time; holds stand on the first page. What is due but has not begun stands there too."""
    table = tables.instance
    query = (
        sa.select(table.c.key, table.c.cloud, table.c.account, table.c.next_scan, table.c.policy)
        .where(table.c.closed.is_(None), table.c.next_scan.is_not(None))
        .order_by(table.c.next_scan, table.c.key)
        .limit(limit + 1)
    )
    if after:
        time, key = parts_of(after, str, str)
        query = query.where(
            sa.tuple_(table.c.next_scan, table.c.key)
            > sa.tuple_(sa.literal(time_of(time), table.c.next_scan.type), key)
        )
    rows = connection.execute(query).all()
    holding = holds(connection, now)
    scopes = {one.scope for one in holding}
    last = rows[limit - 1] if len(rows) > limit else None
    return Schedule(
        items=tuple(
            Upcoming(
                instance=row.key,
                due=row.next_scan,
                policy=row.policy,
                held=not scopes.isdisjoint({ALL, f"{row.cloud}://{row.account}", row.key}),
            )
            for row in rows[:limit]
        ),
        holds=() if after else tuple(holding),
        next=cursor(last.next_scan.isoformat(), last.key) if last is not None else None,
    )


def holds(connection: Connection, now: datetime) -> list[HoldOut]:
    """Those that hold now."""
    table = tables.hold
    rows = connection.execute(
        sa.select(table).where(sa.or_(table.c.until.is_(None), table.c.until > now)).order_by(table.c.scope)
    )
    return [
        HoldOut(scope=row.scope, why=shown(row.why, 1_000), until=row.until, by=row.by, since=row.since) for row in rows
    ]


def hold(connection: Connection, wanted: Hold, who: str, now: datetime) -> HoldOut:
    """Held until `release`, or until its time; said again, it replaces what was said. Raises `Refused`: 404 for a scope of nothing."""
    condition = _instances(connection, wanted.scope)
    table = tables.hold
    values = {"why": wanted.why, "until": wanted.until, "by": who, "since": now}
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    connection.execute(
        insert.values(scope=wanted.scope, **values).on_conflict_do_update(index_elements=["scope"], set_=values)
    )
    _look(connection, condition)
    record(connection, now, who, "schedule.held", wanted.scope)
    return HoldOut(scope=wanted.scope, why=wanted.why, until=wanted.until, by=who, since=now)


def release(connection: Connection, scope: str, who: str, now: datetime) -> None:
    """Raises `Refused` (404) if nothing holds it."""
    table = tables.hold
    if connection.execute(table.delete().where(table.c.scope == scope)).rowcount == 0:
        raise Refused(404, "there is no such hold")
    _look(connection, _scope(scope))
    record(connection, now, who, "schedule.released", scope)


def _look(connection: Connection, condition: sa.ColumnElement[bool]) -> None:
    """The planner looks at them at once: their orders are paused or given."""
    table = tables.instance
    connection.execute(table.update().where(table.c.closed.is_(None), condition).values(look=None))


def _scope(scope: str) -> sa.ColumnElement[bool]:
    table = tables.instance
    if scope == ALL:
        return sa.true()
    cloud, between, account = scope.partition("://")
    if between and "/" not in account:
        return sa.and_(table.c.cloud == cloud, table.c.account == account)
    return table.c.key == scope


def _instances(connection: Connection, scope: str) -> sa.ColumnElement[bool]:
    condition = _scope(scope)
    if scope == ALL:
        return condition
    cloud, between, account = scope.partition("://")
    if between and "/" not in account:
        table = tables.account
        known = sa.select(table.c.cloud).where(table.c.cloud == cloud, table.c.account == account)
    else:
        known = sa.select(tables.instance.c.key).where(condition)
    if connection.execute(known).first() is None:
        raise Refused(404, "the scope is `all`, an account as cloud://account, or the key of an instance that is known")
    return condition
