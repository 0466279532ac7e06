"""Scans: asked for, told of by their fleets, and listed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from client.model import ENDED, FleetStatus, ScanIn, ScanKind, ScanOrder, ScanOut, Scans, ScanState, Why
from console.context import Policies
from console.problems import Refused
from console.store import orders, tables
from console.store.estate import INSTANCE
from console.store.events import record
from console.store.findings import shown
from console.store.orders import Telling
from console.store.paging import chunks, cursor, parts_of, time_of
from core.estate import Instance


def out(row: Any) -> ScanOut:
    names = {name for name in ScanOut.model_fields if name not in {"detail", "step"}}
    known = {name: value for name, value in row._mapping.items() if name in names}  # noqa: SLF001  SQLAlchemy's public name for it
    return ScanOut(**known, detail=shown(row.detail, 1_000), step=row.step)


def get(connection: Connection, scan: str) -> ScanOut:
    """Raises `Refused` (404)."""
    return out(_row(connection, scan))


def _row(connection: Connection, scan: str, *, lock: bool = False) -> Any:
    query = sa.select(tables.scan).where(tables.scan.c.id == scan)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise Refused(404, "no such scan is known; `kumomori scans` lists them")
    return row


def order_of(connection: Connection, scan: str) -> Any:
    """The document of its order; None if there is none."""
    table = tables.order
    return connection.execute(sa.select(table.c.document).where(table.c.scan == scan, table.c.kind == "scan")).scalar()


def listed(connection: Connection, *, after: str, state: ScanState | None, machine: str, limit: int) -> Scans:
    """Newest first."""
    table = tables.scan
    query = sa.select(table).order_by(table.c.ordered.desc(), table.c.id.desc()).limit(limit + 1)
    if after:
        time, id_ = parts_of(after, str, str)
        query = query.where(
            sa.tuple_(table.c.ordered, table.c.id) < sa.tuple_(sa.literal(time_of(time), table.c.ordered.type), id_)
        )
    if state is not None:
        query = query.where(table.c.state == state.value)
    if machine:
        query = query.where(table.c.machine == machine)
    rows = connection.execute(query).all()
    last = rows[limit - 1] if len(rows) > limit else None
    following = cursor(last.ordered.isoformat(), last.id) if last is not None else None
    return Scans(items=tuple(out(row) for row in rows[:limit]), next=following)


def report(connection: Connection, scan: str) -> bytes:
    """Compressed by gzip. Raises `Refused` (404)."""
    content = connection.execute(sa.select(tables.report.c.content).where(tables.report.c.scan == scan)).scalar()
    if content is None:
        _row(connection, scan)
        raise Refused(404, "the scan has no report: it has not ended, or did not end well")
    return bytes(content)


def start(
    connection: Connection, wanted: ScanIn, policies: Policies, who: str, now: datetime
) -> tuple[list[ScanOut], set[str]]:
    """Order a scan of each instance now; one that somebody asked for already and that has not ended is given instead.

    Raises `Refused`: 404 for an instance that is not known, 409 for one that is closed, in no account, or must not be scanned.
    Then the fleets that have new orders.
    """
    keys = sorted(set(wanted.instances))
    rows = {
        row.key: row
        for row in connection.execute(
            sa.select(tables.instance)
            .where(tables.instance.c.key.in_(keys))
            .order_by(tables.instance.c.key)
            .with_for_update()
        )
    }
    for key in keys:
        if key not in rows:
            raise Refused(404, f"no instance {key} is known")
        if rows[key].closed is not None:
            raise Refused(409, f"{key} is not there any more")
    underway = _underway(connection, keys)
    due = [rows[key] for key in keys if key not in underway]
    instances = [INSTANCE.validate_python(row.document) for row in due]
    fleets = _fleets(connection)
    version = policies.version(connection)
    by_fleet: dict[str, list[ScanOrder]] = {}
    for row, instance, settled in zip(due, instances, policies.settle(connection, instances), strict=True):
        if settled.unprotected:
            raise Refused(409, f"{row.key}: {settled.unprotected}")
        fleet = fleets.get((row.cloud, row.account))
        if fleet is None:
            raise Refused(409, f"{row.key}: its account is not enrolled any more")
        order = _order(row.key, instance, settled.settings, version, now, full=wanted.full)
        by_fleet.setdefault(fleet, []).append(order)
    ids = [scan.id for scan in underway.values()]
    for fleet in sorted(by_fleet):
        ids.extend(orders.order_scans(connection, fleet, by_fleet[fleet], now))
        for order in by_fleet[fleet]:
            record(connection, now, who, "scan.started", order.machine, scan=order.scan, full=wanted.full)
    table = tables.scan
    found = {row.id: out(row) for row in connection.execute(sa.select(table).where(table.c.id.in_(ids)))}
    return [found[id_] for id_ in ids], set(by_fleet)


def _underway(connection: Connection, keys: Sequence[str]) -> dict[str, Any]:
    table = tables.scan
    rows = connection.execute(
        sa.select(table.c.id, table.c.machine)
        .where(table.c.machine.in_(keys), table.c.why == Why.MANUAL.value, table.c.state.not_in(ENDED))
        .order_by(table.c.machine, table.c.ordered)
    ).all()
    return {row.machine: row for row in rows}


def _fleets(connection: Connection) -> dict[tuple[str, str], str]:
    table = tables.account
    return {(row.cloud, row.account): row.fleet for row in connection.execute(sa.select(table))}


def _order(
    key: str, instance: Instance, settings: Mapping[str, Any], version: int, now: datetime, *, full: bool
) -> ScanOrder:
    return ScanOrder(
        scan=scan_id(key, Why.MANUAL, now),
        kind=ScanKind.INSTANCE,
        place=instance.place,
        machine=key,
        instance=instance,
        image=instance.image,
        why=Why.MANUAL,
        not_before=now,
        full=full,
        policy_version=version,
        settings=dict(settings),
    )


def scan_id(machine: str, why: Why, due: datetime) -> str:
    """The same machine, reason and time give the same id, so what is ordered twice is one scan."""
    text = f"{machine}\n{why.value}\n{due.isoformat()}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def tell(connection: Connection, scan: str, kind: Telling, who: str, now: datetime) -> tuple[ScanOut, set[str]]:
    """Stop, pause or resume a scan; then the fleets that have new orders. Raises `Refused`: 404, or 409 if it has ended."""
    row = _row(connection, scan, lock=True)
    if row.state in ENDED:
        raise Refused(409, f"it has ended: {row.state}")
    told = {row.fleet}
    if kind == "stop":
        told = orders.stop(connection, [scan], ScanState.STOPPED, f"stopped by {who}", now)
    else:
        orders.tell(connection, row.fleet, kind, scan, now)
    record(connection, now, who, f"scan.{kind}", row.machine, scan=scan)
    return get(connection, scan), told


def progress(connection: Connection, fleet: str, status: FleetStatus) -> int:
    """Write down what differs from what is known of scans that have not ended. How many were written."""
    table = tables.scan
    told = {one.scan: one for one in status.scans}
    changed = 0
    for some in chunks(sorted(told)):
        rows = connection.execute(
            sa.select(table.c.id, table.c.state, table.c.step, table.c.started)
            .where(table.c.id.in_(some), table.c.fleet == fleet, table.c.state.not_in(ENDED))
            .order_by(table.c.id)
            .with_for_update()
        ).all()
        for row in rows:
            one = told[row.id]
            started = one.started or row.started
            if (row.state, row.step, row.started) == (one.state.value, shown(one.step), started):
                continue
            connection.execute(
                table.update().where(table.c.id == row.id).values(state=one.state.value, step=one.step, started=started)
            )
            changed += 1
    return changed
