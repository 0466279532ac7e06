"""What came of a scan is written down in one transaction, once: whoever sends it again gets the same answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from client.model import ENDED, FindingState, ResultIn, ScanKind, ScanOut, ScanState
from console.actions import actions
from console.clock import ASTRAY
from console.looked import Looked
from console.problems import Refused
from console.report import Found, Read, read_report
from console.store import filesets, packages, scans, tables
from console.store.database import Database
from console.store.findings import rank, shown
from console.store.paging import chunks

_MOST_DETAIL: Final = 1_000
_MOST_BASE: Final = 1_000
_ROWS: Final = 1_000  # in one statement
_TEXTS: Final = ("rule", "title", "severity", "remedy", "volume", "path", "subject", "evidence", "actions")


@dataclass(frozen=True, slots=True)
class Taken:
    """`new` is false if it was known already."""

    scan: ScanOut
    new: bool


def take(
    database: Database,
    fleet: str,
    result: ResultIn,
    now: datetime,
    reading: AbstractContextManager[Any] | None = None,
) -> Taken:
    """`reading` is held while the report is taken apart: how many are at once bounds the memory that they need. Raises `Refused`: 404 for a scan that is not known, 403 for another fleet's, 422 for a result or report that is none."""
    if result.state not in ENDED:
        raise Refused(422, f"state: a result is of a scan that has ended, not {result.state.value}")
    if (result.state is ScanState.DONE) != bool(result.report):
        raise Refused(422, "report: a scan that is done has one, and no other has")
    with database.read() as connection:
        row = _scan(connection, fleet, result.scan)
        if row.state in ENDED:
            return Taken(scans.out(row), new=False)
        order = scans.order_of(connection, result.scan)
        policy, mode = _policy(connection, row.machine)
    with reading or nullcontext():
        read = read_report(result.report) if result.report else None
    settings: Mapping[str, Any] = (order or {}).get("settings", {})
    said = actions(read.findings, settings, row.cloud, mode, policy) if read else []
    with database.write() as connection:
        newest = _locked_machine(connection, row, now)  # before its scans, as everybody who needs both does
        row = _scan(connection, fleet, result.scan, lock=True)
        if row.state in ENDED:  # another of the same came in between
            return Taken(scans.out(row), new=False)
        if read is not None:
            _done(connection, row, result, read, said, settings, now, newest)
        _end(connection, row, result, read, now)
        return Taken(scans.out(_scan(connection, fleet, result.scan)), new=True)


def _scan(connection: Connection, fleet: str, scan: str, *, lock: bool = False) -> Any:
    query = sa.select(tables.scan).where(tables.scan.c.id == scan)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise Refused(404, f"no scan {scan} was ordered")
    if row.fleet != fleet:
        raise Refused(403, f"the scan {scan} is another fleet's")
    return row


def _policy(connection: Connection, machine: str) -> tuple[str, str]:
    table = tables.instance
    row = connection.execute(sa.select(table.c.policy, table.c.mode).where(table.c.key == machine)).first()
    return (row.policy, row.mode) if row is not None else ("", "")


def _end(connection: Connection, row: Any, result: ResultIn, read: Read | None, now: datetime) -> None:
    newest = connection.execute(sa.select(sa.func.max(tables.policy_version.c.version))).scalar() or 0
    detail = result.detail
    if result.policy_version < newest:
        older = f"by version {result.policy_version} of the policies, when {newest} held"
        detail = f"{older}; {detail}" if detail else older
    values: dict[str, Any] = {
        "state": result.state.value,
        "step": "",
        "detail": shown(detail, _MOST_DETAIL),
        "started": _within(result.started, row.ordered, now) if result.started else row.started,
        "ended": _within(result.ended, row.ordered, now),
        "usd": result.usd,
        "policy_version": result.policy_version,
        "attempt": result.attempt,
        "base": [one.id for one in result.base[:_MOST_BASE]],
    }
    if read is not None:
        values |= {
            "result": read.result,
            "findings": len(read.seen),
            "gaps": sum(gap.count for gap in read.gaps),
            "mode": read.mode,
            "blocks_read": read.blocks_read if result.blocks_fetched is None else result.blocks_fetched,
            "bytes_read": read.bytes_read,
        }
    connection.execute(tables.scan.update().where(tables.scan.c.id == row.id).values(values))
    # the planner is to say what comes next of the machine; what waits for an image it looks at by itself
    table = tables.instance
    connection.execute(table.update().where(table.c.key == row.machine).values(changed=True))


def _within(time: datetime, ordered: datetime, now: datetime) -> datetime:
    """A fleet's clock may be off, but nothing began before it was ordered or ends tomorrow."""
    return max(min(time, now), ordered)


