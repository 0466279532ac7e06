"""What the next scan of a machine begins from: the manifest of the last one, and the snapshots that it was made of.

A base is kept in one transaction, in which those that it replaces are given up: what was theirs is then nobody's, and the release
of that scan or the sweeper deletes it. So a worker may die anywhere, and there is always one whole base or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import Connection, delete, func, select, update

from client.model import ScanKind, ScanOrder
from core.estate import Image, Resource, Snapshot, SnapshotState
from scanner.fleet import evidence, kept
from scanner.fleet.clouds import usd_month
from scanner.fleet.database import Database
from scanner.fleet.ledger import to_resource
from scanner.fleet.tables import base, resource

_DAY_SECONDS: Final = 86_400
UNUSED_SECONDS: Final = 45 * _DAY_SECONDS  # without a word of the policy: one that no scan has used for so long goes
_MOST_AGE_SECONDS: Final = 100 * 365 * _DAY_SECONDS
_MOST_KEPT: Final = 1000
SUFFIX: Final = ".manifest"  # of the names of objects, after the token
_SNAPSHOTS: Final = TypeAdapter(tuple[Snapshot, ...])


@dataclass(frozen=True, slots=True)
class Base:
    scan: str
    machine: str
    object: str
    snapshots: tuple[Snapshot, ...]


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What is nobody's any more: resources in clouds and names of objects."""

    resources: tuple[Resource, ...] = ()
    objects: tuple[str, ...] = ()


def slim(snapshots: Sequence[Snapshot]) -> tuple[Snapshot, ...]:
    """Without what anybody may have written on them, and what changes."""
    return tuple(replace(one, tags={}, description="", detail=one.detail[:1000]) for one in snapshots)


def to_json(snapshots: Sequence[Snapshot]) -> Any:
    return _SNAPSHOTS.dump_python(slim(snapshots), mode="json")


def from_json(value: Any) -> tuple[Snapshot, ...]:
    return _SNAPSHOTS.validate_python(value)


def wanted(order: ScanOrder) -> bool:
    """Whether this scan may begin from a base."""
    return not order.full and order.settings.get("scan.depth") != "full" and order.place.cloud != "file"


def choose(database: Database, connection: Connection, order: ScanOrder) -> Base | None:
    """The last base of the machine; for one that has none, that of its image: what changed since is what was done to it."""
    if not wanted(order):
        return None
    found = _last(database, connection, order.machine)
    if found is None and order.kind is ScanKind.INSTANCE and order.image:
        found = _last(database, connection, str(Image(order.place, order.image)))
    return found


