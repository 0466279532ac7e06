"""Orders: numbered for each fleet, and handed out in that order.

A number is taken from a row that stays locked until the transaction ends, so a smaller one never becomes visible after a greater
one: a fleet that asks for what comes after N misses nothing. An order that was handed out is not changed or taken back any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from client.model import ENDED, Order, ScanOrder, ScanState
from console.store import tables
from console.store.database import Database

MOST_AT_ONCE: Final = 500
_MOST_AHEAD: Final = 1 << 50
Telling = Literal["stop", "pause", "resume"]


def number_for(connection: Connection, fleet: str, count: int = 1) -> int:
    """The first of `count` new numbers of `fleet`. Who takes numbers of several fleets does so in the order of their names."""
    table = tables.order_counter
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    upsert = insert.values(fleet=fleet, last=count).on_conflict_do_update(
        index_elements=["fleet"], set_={"last": table.c.last + count}
    )
    return int(connection.execute(upsert.returning(table.c.last)).scalar_one()) - count + 1


def order_scans(connection: Connection, fleet: str, wanted: Sequence[ScanOrder], now: datetime) -> list[str]:
    """Write `wanted` down as scans and as orders; what is known by its id already is left as it is. The ids that are new."""
    ids = [one.scan for one in wanted]
    known = set(connection.execute(sa.select(tables.scan.c.id).where(tables.scan.c.id.in_(ids))).scalars())
    new = {one.scan: one for one in wanted if one.scan not in known}
    if not new:
        return []
    first = number_for(connection, fleet, len(new))
    numbered = list(enumerate(new.values(), first))
    connection.execute(tables.scan.insert(), [_scan_row(fleet, number, one, now) for number, one in numbered])
    connection.execute(
        tables.order.insert(),
        [
            {
                "fleet": fleet,
                "number": number,
                "kind": "scan",
                "scan": one.scan,
                "document": document(one),
                "written": now,
            }
            for number, one in numbered
        ],
    )
    return list(new)


def document(order: ScanOrder) -> Any:
    return order.model_dump(mode="json")


def _scan_row(fleet: str, number: int, one: ScanOrder, now: datetime) -> dict[str, Any]:
    return {
        "id": one.scan,
        "kind": one.kind.value,
        "machine": one.machine,
        "cloud": one.place.cloud,
        "account": one.place.account,
        "region": one.place.region,
        "fleet": fleet,
        "why": one.why.value,
        "state": ScanState.ORDERED.value,
        "ordered": now,
        "due": one.not_before,
        "not_after": one.not_after,
        "order_number": number,
        "policy_version": one.policy_version,
    }


def change(connection: Connection, order: ScanOrder, now: datetime) -> bool:
    """Replace what was ordered under the same id. False if a fleet has it already: it is then stopped and ordered anew."""
    table = tables.order
    changed = connection.execute(
        table.update()
        .where(table.c.scan == order.scan, table.c.kind == "scan", table.c.fetched.is_(None))
        .values(document=document(order), written=now)
    )
    if changed.rowcount == 0:
        return False
    connection.execute(
        tables.scan.update()
        .where(tables.scan.c.id == order.scan)
        .values(due=order.not_before, not_after=order.not_after, policy_version=order.policy_version)
    )
    return True


def tell(
    connection: Connection, fleet: str, kind: Telling | Literal["reconcile"], scan: str | None, now: datetime
) -> int:
    """An order about a scan that the fleet knows, or `reconcile`; its number."""
    number = number_for(connection, fleet)
    connection.execute(tables.order.insert().values(fleet=fleet, number=number, kind=kind, scan=scan, written=now))
    return number


def stop(connection: Connection, scans: Iterable[str], end: ScanState, detail: str, now: datetime) -> set[str]:
    """Scans that no fleet has fetched end at once, as `end`; the others are told to stop. The fleets that are told."""
    table = tables.scan
    told: set[str] = set()
    rows = connection.execute(
        sa.select(table.c.id, table.c.fleet)
        .where(table.c.id.in_(list(scans)), table.c.state.not_in(ENDED))
        .order_by(table.c.fleet, table.c.id)
        .with_for_update()
    ).all()
    for scan, fleet in rows:
        if withdraw(connection, scan):
            connection.execute(
                table.update().where(table.c.id == scan).values(state=end.value, ended=now, detail=detail)
            )
        elif not _is_told(connection, scan):
            tell(connection, fleet, "stop", scan, now)
            told.add(fleet)
    return told


def withdraw(connection: Connection, scan: str) -> bool:
    """Take the order of a scan back, with all that was said of it since. False if a fleet has it already."""
    table = tables.order
    gone = connection.execute(
        table.delete().where(table.c.scan == scan, table.c.kind == "scan", table.c.fetched.is_(None))
    )
    if gone.rowcount == 0:
        return False
    connection.execute(table.delete().where(table.c.scan == scan))
    return True


def _is_told(connection: Connection, scan: str) -> bool:
    table = tables.order
    return (
        connection.execute(
            sa.select(table.c.number).where(table.c.scan == scan, table.c.kind == "stop").limit(1)
        ).first()
        is not None
    )


def fetch(database: Database, fleet: str, after: int, now: datetime) -> tuple[Order, ...]:
    """The orders of `fleet` after number `after`, at most `MOST_AT_ONCE`. New ones are marked as handed out first."""
    with database.read() as connection:
        rows = _after(connection, fleet, after)
        behind = after > _last(connection, fleet)
    if behind and after <= _MOST_AHEAD:
        with database.write() as connection:
            _catch_up(connection, fleet, after)
            rows = _after(connection, fleet, after)
    if any(row.fetched is None for row in rows):
        table = tables.order
        with database.write() as connection:
            connection.execute(
                table.update()
                .where(
                    table.c.fleet == fleet, table.c.number.in_([row.number for row in rows]), table.c.fetched.is_(None)
                )
                .values(fetched=now)
            )
            rows = list(takewhile(lambda row: row.fetched is not None, _after(connection, fleet, after)))
    return tuple(Order(number=row.number, kind=row.kind, scan=row.scan, order=row.document) for row in rows)


def _last(connection: Connection, fleet: str) -> int:
    table = tables.order_counter
    return connection.execute(sa.select(table.c.last).where(table.c.fleet == fleet)).scalar() or 0


def _catch_up(connection: Connection, fleet: str, after: int) -> None:
    """The fleet had more orders than we know of: this database was restored, and what was ordered since would be passed over.

    What was not handed out since gets numbers that the fleet has not seen; it knows scans that it has by their ids.
    """
    table, counter, scan = tables.order, tables.order_counter, tables.scan
    number_for(connection, fleet, 0)  # locks it
    if after <= _last(connection, fleet):
        return
    connection.execute(counter.update().where(counter.c.fleet == fleet).values(last=counter.c.last + after))
    mine = (table.c.fleet == fleet, table.c.fetched.is_(None))
    connection.execute(table.update().where(*mine).values(number=table.c.number + after))
    ids = sa.select(table.c.scan).where(*mine, table.c.kind == "scan")
    connection.execute(
        scan.update().where(scan.c.fleet == fleet, scan.c.id.in_(ids)).values(order_number=scan.c.order_number + after)
    )


def _after(connection: Connection, fleet: str, after: int) -> list[Any]:
    """Nothing of scans that have ended: a fleet that lost its database asks from the first on, and would do all of them again."""
    table, scan = tables.order, tables.scan
    return list(
        connection.execute(
            sa.select(table)
            .outerjoin(scan, scan.c.id == table.c.scan)
            .where(table.c.fleet == fleet, table.c.number > after, scan.c.ended.is_(None))
            .order_by(table.c.number)
            .limit(MOST_AT_ONCE)
        )
    )
