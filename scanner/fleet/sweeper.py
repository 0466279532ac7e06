"""Takes away what no live scan and no base of this installation owns, from whatever state: of the ledger, the tags, the clouds.

It needs no memory of its own. What carries the token of an attempt that has ended goes whenever it comes to light; what carries our tag and
nobody here knows of (the database was lost) goes when it has expired; what carries another's stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select

from core.errors import CloudError, ConfigError, Error
from core.estate import Place, Resource
from scanner.fleet import admission, bases, kept, leaving
from scanner.fleet.clouds import Clouds
from scanner.fleet.database import Database
from scanner.fleet.ledger import FleetLedger, places
from scanner.fleet.objects import Objects
from scanner.fleet.slots import Fence
from scanner.fleet.tables import base
from scanner.ledger import sweep


@dataclass(frozen=True, slots=True)
class Swept:
    """One thing that was deleted, would be, or could not be; with `resource` None, a place that could not be swept."""

    place: Place
    resource: Resource | None
    error: Error | None


def sweep_clouds(
    database: Database,
    fence: Fence | None,
    clouds: Clouds,
    *,
    also: Iterable[Place] = (),
    only: tuple[str, str] | None = None,
    dry_run: bool = False,
) -> Iterator[Swept]:
    """Everywhere that scans ran or the ledger names, and in `also`, of the cloud and account `only` if that is given; before, scans that nobody goes on with are put back. A place that cannot be entered does not stop the others.

    `fence` is that of the duty's slot. Raises `Unavailable`, `Fenced`.
    """
    ledger = FleetLedger(database, fence, kept.installation(database))
    if not dry_run:
        with database.write() as connection:
            if fence is not None:
                fence.guard(connection)
            admission.rescue(database, connection)
            bases.expire(database, connection)
        leaving.settle(database, fence, bases.forget_account)
    with database.read() as connection:
        cleared = {one.key for one in leaving.left(connection) if one.cleared}
        found = [place for place in places(connection) if (place.cloud, place.account) not in cleared]
        now = datetime.fromtimestamp(kept.now_ms(database, connection) / 1000, UTC)
    for place in dict.fromkeys([*found, *also]):
        if only is not None and (place.cloud, place.account) != only:
            continue
        try:
            for resource, error in sweep(ledger, clouds.enter(place), place, dry_run=dry_run, now=now):
                if fence is not None:
                    fence.check()
                if resource.id or error is not None:  # an intention of which nothing is there is no news
                    yield Swept(place, resource, error)
        except (CloudError, ConfigError) as error:
            yield Swept(place, None, error)


def sweep_objects(database: Database, fence: Fence | None, objects: Objects, *, dry_run: bool = False) -> Iterator[str]:
    """Manifests that are no base's, nor of a scan that runs. Raises `CloudError`, `Unavailable`, `Fenced`."""
    for name in list(objects.names()):
        token = name.removesuffix(bases.SUFFIX)
        if token == name:
            continue  # nothing of ours
        with database.read() as connection:  # after it was listed: it is a base's before its scan ends
            is_live = admission.is_live(connection, token)
            is_used = connection.execute(select(base.c.scan).where(base.c.object == name)).first() is not None
        if is_live or is_used:
            continue
        if fence is not None:
            fence.check()
        if not dry_run:
            objects.delete(name)
        yield name
