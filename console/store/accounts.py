"""The accounts that fleets enter."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from client.model import ENDED, AccountIn, AccountOut, ScanState
from console.problems import Refused
from console.store import estate, orders, tables
from console.store.events import record
from console.store.paging import chunks
from core.text import printable

_MOST_WORDS = 1_000


def everything(connection: Connection, *where: sa.ColumnElement[bool]) -> list[AccountOut]:
    account, place, instance = tables.account, tables.place, tables.instance
    rows = connection.execute(sa.select(account).where(*where).order_by(account.c.cloud, account.c.account)).all()
    counts = {
        (cloud, name): count
        for cloud, name, count in connection.execute(
            sa.select(instance.c.cloud, instance.c.account, sa.func.count())
            .where(instance.c.closed.is_(None))
            .group_by(instance.c.cloud, instance.c.account)
        )
    }
    places: dict[tuple[str, str], list[Any]] = {}
    for one in connection.execute(sa.select(place).order_by(place.c.region)):
        places.setdefault((one.cloud, one.account), []).append(one)
    return [
        _out(row, places.get((row.cloud, row.account), []), counts.get((row.cloud, row.account), 0)) for row in rows
    ]


def _out(row: Any, places: list[Any], count: int) -> AccountOut:
    """`reconciled` is when all regions were last listed whole; `problem` is that of the first region that has one."""
    times = [place.reconciled for place in places]
    problems = [_problem(place) for place in places if place.problem]
    return AccountOut(
        **row.document,
        added=row.added,
        reconciled=min(times) if times and None not in times else None,
        instances=count,
        problem=printable(problems[0])[:_MOST_WORDS] if problems else "",
    )


def _problem(place: Any) -> str:
    """What cannot be read often says itself where it is; lists have no room to say it twice."""
    where = f"{place.cloud}://{place.account}/{place.region}: "
    return f"{place.region}: {place.problem.removeprefix(where)}"


def of_fleet(connection: Connection, fleet: str) -> tuple[AccountIn, ...]:
    table = tables.account
    rows = connection.execute(
        sa.select(table.c.document).where(table.c.fleet == fleet).order_by(table.c.cloud, table.c.account)
    ).scalars()
    return tuple(AccountIn(**document) for document in rows)


def put(connection: Connection, wanted: AccountIn, who: str, now: datetime) -> tuple[AccountOut, set[str]]:
    """Enrol an account, or change it. The fleets that have new orders: it is to be listed, and by another fleet than before if so.

    Raises `Refused` (409) if a program would take over what is another's, or what somebody enrolled by hand in another way.
    """
    table = tables.account
    is_it = (table.c.cloud == wanted.cloud, table.c.account == wanted.account)
    old = connection.execute(sa.select(table).where(*is_it).with_for_update()).first()
    document = wanted.model_dump(mode="json")
    if old is not None:
        document["managed_by"] = _managed_by(AccountIn(**old.document), wanted)
    told: set[str] = set()
    if old is None:
        connection.execute(
            table.insert().values(
                cloud=wanted.cloud, account=wanted.account, fleet=wanted.fleet, document=document, added=now
            )
        )
        record(connection, now, who, "account.added", f"{wanted.cloud}://{wanted.account}", fleet=wanted.fleet)
    elif old.document != document:
        connection.execute(table.update().where(*is_it).values(fleet=wanted.fleet, document=document))
        record(connection, now, who, "account.changed", f"{wanted.cloud}://{wanted.account}", fleet=wanted.fleet)
        if old.fleet != wanted.fleet:
            told |= _leave(connection, old.fleet, wanted, now)
        if wanted.regions:
            place = tables.place
            connection.execute(
                place.delete().where(
                    place.c.cloud == wanted.cloud,
                    place.c.account == wanted.account,
                    place.c.region.not_in(wanted.regions),
                )
            )
    if old is None or old.document != document:
        orders.tell(connection, wanted.fleet, "reconcile", None, now)
        told.add(wanted.fleet)
    return everything(connection, *is_it)[0], told


def _managed_by(old: AccountIn, wanted: AccountIn) -> str:
    """Whose it is from now on. Raises `Refused` (409)."""
    if wanted.managed_by in {"", old.managed_by}:
        return old.managed_by
    name = f"{old.cloud}://{old.account}"
    if old.managed_by:
        raise Refused(
            409, f"{name}: is enrolled already, by {old.managed_by}; remove it there, or `kumomori cloud remove {name}`"
        )
    fields = (one for one in AccountIn.model_fields if one != "managed_by")
    if differ := [one for one in fields if getattr(old, one) != getattr(wanted, one)]:
        raise Refused(
            409,
            f"{name}: is enrolled already, with another {', '.join(differ)}; remove it (`kumomori cloud remove {name}`), or say the same",
        )
    return wanted.managed_by


def _leave(connection: Connection, fleet: str, account: AccountIn, now: datetime) -> set[str]:
    """Scans that the fleet before has not ended are stopped there; the planner orders them anew."""
    scan, instance = tables.scan, tables.instance
    ids = (
        connection.execute(
            sa.select(scan.c.id).where(
                scan.c.cloud == account.cloud,
                scan.c.account == account.account,
                scan.c.fleet == fleet,
                scan.c.state.not_in(ENDED),
            )
        )
        .scalars()
        .all()
    )
    connection.execute(
        instance.update()
        .where(instance.c.cloud == account.cloud, instance.c.account == account.account)
        .values(changed=True)
    )
    told: set[str] = set()
    for some in chunks(ids):
        told |= orders.stop(connection, some, ScanState.STOPPED, "another fleet serves the account now", now)
    return told


def delete(
    connection: Connection, cloud: str, account: str, who: str, now: datetime, *, managed_by: str = ""
) -> set[str]:
    """Its instances are closed; what was found on them stays. The fleets that have new orders.

    Raises `Refused` (404) if there is none, or if `managed_by` is given and it is not that program's.
    """
    table, instance = tables.account, tables.instance
    is_it = (table.c.cloud == cloud, table.c.account == account)
    old = connection.execute(sa.select(table).where(*is_it).with_for_update()).first()
    if old is None or managed_by not in {"", AccountIn(**old.document).managed_by}:
        raise Refused(404, "no such account is enrolled; `kumomori cloud list` names them")
    keys = (
        connection.execute(
            sa.select(instance.c.key).where(
                instance.c.cloud == cloud, instance.c.account == account, instance.c.closed.is_(None)
            )
        )
        .scalars()
        .all()
    )
    _, told = estate.close(connection, keys, now)
    connection.execute(table.delete().where(*is_it))
    record(connection, now, who, "account.deleted", f"{cloud}://{account}", instances=len(keys))
    return told | {old.fleet}
