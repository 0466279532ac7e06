"""The estate as fleets see it: what was listed is compared by digests, and only what differs is sent and written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from client.digest import digest
from client.model import ENDED, Compare, Compared, ScanState, Sighting
from console.clock import ASTRAY
from console.problems import Refused
from console.store import orders, tables
from console.store.database import Database
from console.store.paging import chunks
from core.estate import Instance, InstanceState, Place
from core.text import printable

INSTANCE: Final = TypeAdapter(Instance)
_TERMINATED: Final = InstanceState.TERMINATED.value
_MOST_KEY: Final = 512
_MOST_NAME: Final = 63
_MOST_SEARCH: Final = 2_000
_MOST_DOCUMENT_BYTES: Final = (
    256 << 10
)  # one of AWS with all disks, tags and addresses that it may have takes about 100 KB
_VANISHED: Final = "the machine is not there any more"


@dataclass
class Told:
    """What came of a sighting: keys that are new or differ, and fleets that have new orders."""

    changed: set[str] = field(default_factory=set)
    fleets: set[str] = field(default_factory=set)


def compare(database: Database, fleet: str, listing: Compare, now: datetime) -> tuple[Compared, set[str]]:
    """Which instances differ or are not known, and how many were closed; then the fleets that have new orders.

    Rows of instances are written only where one vanished. An older listing than the last whole one closes nothing: it comes late.
    Raises `Refused`: 404 or 403 for an account that is not this fleet's.
    """
    place = listing.place
    listed = min(listing.listed, now)
    with database.read() as connection:
        _own(connection, fleet, [place])
        known = connection.execute(
            sa.select(
                tables.instance.c.id,
                tables.instance.c.key,
                tables.instance.c.digest,
                tables.instance.c.state,
                tables.instance.c.closed.is_(None),
                tables.instance.c.last_seen,
            ).where(*_in(tables.instance, place))
        ).all()
        last = connection.execute(sa.select(tables.place.c.reconciled).where(*_in(tables.place, place))).scalar()
    late = last is not None and listed < last <= now + ASTRAY
    digests = listing.digests
    current: set[str] = set()
    vanished = []
    for id_, key, seen_digest, state, is_open, last_seen in known:
        given = digests.get(id_)
        if given is None:
            if is_open and not listed <= last_seen <= now + ASTRAY:
                vanished.append(key)
        elif given == seen_digest and (is_open or state == _TERMINATED):
            current.add(id_)
    wanted = tuple(id_ for id_ in digests if id_ not in current)
    told: set[str] = set()
    closed = 0
    with database.write() as connection:
        if listing.complete and not late:
            keys, told = close(connection, vanished, now, before=listed, seen=last)
            closed = len(keys)
        _place_seen(connection, listing, listed, complete=listing.complete and not late)
    return Compared(wanted=wanted, closed=closed), told


def _place_seen(connection: Connection, listing: Compare, listed: datetime, *, complete: bool) -> None:
    table = tables.place
    values: dict[str, Any] = {"problem": listing.problem}
    if complete:
        values["reconciled"] = listed
    place = listing.place
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    connection.execute(
        insert.values(cloud=place.cloud, account=place.account, region=place.region, **values).on_conflict_do_update(
            index_elements=["cloud", "account", "region"], set_=values
        )
    )


def sight(database: Database, fleet: str, sighting: Sighting, now: datetime) -> Told:
    """Write down instances as they are now. One that is terminated is closed; one that was closed and is there again is opened.

    Raises `Refused`: 404 or 403 for an account that is not this fleet's, 422 for names that are none.
    """
    seen = min(sighting.seen, now)
    rows = {str(instance): _row(instance, seen) for instance in sighting.instances}
    told = Told()
    with database.write() as connection:
        _own(connection, fleet, [instance.place for instance in sighting.instances])
        table = tables.instance
        known = {
            row.key: row
            for row in connection.execute(
                sa.select(table.c.key, table.c.digest, table.c.closed, table.c.last_seen)
                .where(table.c.key.in_(list(rows)))
                .order_by(table.c.key)
                .with_for_update()
            )
        }
        new, again, same = [], [], []
        for key in sorted(rows):
            old = known.get(key)
            if old is None:
                new.append(rows[key])
            elif seen < old.last_seen <= now + ASTRAY:
                continue  # an older sighting that comes late
            elif old.digest == rows[key]["digest"] and (old.closed is None or rows[key]["state"] == _TERMINATED):
                same.append(key)
            else:
                again.append(rows[key])
        _upsert(connection, new)
        _upsert(connection, again)
        for some in chunks(same):
            is_older = (table.c.key.in_(some), table.c.last_seen < seen)
            connection.execute(table.update().where(*is_older).values(last_seen=seen))
        told.changed = {row["key"] for row in (*new, *again)}
        gone = [row["key"] for row in (*new, *again) if row["state"] == _TERMINATED]
        if gone:
            _, told.fleets = close(connection, gone, now)
    return told


def _upsert(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Open, with what is known now; `first_seen` stays if somebody wrote the row in between."""
    if not rows:
        return
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(tables.instance)
    values: dict[str, Any] = {name: insert.excluded[name] for name in rows[0] if name not in {"key", "first_seen"}}
    kept = tables.instance.c.last_seen
    values["last_seen"] = sa.case((insert.excluded.last_seen > kept, insert.excluded.last_seen), else_=kept)
    connection.execute(
        insert.on_conflict_do_update(index_elements=["key"], set_={**values, "closed": None}), list(rows)
    )


