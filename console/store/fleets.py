"""Fleets: who they are, and when they were last heard of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from client.model import FleetIn, FleetOut, FleetStatus
from console.problems import Refused
from console.store import tables
from console.store.events import record


def everything(connection: Connection) -> list[FleetOut]:
    return [_out(row) for row in connection.execute(sa.select(tables.fleet).order_by(tables.fleet.c.name))]


def register(connection: Connection, wanted: FleetIn, who: str, now: datetime) -> FleetOut:
    table = tables.fleet
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    values: dict[str, Any] = {"clouds": list(wanted.clouds), "regions": list(wanted.regions), "seen": now}
    known = connection.execute(sa.select(table.c.name).where(table.c.name == wanted.name)).first()
    connection.execute(
        insert.values(name=wanted.name, registered=now, **values).on_conflict_do_update(
            index_elements=["name"], set_=values
        )
    )
    if known is None:
        record(connection, now, who, "fleet.registered", wanted.name)
    return _out(connection.execute(sa.select(table).where(table.c.name == wanted.name)).one())


def seen(connection: Connection, fleet: str, status: FleetStatus, now: datetime) -> None:
    """Raises `Refused` (404) for a fleet that has not registered."""
    table = tables.fleet
    document = status.model_copy(update={"scans": ()}).model_dump(mode="json")
    changed = connection.execute(
        table.update()
        .where(table.c.name == fleet)
        .values(seen=now, clock_off_seconds=(status.clock - now).total_seconds(), status=document)
    )
    if changed.rowcount == 0:
        raise Refused(404, f"no fleet {fleet} has registered")


def _out(row: Any) -> FleetOut:
    return FleetOut(
        name=row.name,
        clouds=row.clouds,
        regions=row.regions,
        registered=row.registered,
        seen=row.seen,
        clock_off_seconds=row.clock_off_seconds,
        status=row.status,
    )
