"""What is installed on machines: each package once, each set of packages once, and which machine has which set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from client.model import PackageHolder, PackageHolders
from console.problems import Refused
from console.report import Package
from console.store import tables
from console.store.database import Database
from console.store.paging import chunks, cursor, parts_of

_ROWS: Final = 1_000  # in one statement
_TRIES: Final = 5
_MOST_PRUNED: Final = 200  # sets in one turn
_UNUSED: Final = timedelta(days=1)


def attach(
    connection: Connection, machine: str, kind: str, found: Sequence[Package], scan: str, seen: datetime
) -> None:
    """What the machine's last scan saw installed. Nothing: then it has no package manager that is read, and nothing is known."""
    table = tables.machine_packages
    connection.execute(table.delete().where(table.c.machine == machine))
    if found:
        values = {"kind": kind, "package_set": _set_of(connection, found), "scan": scan, "seen": seen}
        connection.execute(table.insert().values(machine=machine, **values))


def _set_of(connection: Connection, found: Sequence[Package]) -> int:
    """Its row is locked until the transaction ends, so that it is not removed before the machine has it."""
    table = tables.package_set
    named = {_digest("\0".join(one).encode()): one for one in found}
    digest = _digest("".join(sorted(named)).encode())
    for _ in range(_TRIES):
        known = connection.execute(sa.select(table.c.id).where(table.c.digest == digest).with_for_update()).scalar()
        if known is not None:
            return int(known)
        insert = _insert(connection, table).values(digest=digest, count=len(named)).on_conflict_do_nothing()
        made = connection.execute(insert.returning(table.c.id)).scalar()
        if made is not None:  # else another result was faster with the same
            rows = [{"package": one, "package_set": made} for one in _ids(connection, named)]
            for some in chunks(rows, _ROWS):
                connection.execute(tables.package_set_item.insert(), list(some))
            return int(made)
    raise _busy()


def _ids(connection: Connection, named: dict[str, Package]) -> list[int]:
    """Of packages that may be new; sorted, so that two who insert the same wait for each other in one order."""
    table = tables.package
    found: list[int] = []
    for some in chunks(sorted(named), _ROWS):
        rows = [{"digest": one, **named[one]._asdict()} for one in some]
        for _ in range(_TRIES):
            connection.execute(_insert(connection, table).on_conflict_do_nothing(), rows)
            query = sa.select(table.c.id).where(table.c.digest.in_(some)).order_by(table.c.digest).with_for_update()
            ids = connection.execute(query).scalars().all()
            if len(ids) == len(some):  # else one was removed as nobody's, before it was locked
                break
        else:
            raise _busy()
        found += ids
    return found


def _busy() -> Refused:
    return Refused(503, "packages were removed while they were written down; send the result again")


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def holders(connection: Connection, name: str, version: str, *, after: str, limit: int) -> PackageHolders:
    """Images, and instances that are open, that have a package of this name or built from it, by key. Raises `Refused` for a cursor that is none."""
    held, instance, package = tables.machine_packages, tables.instance, tables.package
    item, gap = tables.package_set_item, tables.gap
    wanted = sa.or_(
        (package.c.name == name) & (package.c.version == version if version else sa.true()),
        (package.c.source == name) & (package.c.source_version == version if version else sa.true()),
    )
    is_open = sa.select(sa.literal(1)).where(instance.c.key == held.c.machine, instance.c.closed.is_(None)).exists()
    query = (
        sa.select(held, *(package.c[field] for field in Package._fields), package.c.id.label("number"))
        .select_from(
            held.join(item, item.c.package_set == held.c.package_set).join(package, package.c.id == item.c.package)
        )
        .where(wanted, sa.or_(held.c.kind == "image", is_open))
        .order_by(held.c.machine, package.c.id)
        .limit(limit + 1)
    )
    if after:
        machine, number = parts_of(after, str, int)
        query = query.where(sa.or_(held.c.machine > machine, (held.c.machine == machine) & (package.c.id > number)))
    rows = connection.execute(query).all()
    count = sa.select(sa.func.count())
    instances = connection.execute(count.select_from(instance).where(instance.c.closed.is_(None))).scalar_one()
    known = count.select_from(held).where(held.c.kind == "instance", is_open)
    has_gap = sa.select(sa.literal(1)).where(gap.c.instance == held.c.machine).exists()
    sets = sa.select(item.c.package_set).join(package, package.c.id == item.c.package).where(wanted)
    last = rows[limit - 1] if len(rows) > limit else None
    return PackageHolders(
        items=tuple(_out(row) for row in rows[:limit]),
        instances=instances,
        never=instances - connection.execute(known).scalar_one(),
        gaps=connection.execute(known.where(has_gap, held.c.package_set.not_in(sets))).scalar_one(),
        next=cursor(last.machine, last.number) if last is not None else None,
    )


def _out(row: Any) -> PackageHolder:
    words = {field: getattr(row, field) for field in Package._fields}
    return PackageHolder(machine=row.machine, kind=row.kind, scan=row.scan, seen=row.seen, **words)


def prune(database: Database, now: datetime) -> int:
    """Remove sets, and packages, that no machine has; how many sets that were. Machines that were closed for a day have none."""
    held, instance, table = tables.machine_packages, tables.instance, tables.package_set
    item, package = tables.package_set_item, tables.package
    closed = sa.select(instance.c.key).where(instance.c.closed < now - _UNUSED)
    unused = (
        sa.select(table.c.id)
        .where(~sa.select(held.c.machine).where(held.c.package_set == table.c.id).exists())
        .limit(_MOST_PRUNED)
    )
    gone = sa.or_(unused.exists(), sa.select(held.c.machine).where(held.c.machine.in_(closed)).exists())
    with database.read() as connection:
        if not connection.execute(sa.select(gone)).scalar():
            return 0
    with database.write() as connection:
        connection.execute(held.delete().where(held.c.machine.in_(closed)))
        locked = connection.execute(unused.with_for_update(skip_locked=True)).scalars().all()
        # asked again with the rows locked: a result may have taken one between the look and the lock
        taken = set(connection.execute(sa.select(held.c.package_set).where(held.c.package_set.in_(locked))).scalars())
        ids = [one for one in locked if one not in taken]
        connection.execute(item.delete().where(item.c.package_set.in_(ids)))
        connection.execute(table.delete().where(table.c.id.in_(ids)))
        orphans = (
            sa.select(package.c.id)
            .where(~sa.select(item.c.package).where(item.c.package == package.c.id).exists())
            .order_by(package.c.digest)
            .limit(_MOST_PRUNED * _ROWS // 100)
            .with_for_update(skip_locked=True)
        )
        connection.execute(package.delete().where(package.c.id.in_(connection.execute(orphans).scalars().all())))
    return len(ids)


def _insert(connection: Connection, table: sa.Table) -> Any:
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
