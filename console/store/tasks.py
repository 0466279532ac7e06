"""Tasks: what a fleet is asked to do once, now, while somebody waits for the answer.

They are no orders: nothing is made up for later. What a fleet does not fetch within `LASTING` is not done any more, and what it does not
answer is handed out again, so each kind of task must do no harm when it is done twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from client.model import CheckIn, ClearIn, SweepIn, Task, TaskAnswer, TaskOut
from console.problems import Refused
from console.store import tables
from console.store.database import Database
from console.store.events import record

LASTING: Final = timedelta(minutes=10)
KEPT: Final = timedelta(days=1)
MOST_WAITING: Final = 100  # of one fleet


def sweep(connection: Connection, wanted: SweepIn, who: str, now: datetime, *, dry_run: bool) -> list[TaskOut]:
    """A task for each fleet that is asked. Raises `Refused`: 404 for an account or fleet that is not known, 409 for another fleet's account."""
    account = wanted.account
    if account is None:
        return [_ask(connection, "sweep", one, None, who, now, dry_run=dry_run) for one in _fleets(connection, wanted)]
    fleet = _fleet_of(connection, account)
    if wanted.fleet not in {None, fleet}:
        raise Refused(409, f"the account is one of the fleet {fleet}")
    return [_ask(connection, "sweep", fleet, account, who, now, dry_run=dry_run)]


def clear(connection: Connection, wanted: ClearIn, who: str, now: datetime) -> list[TaskOut]:
    """A task for each fleet that may keep something there; none if none is registered. Raises `Refused`: 409 while it is enrolled."""
    if _serving(connection, wanted.account) is not None:
        raise Refused(409, f"{wanted.account}: is enrolled; remove it first")
    table = tables.fleet
    query = sa.select(table.c.name).order_by(table.c.name)
    if wanted.fleet is not None:
        query = query.where(table.c.name == wanted.fleet)
    asked = connection.execute(query).scalars().all()
    return [_ask(connection, "clear", one, wanted.account, who, now, evidence=wanted.evidence) for one in asked]


def check(connection: Connection, wanted: CheckIn, who: str, now: datetime) -> TaskOut:
    """Raises `Refused`: 404 for an account that is not known."""
    return _ask(connection, "check", _fleet_of(connection, wanted.account), wanted.account, who, now)


def _fleets(connection: Connection, wanted: SweepIn) -> Sequence[str]:
    table = tables.fleet
    query = sa.select(table.c.name).order_by(table.c.name)
    if wanted.fleet is not None:
        query = query.where(table.c.name == wanted.fleet)
    found = list(connection.execute(query).scalars())
    if not found:
        raise Refused(404, f"no fleet{f' {wanted.fleet}' if wanted.fleet else ''} has registered")
    return found


def _fleet_of(connection: Connection, account: str) -> str:
    found = _serving(connection, account)
    if found is None:
        raise Refused(404, "the account is not known; accounts are named as their list does, cloud://account")
    return found


def _serving(connection: Connection, account: str) -> str | None:
    """The fleet of `account` (cloud://account), if that is enrolled."""
    table = tables.account
    cloud, _, name = account.partition("://")
    query = sa.select(table.c.fleet).where(table.c.cloud == cloud, table.c.account == name)
    return connection.execute(query).scalar_one_or_none()


def _ask(
    connection: Connection,
    kind: Literal["sweep", "clear", "check"],
    fleet: str,
    account: str | None,
    who: str,
    now: datetime,
    *,
    dry_run: bool = False,
    evidence: bool = False,
) -> TaskOut:
    """One that was asked for before and is under way is given instead of another one. Raises `Refused`: 429 if too many are."""
    table = tables.task
    waiting = _waiting(connection, fleet, now, MOST_WAITING)
    for row in waiting:
        if (row.kind, row.account, row.dry_run, row.evidence) == (kind, account, dry_run, evidence):
            return _out(row)
    if len(waiting) >= MOST_WAITING:
        raise Refused(429, f"the fleet {fleet} has {MOST_WAITING} tasks to do", headers={"Retry-After": "30"})
    id_ = f"{kind}-{secrets.token_hex(8)}"
    how = {"dry_run": dry_run, "evidence": evidence}
    values = {"kind": kind, "fleet": fleet, "account": account, "by": who, "asked": now}
    connection.execute(table.insert().values(id=id_, expires=now + LASTING, **values, **how))
    record(connection, now, who, f"{kind}.asked", account or fleet, task=id_, **how)
    return get(connection, id_)


def _waiting(connection: Connection, fleet: str, now: datetime, most: int) -> list[Any]:
    table = tables.task
    query = sa.select(table).where(table.c.fleet == fleet, table.c.answered.is_(None), table.c.expires > now)
    return list(connection.execute(query.order_by(table.c.asked, table.c.id).limit(most)))


def fetch(database: Database, fleet: str, now: datetime) -> tuple[Task, ...]:
    """What `fleet` is to do next, which is marked as begun; none or one, so that no other waits behind it for an answer."""
    with database.read() as connection:
        rows = _waiting(connection, fleet, now, 1)
    for row in rows:
        if row.fetched is None:
            table = tables.task
            with database.write() as connection:
                connection.execute(
                    table.update().where(table.c.id == row.id, table.c.fetched.is_(None)).values(fetched=now)
                )
    return tuple(Task(**{name: getattr(row, name) for name in Task.model_fields}) for row in rows)


def answer(connection: Connection, fleet: str, task: str, said: TaskAnswer, now: datetime) -> None:
    """The first answer is kept. Raises `Refused`: 404 for a task that is not known, or another fleet's."""
    table = tables.task
    mine = (table.c.id == task, table.c.fleet == fleet)
    if connection.execute(sa.select(table.c.id).where(*mine)).first() is None:
        raise Refused(404, "there is no such task of this fleet")
    connection.execute(
        table.update()
        .where(*mine, table.c.answered.is_(None))
        .values(
            answered=now,
            answer=said.model_dump(mode="json"),
            fetched=sa.func.coalesce(table.c.fetched, sa.literal(now, table.c.fetched.type)),
        )
    )


def get(connection: Connection, task: str) -> TaskOut:
    """Raises `Refused`: 404 if it is not known."""
    row = connection.execute(sa.select(tables.task).where(tables.task.c.id == task)).first()
    if row is None:
        raise Refused(404, "there is no such task; they are forgotten after a day")
    return _out(row)


def prune(database: Database, now: datetime) -> None:
    table = tables.task
    old = table.c.asked < now - KEPT
    with database.read() as connection:
        if connection.execute(sa.select(table.c.id).where(old).limit(1)).first() is None:
            return
    with database.write() as connection:
        connection.execute(table.delete().where(old))


def _out(row: Any) -> TaskOut:
    return TaskOut(**row._mapping)  # noqa: SLF001  public, in spite of its name
