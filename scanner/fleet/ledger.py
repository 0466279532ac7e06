"""The ledger in the fleet's database: what scans made in clouds and have not taken away yet. See `cloud.Ledger`.

As `scanner.ledger`, but a scan is alive while its row says that this attempt runs, wherever its worker is. Each change is fenced: what
a worker that lost its slot would write is not written.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, and_, delete, func, insert, not_, or_, select, update

from core.estate import Place, Resource
from scanner.fleet import admission, evidence, kept
from scanner.fleet.database import Database
from scanner.fleet.slots import Fence
from scanner.fleet.tables import resource as table
from scanner.fleet.tables import scan

LISTED_SECONDS: Final = (
    900.0  # clouds list late: what may come to light is looked for until so long after the end of its scan
)


class FleetLedger:
    """What a worker writes, or with `fence` None the sweeper. All methods raise `Unavailable`; with a fence, `Fenced`."""

    def __init__(self, database: Database, fence: Fence | None, installation: str) -> None:
        self._database = database
        self._fence = fence
        self.installation = installation

    def _guard(self, connection: Connection) -> None:
        if self._fence is not None:
            self._fence.guard(connection)

    # cloud.Ledger

    def intend(self, resource: Resource, size_bytes: int = 0) -> None:
        """Again the same is no second intention: a step that runs again makes the same."""
        with self._database.write() as connection:
            self._guard(connection)
            if (
                connection.execute(select(table.c.number).where(*_same(resource), table.c.of == resource.of)).first()
                is None
            ):
                connection.execute(insert(table).values(**self._row(connection, resource, size_bytes)))

    def made(self, resource: Resource) -> None:
        with self._database.write() as connection:
            self._guard(connection)
            known = select(table.c.number, table.c.id).where(*_same(resource), table.c.of == resource.of)
            rows = connection.execute(known).all()
            if any(row.id == resource.id for row in rows):
                return
            open_ = [row.number for row in rows if not row.id]
            if open_:
                connection.execute(update(table).where(table.c.number == min(open_)).values(id=resource.id))
            else:  # never intended, or a second one: remembered all the same
                connection.execute(insert(table).values(**self._row(connection, resource, 0)))

    def gone(self, resource: Resource) -> None:
        with self._database.write() as connection:
            self._guard(connection)
            connection.execute(
                delete(table).where(
                    *_same(resource),
                    or_(table.c.id == resource.id, (table.c.id == "") & (table.c.of == resource.of)),
                )
            )

    def _row(self, connection: Connection, resource: Resource, size_bytes: int) -> dict[str, Any]:
        place = resource.place
        return {
            "cloud": place.cloud,
            "account": place.account,
            "region": place.region,
            "kind": resource.kind,
            "id": resource.id,
            "token": resource.token,
            "installation": resource.installation,
            "expires_ms": int(resource.expires.timestamp() * 1000),
            "of": resource.of,
            "size_bytes": size_bytes,
            "made_ms": self._database.now_ms(connection),
        }

    def of_token(self, token: str) -> list[Resource]:
        """What was made or intended for it, without what is kept."""
        with self._database.read() as connection:
            free = (table.c.kept_for.is_(None), evidence.is_free(kept.now_ms(self._database, connection)))
            found = select(table).where(table.c.token == token, *free).order_by(table.c.number)
            return [to_resource(row) for row in connection.execute(found).all()]

    # scanner.ledger.Memory

    def dead(self, place: Place) -> list[Resource]:
        """In one transaction: what ends may keep what it made in the same one in which it ends."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(table)
                .where(
                    table.c.cloud == place.cloud,
                    table.c.account == place.account,
                    table.c.region == place.region,
                    table.c.kept_for.is_(None),
                    evidence.is_free(kept.now_ms(self._database, connection)),
                )
                .order_by(table.c.number)
            ).all()
            tokens = {row.token: admission.is_live(connection, row.token) for row in rows}
        return [to_resource(row) for row in rows if not tokens[row.token]]

    def is_abandoned(self, resource: Resource, now: datetime) -> bool:
        """What carries the token of an attempt that has ended, or that nobody here knows of and has expired."""
        scan_id, _ = admission.scan_of(resource.token)
        with self._database.read() as connection:
            free = and_(table.c.kept_for.is_(None), evidence.is_free(kept.now_ms(self._database, connection)))
            is_kept = select(table.c.number).where(table.c.id == resource.id, not_(free))
            if admission.is_live(connection, resource.token) or connection.execute(is_kept).first() is not None:
                return False
            known = connection.execute(select(scan.c.id).where(scan.c.id == scan_id)).first() is not None
        return known or resource.expires <= now

    def is_settled(self, resource: Resource, now: datetime) -> bool:
        """Long enough after its scan ended; of a scan that is not known, after it was intended."""
        scan_id, _ = admission.scan_of(resource.token)
        with self._database.read() as connection:
            row = connection.execute(select(scan.c.ended_ms, scan.c.progress_ms).where(scan.c.id == scan_id)).first()
            made = connection.execute(
                select(func.max(table.c.made_ms)).where(*_same(resource), table.c.of == resource.of)
            ).scalar_one_or_none()
            clock = kept.now_ms(self._database, connection)
        since = (row.ended_ms or row.progress_ms if row is not None else None) or made or 0
        _ = now
        return bool(clock - since > LISTED_SECONDS * 1000)


def _same(resource: Resource) -> tuple[Any, ...]:
    place = resource.place
    return (
        table.c.cloud == place.cloud,
        table.c.account == place.account,
        table.c.region == place.region,
        table.c.kind == resource.kind,
        table.c.token == resource.token,
    )


def to_resource(row: Any) -> Resource:
    """A row of the ledger as the noun."""
    expires = datetime.fromtimestamp(row.expires_ms / 1000, UTC)
    place = Place(row.cloud, row.account, row.region)
    return Resource(place, row.kind, row.id, row.token, row.installation, expires, row.of)


def places(connection: Connection) -> list[Place]:
    """Everywhere that something of ours may be: what the ledger names, and where scans ran."""
    named = select(table.c.cloud, table.c.account, table.c.region)
    ran = select(scan.c.cloud, scan.c.account, scan.c.region).where(scan.c.attempt > 0)
    return [Place(*row) for row in connection.execute(named.union(ran)).all() if row.cloud != "file"]