def close(
    connection: Connection,
    keys: Sequence[str],
    now: datetime,
    *,
    before: datetime | None = None,
    seen: datetime | None = None,
) -> tuple[list[str], set[str]]:
    """Close instances that are open (and, with `before`, were last seen before it), and stop their scans.

    `seen`: when their place was last listed whole, with them in it. The keys that were closed, and the fleets that have new orders.
    """
    table = tables.instance
    closed: list[str] = []
    for some in chunks(sorted(keys)):
        conditions: list[sa.ColumnElement[bool]] = [table.c.key.in_(some), table.c.closed.is_(None)]
        if before is not None:
            conditions.append(sa.or_(table.c.last_seen < before, table.c.last_seen > now + ASTRAY))
        last_seen = table.c.last_seen
        if seen is not None:
            last_seen = sa.case((table.c.last_seen < seen, seen), else_=table.c.last_seen)  # type: ignore[assignment]
        closed.extend(
            connection.execute(
                table.update()
                .where(*conditions)
                .values(closed=now, next_scan=None, changed=True, last_seen=last_seen)
                .returning(table.c.key)
            ).scalars()
        )
    return closed, stop_scans_of(connection, closed, ScanState.GONE, _VANISHED, now)


def stop_scans_of(
    connection: Connection, machines: Sequence[str], end: ScanState, detail: str, now: datetime
) -> set[str]:
    """The fleets that have new orders."""
    scans: list[str] = []
    for some in chunks(machines):
        scans.extend(
            connection.execute(
                sa.select(tables.scan.c.id).where(tables.scan.c.machine.in_(some), tables.scan.c.state.not_in(ENDED))
            ).scalars()
        )
    told: set[str] = set()
    for some in chunks(scans):
        told |= orders.stop(connection, some, end, detail, now)
    return told


def _in(table: sa.Table, place: Place) -> tuple[sa.ColumnElement[bool], ...]:
    return (table.c.cloud == place.cloud, table.c.account == place.account, table.c.region == place.region)


def _own(connection: Connection, fleet: str, places: Iterable[Place]) -> None:
    wanted = {(checked(place.cloud, _MOST_NAME), checked(place.account, _MOST_NAME)) for place in places}
    for place in places:
        checked(place.region, _MOST_NAME)
    table = tables.account
    for cloud, account in sorted(wanted):
        owner = connection.execute(
            sa.select(table.c.fleet).where(table.c.cloud == cloud, table.c.account == account)
        ).scalar()
        if owner is None:
            raise Refused(404, f"no account {cloud}://{account} is enrolled")
        if owner != fleet:
            raise Refused(403, f"the account {cloud}://{account} is not this fleet's")


def checked(text: str, most: int = _MOST_KEY) -> str:
    """A name that a database, a log and an address can hold. Raises `Refused` (422)."""
    if len(text) > most or not text.isprintable():
        raise Refused(
            422, f"a name of {len(text)} characters, or with characters that cannot be printed: {text[:80]!r}"
        )
    return text


def _row(instance: Instance, seen: datetime) -> dict[str, Any]:
    if instance.launched is not None and instance.launched.tzinfo is None:
        raise Refused(422, "launched: a time without an offset")
    key = checked(str(instance))
    if not instance.id:
        raise Refused(422, "an instance without an id")
    document = INSTANCE.dump_python(instance, mode="json")
    if (size := len(json.dumps(document))) > _MOST_DOCUMENT_BYTES:
        raise Refused(422, f"an instance of {size:,} bytes; at most {_MOST_DOCUMENT_BYTES:,} are taken")
    return {
        "key": key,
        "cloud": instance.place.cloud,
        "account": instance.place.account,
        "region": instance.place.region,
        "id": checked(instance.id),
        "name": instance.name,
        "search": printable(f"{key} {instance.name}").lower()[:_MOST_SEARCH],
        "state": instance.state.value,
        "image": checked(instance.image),
        "digest": digest(instance),
        "document": document,
        "launched": instance.launched,
        "first_seen": seen,
        "last_seen": seen,
        "changed": True,
    }