def _last(database: Database, connection: Connection, machine: str) -> Base | None:
    row = connection.execute(
        select(base)
        .where(base.c.machine == machine, base.c.expires_ms > kept.now_ms(database, connection))
        .order_by(base.c.made_ms.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    return Base(row.scan, row.machine, row.object, _SNAPSHOTS.validate_json(row.snapshots))


def is_whole(order: ScanOrder, snapshots: Sequence[Snapshot]) -> bool:
    """Whether what was scanned can be a base, and the policy wants one. Disks without a snapshot are no part of it."""
    there = [one for one in snapshots if one.id]
    ready = bool(there) and all(one.state is SnapshotState.READY for one in there)
    return ready and order.place.cloud != "file" and (order.kind is ScanKind.IMAGE or _keep(order.settings) > 0)


def keep(
    database: Database,
    connection: Connection,
    order: ScanOrder,
    token: str,
    name: str,
    snapshots: Sequence[Snapshot],
    manifest_bytes: int,
) -> GivenUp:
    """Let what was made for `token` be the base of the next scan. A second time, nothing more happens.

    Snapshots of an image are not ours: only its manifest is kept.
    """
    now = kept.now_ms(database, connection)
    ours = order.kind is not ScanKind.IMAGE
    there = [one for one in snapshots if one.id]
    sizes = [one.size_bytes for one in there] if ours else []
    row = {
        "scan": order.scan,
        "machine": order.machine,
        "object": name,
        "snapshots": _SNAPSHOTS.dump_json(slim(there)).decode(),
        "made_ms": now,
        "expires_ms": now + _age_seconds(order) * 1000,
        "bytes": sum(sizes) + manifest_bytes,
        "usd_month": usd_month(order.place.cloud, sizes),
    }
    # The last one is the last, also if the clock has been set back since the one before.
    made = select(func.coalesce(func.max(base.c.made_ms), 0)).where(base.c.machine == order.machine)
    row["made_ms"] = max(now, connection.execute(made).scalar_one() + 1)
    before = connection.execute(
        select(base.c.scan, base.c.object).where(base.c.scan == order.scan, base.c.object != name)
    ).all()
    given_up = _give_up(connection, before)  # of an earlier attempt, which was thought dead
    database.insert_missing(connection, base, [row])
    if ours:
        connection.execute(
            update(resource)
            .where(resource.c.token == token, resource.c.id.in_([one.id for one in there]))
            .values(kept_for=order.scan)
        )
    most = max(1, _keep(order.settings))
    old = connection.execute(
        select(base.c.scan, base.c.object)
        .where(base.c.machine == order.machine)
        .order_by((base.c.scan == order.scan).desc(), base.c.made_ms.desc())
        .offset(most)
    ).all()
    older = _give_up(connection, old)
    return GivenUp(given_up.resources + older.resources, given_up.objects + older.objects)


def unwanted(connection: Connection, order: ScanOrder) -> GivenUp:
    """What was kept of a machine of which the policy does not want a base any more."""
    keeps = order.kind is ScanKind.IMAGE or order.place.cloud == "file" or _keep(order.settings) > 0
    return GivenUp() if keeps else forget(connection, order.machine)


def kept_by(connection: Connection, scan_id: str) -> tuple[Snapshot, ...]:
    """The snapshots of the base that this scan has left."""
    found = connection.execute(select(base.c.snapshots).where(base.c.scan == scan_id)).scalar_one_or_none()
    return () if found is None else _SNAPSHOTS.validate_json(found)


def forget(connection: Connection, machine: str) -> GivenUp:
    """The machine is gone: nothing begins from its bases any more."""
    return _give_up(
        connection, connection.execute(select(base.c.scan, base.c.object).where(base.c.machine == machine)).all()
    )


def forget_account(connection: Connection, cloud: str, account: str) -> GivenUp:
    """The fleet is to leave the account: nothing begins from what is kept there any more."""
    theirs = base.c.machine.startswith(f"{cloud}://{account}/", autoescape=True)
    return _give_up(connection, connection.execute(select(base.c.scan, base.c.object).where(theirs)).all())


def expire(database: Database, connection: Connection) -> GivenUp:
    """Those that the policy has let grow too old."""
    old = select(base.c.scan, base.c.object).where(base.c.expires_ms <= kept.now_ms(database, connection))
    return _give_up(connection, connection.execute(old.limit(1000)).all())


def total(connection: Connection) -> tuple[int, float]:
    """How many bases there are, and what all of them cost a month in US dollars."""
    row = connection.execute(select(func.count(), func.coalesce(func.sum(base.c.usd_month), 0.0))).one()
    return int(row[0]), float(row[1])


def _give_up(connection: Connection, rows: Sequence[Any]) -> GivenUp:
    scans = [row.scan for row in rows]
    if not scans:
        return GivenUp()
    theirs = resource.c.kept_for.in_(scans)
    found = tuple(to_resource(row) for row in connection.execute(select(resource).where(theirs)).all())
    connection.execute(update(resource).where(theirs).values(kept_for=None))
    connection.execute(delete(base).where(base.c.scan.in_(scans)))
    return GivenUp(found, tuple(row.object for row in rows))


def lifetime_seconds(order: ScanOrder) -> int:
    """How long what is made for this scan may be needed: a day for the scan, and as long as it may be a base or evidence after that.

    It stands in the tag `kumomori:expires`, so that who knows only of tags takes neither away.
    """
    if order.kind is not ScanKind.INSTANCE:
        return _DAY_SECONDS
    age = _age_seconds(order) if _keep(order.settings) > 0 else 0
    return _DAY_SECONDS + max(age, evidence.keep_seconds(order))


def _age_seconds(order: ScanOrder) -> int:
    found = order.settings.get("base_snapshots.max_age_seconds")
    return min(max(found, 0), _MOST_AGE_SECONDS) if isinstance(found, int) else UNUSED_SECONDS


def _keep(settings: Mapping[str, Any]) -> int:
    found = settings.get("base_snapshots.keep", 1)
    return min(found, _MOST_KEPT) if isinstance(found, int) else 1
