"""Findings, each once for its instance: seen again moves `last_seen`, not seen where a scan looked makes it fixed."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from client.model import AcceptIn, FindingOut, Findings, FindingState, GapOut, GapsPage
from console.problems import Refused
from console.store import tables
from console.store.events import CONSOLE, record
from console.store.paging import cursor, fitting, parts_of
from core.findings import Severity
from core.text import escape

WORST_FIRST: Final = tuple(reversed(Severity))
_OPEN_AGAIN: Final = {"state": FindingState.OPEN.value, "accepted_by": "", "accepted_why": "", "accepted_until": None}


def rank(severity: Severity) -> int:
    """0 for the worst."""
    return WORST_FIRST.index(severity)


def listed(
    connection: Connection,
    *,
    after: str,
    state: FindingState | None,
    severity: Severity | None,
    instance: str,
    limit: int,
) -> Findings:
    """Worst first, then by instance."""
    table = tables.finding
    query = sa.select(table).order_by(table.c.severity, table.c.instance, table.c.id).limit(limit + 1)
    if after:
        last = parts_of(after, int, str, str)
        query = query.where(sa.tuple_(table.c.severity, table.c.instance, table.c.id) > sa.tuple_(*last))
    if state is not None:
        query = query.where(table.c.state == state.value)
    if severity is not None:
        query = query.where(table.c.severity == rank(severity))
    if instance:
        query = query.where(table.c.instance == instance)
    rows = connection.execute(query).all()
    items = fitting(_out(row) for row in rows[:limit])
    end = rows[len(items) - 1] if len(rows) > len(items) else None
    following = cursor(end.severity, end.instance, end.id) if end is not None else None
    return Findings(items=items, next=following)


def accept(connection: Connection, instance: str, id_: str, wanted: AcceptIn, who: str, now: datetime) -> FindingOut:
    """Raises `Refused`: 404, 409 if it is fixed, 422 if `until` is over already."""
    if wanted.until is not None and wanted.until <= now:
        raise Refused(422, "until: that is over already")
    row = _locked(connection, instance, id_)
    if row.state == FindingState.FIXED.value:
        raise Refused(409, "it is fixed: there is nothing to accept")
    values = {
        "state": FindingState.ACCEPTED.value,
        "accepted_by": who,
        "accepted_why": wanted.why,
        "accepted_until": wanted.until,
    }
    until = None if wanted.until is None else wanted.until.isoformat()
    record(connection, now, who, "finding.accepted", instance, id=id_, why=wanted.why, until=until)
    return _changed(connection, instance, id_, values)


def reopen(connection: Connection, instance: str, id_: str, who: str, now: datetime) -> FindingOut:
    """Raises `Refused`: 404, 409 if it is not accepted."""
    row = _locked(connection, instance, id_)
    if row.state != FindingState.ACCEPTED.value:
        raise Refused(409, f"it is {row.state}, not accepted")
    record(connection, now, who, "finding.reopened", instance, id=id_)
    return _changed(connection, instance, id_, _OPEN_AGAIN)


def any_lapsed(connection: Connection, now: datetime) -> bool:
    return connection.execute(sa.select(tables.finding.c.id).where(*_lapsed(now)).limit(1)).first() is not None


def lapse(connection: Connection, now: datetime) -> int:
    """What was accepted until a time that is over is open again. How many."""
    table = tables.finding
    rows = connection.execute(
        table.update().where(*_lapsed(now)).values(_OPEN_AGAIN).returning(table.c.instance, table.c.id)
    ).all()
    for instance, id_ in rows:
        record(connection, now, CONSOLE, "finding.reopened", instance, id=id_)
    return len(rows)


def _lapsed(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    table = tables.finding
    return (table.c.state == FindingState.ACCEPTED.value, table.c.accepted_until <= now)


def _locked(connection: Connection, instance: str, id_: str) -> Any:
    table = tables.finding
    row = connection.execute(
        sa.select(table).where(table.c.instance == instance, table.c.id == id_).with_for_update()
    ).first()
    if row is None:
        raise Refused(404, "no such finding is known")
    return row


def _changed(connection: Connection, instance: str, id_: str, values: dict[str, Any]) -> FindingOut:
    table = tables.finding
    is_it = (table.c.instance == instance, table.c.id == id_)
    connection.execute(table.update().where(*is_it).values(values))
    return _out(connection.execute(sa.select(table).where(*is_it)).one())


def _out(row: Any) -> FindingOut:
    return FindingOut(
        id=row.id,
        instance=row.instance,
        rule=shown(row.rule),
        title=shown(row.title),
        severity=WORST_FIRST[row.severity],
        remedy=shown(row.remedy),
        path=escape(row.path),
        subject=shown(row.subject),
        evidence={shown(key): _shown(value) for key, value in row.evidence.items()},
        state=FindingState(row.state),
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        fixed=row.fixed,
        accepted_by=row.accepted_by,
        accepted_why=row.accepted_why,
        accepted_until=row.accepted_until,
        actions=tuple(shown(one) for one in row.actions),
    )


def shown(text: str, most: int | None = None) -> str:
    r"""`text` with lone surrogates, which no JSON of an answer may hold, written out as `\udcNN`."""
    return text.encode("utf-8", "backslashreplace").decode()[:most]


def _shown(value: Any) -> Any:
    match value:
        case str():
            return shown(value)
        case dict():
            return {shown(key): _shown(one) for key, one in value.items()}
        case list():
            return [_shown(one) for one in value]
        case _:
            return value


def gaps(connection: Connection, *, after: str, instance: str, limit: int) -> GapsPage:
    """By instance, then in the order of the report."""
    table = tables.gap
    query = sa.select(table).order_by(table.c.instance, table.c.number).limit(limit + 1)
    if after:
        query = query.where(sa.tuple_(table.c.instance, table.c.number) > sa.tuple_(*parts_of(after, str, int)))
    if instance:
        query = query.where(table.c.instance == instance)
    rows = connection.execute(query).all()
    items = fitting(
        GapOut(
            instance=row.instance,
            reason=row.reason,
            where=shown(row.where),
            detail=shown(row.detail),
            count=row._mapping["count"],  # noqa: SLF001  SQLAlchemy's public name; `row.count` is a tuple's
            accepted=row.accepted,
            scan=row.scan,
        )
        for row in rows[:limit]
    )
    last = rows[len(items) - 1] if len(rows) > len(items) else None
    following = cursor(last.instance, last.number) if last is not None else None
    return GapsPage(items=items, next=following)