def _done(
    connection: Connection,
    row: Any,
    result: ResultIn,
    read: Read,
    said: Sequence[Sequence[str]],
    settings: Mapping[str, Any],
    now: datetime,
    newest: datetime | None,
) -> None:
    seen = _within(
        result.started or row.started or result.ended, row.ordered, now
    )  # the disks are those of its beginning
    connection.execute(tables.report.insert().values(scan=row.id, content=read.compressed, json_bytes=read.json_bytes))
    late = newest is not None and seen < newest <= now + ASTRAY
    _findings(connection, row, read, said, Looked(read, settings), seen, now, late=late)
    if late:  # a later scan has been heard of: that one says how the machine is
        return
    _gaps(connection, row, read)
    packages.attach(connection, row.machine, row.kind, read.packages, row.id, seen)
    filesets.attach(connection, row.machine, row.kind, result.file_set, row.id, seen)
    table = tables.image if row.kind == ScanKind.IMAGE.value else tables.instance
    connection.execute(
        table.update()
        .where(table.c.key == row.machine)
        .values(last_scan=row.id, last_scanned=seen, last_result=read.result)
    )


def _locked_machine(connection: Connection, row: Any, now: datetime) -> datetime | None:
    """When it was last scanned. Results of one machine come one after the other from here on."""
    if row.kind == ScanKind.IMAGE.value:
        image = tables.image
        insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(image)
        connection.execute(insert.values(key=row.machine, first_seen=now).on_conflict_do_nothing())
        query = sa.select(image.c.last_scanned).where(image.c.key == row.machine)
    else:
        query = sa.select(tables.instance.c.last_scanned).where(tables.instance.c.key == row.machine)
    last: datetime | None = connection.execute(query.with_for_update()).scalar()
    return last


def _findings(
    connection: Connection,
    row: Any,
    read: Read,
    said: Sequence[Sequence[str]],
    looked: Looked,
    seen: datetime,
    now: datetime,
    *,
    late: bool,
) -> None:
    table = tables.finding
    old = {
        one.id: one
        for one in connection.execute(
            sa.select(
                table.c.id,
                table.c.state,
                table.c.first_seen,
                table.c.last_seen,
                table.c.fixed,
                table.c.volume,
                table.c.path,
                table.c.rule,
            )
            .where(table.c.instance == row.machine)
            .with_for_update()
        )
    }
    new, again = [], []
    for found, wanted in zip(read.findings, said, strict=True):
        known = old.get(found.fingerprint)
        values = {"key": found.fingerprint, **_texts(found, wanted), "last_scan": row.id}
        if known is None:
            new.append((values, found))
        elif not late:
            again.append(values | {"at": max(known.last_seen, seen)})
    _insert(connection, row.machine, new, seen)
    _update(connection, row.machine, again)
    if late:
        return
    gone = [
        one.id
        for one in old.values()
        if one.state != FindingState.FIXED.value
        and one.id not in read.seen
        and not seen < one.last_seen <= now + ASTRAY
        and looked.for_rule(one.rule)
        and looked.at(one.volume, one.path)
    ]
    for some in chunks(gone):
        connection.execute(
            table.update()
            .where(table.c.instance == row.machine, table.c.id.in_(some))
            .values(
                state=FindingState.FIXED.value,
                fixed=seen,
                fixed_scan=row.id,
                accepted_by="",
                accepted_why="",
                accepted_until=None,
            )
        )


def _insert(connection: Connection, machine: str, new: Sequence[tuple[dict[str, Any], Found]], seen: datetime) -> None:
    rows = []
    for values, found in new:
        rest = {name: value for name, value in values.items() if name != "key"}
        rows.append(
            {
                "instance": machine,
                "id": found.fingerprint,
                "state": FindingState.OPEN.value,
                "first_seen": seen,
                "last_seen": seen,
                **rest,
            }
        )
    for some in chunks(rows, _ROWS):
        connection.execute(tables.finding.insert(), list(some))


def _update(connection: Connection, machine: str, again: Sequence[dict[str, Any]]) -> None:
    """Seen again: what was fixed is open, what was accepted stays so."""
    table = tables.finding
    values: dict[str, Any] = {name: sa.bindparam(name) for name in (*_TEXTS, "last_scan")}
    values |= {
        "last_seen": sa.bindparam("at"),
        "fixed": None,
        "fixed_scan": None,
        "state": sa.case((table.c.state == FindingState.FIXED.value, FindingState.OPEN.value), else_=table.c.state),
    }
    statement = table.update().where(table.c.instance == sa.bindparam("machine"), table.c.id == sa.bindparam("key"))
    for some in chunks(again, _ROWS):
        connection.execute(statement.values(values), [{"machine": machine, **one} for one in some])


def _texts(found: Found, wanted: Sequence[str]) -> dict[str, Any]:
    return {
        "rule": found.rule,
        "title": found.title,
        "severity": rank(found.severity),
        "remedy": found.remedy,
        "volume": found.volume,
        "path": found.path,
        "subject": found.subject,
        "evidence": found.evidence,
        "actions": list(wanted),
    }


def _gaps(connection: Connection, row: Any, read: Read) -> None:
    table = tables.gap
    connection.execute(table.delete().where(table.c.instance == row.machine))
    rows = [
        {
            "instance": row.machine,
            "number": number,
            "reason": gap.reason.value,
            "where": gap.where,
            "detail": gap.detail,
            "count": gap.count,
            "accepted": gap.accepted,
            "scan": row.id,
        }
        for number, gap in enumerate(read.gaps)
    ]
    for some in chunks(rows, _ROWS):
        connection.execute(table.insert(), list(some))
