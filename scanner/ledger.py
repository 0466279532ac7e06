"""What scans made in clouds and have not taken away yet: one SQLite file, and a lock for each scan that is alive.

Written before the call that makes something, and safely stored when `intend` returns. Whoever finds an entry whose scan is
dead (its lock is free) deletes what it stands for: so nothing stays behind, however a scan ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, Self

from cloud import Connector
from core.errors import ConfigError, Error
from core.estate import Place, Resource
from core.sqlite import write_ahead
from core.text import printable

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS resource (
  number INTEGER PRIMARY KEY, cloud TEXT NOT NULL, account TEXT NOT NULL, region TEXT NOT NULL, kind TEXT NOT NULL,
  id TEXT NOT NULL, token TEXT NOT NULL, installation TEXT NOT NULL, expires TEXT NOT NULL, of TEXT NOT NULL,
  kept INTEGER NOT NULL DEFAULT 0, made TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS installation (name TEXT NOT NULL);
"""
_COLUMNS: Final = "cloud, account, region, kind, id, token, installation, expires, of"
_BUSY_SECONDS: Final = 30.0
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
LISTED_SECONDS: Final = 900.0  # clouds list late: an intention of which nothing is seen is looked for again until then


class FileLedger:
    """See `cloud.Ledger`. Several processes may use one folder at once. Raises `ConfigError` if it cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shown = printable(str(folder))
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / "ledger.sqlite"
            self._connection = sqlite3.connect(
                path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False
            )
            path.chmod(0o600)
            write_ahead(self._connection, _BUSY_SECONDS)
            self._connection.execute("PRAGMA synchronous=FULL")  # what is intended must survive a power cut
            self._connection.executescript(_SCHEMA)
            self.installation = self._named()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"{shown}: cannot keep the ledger there ({error}); give another folder with --data"
            ) from error

    def _named(self) -> str:
        """The name by which all that is ours is tagged; made up once."""
        with self._transaction() as connection:
            found = connection.execute("SELECT name FROM installation").fetchone()
            if found is None:
                found = (f"kumomori-{secrets.token_hex(6)}",)
                connection.execute("INSERT INTO installation VALUES (?)", found)
        return str(found[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # on a full disk SQLite may have ended it by itself
                self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # cloud.Ledger

    def intend(self, resource: Resource) -> None:
        with self._stored() as connection:
            self._insert(connection, resource)

    @staticmethod
    def _insert(connection: sqlite3.Connection, resource: Resource) -> None:
        connection.execute(
            f"INSERT INTO resource ({_COLUMNS}, made) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  names of ours
            (*_values(resource), datetime.now(UTC).isoformat()),
        )

    def made(self, resource: Resource) -> None:
        place = resource.place
        with self._stored() as connection:
            done = connection.execute(
                "UPDATE resource SET id = ? WHERE number = (SELECT number FROM resource WHERE cloud = ? AND account = ? AND "
                "region = ? AND kind = ? AND token = ? AND of = ? AND id = '' LIMIT 1)",
                (resource.id, place.cloud, place.account, place.region, resource.kind, resource.token, resource.of),
            ).rowcount
            if (
                not done
                and not connection.execute(
                    "SELECT 1 FROM resource WHERE kind = ? AND token = ? AND id = ?",
                    (resource.kind, resource.token, resource.id),
                ).fetchone()
            ):
                self._insert(connection, resource)  # never intended: remembered all the same

    def gone(self, resource: Resource) -> None:
        place = resource.place
        with self._stored() as connection:
            connection.execute(
                "DELETE FROM resource WHERE cloud = ? AND account = ? AND region = ? AND kind = ? AND token = ? AND "
                "(id = ? OR (id = '' AND of = ?))",
                (place.cloud, place.account, place.region, resource.kind, resource.token, resource.id, resource.of),
            )
        if not self.is_alive(resource.token):
            self.forget_lock(resource.token)

    @contextmanager
    def _stored(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._transaction() as connection:
                yield connection
        except sqlite3.Error as error:
            raise ConfigError(
                f"{printable(str(self._folder))}: the ledger cannot be written ({error}); make room or give another folder"
            ) from error

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection
        except sqlite3.Error as error:
            raise ConfigError(
                f"{printable(str(self._folder))}: the ledger cannot be read ({error}); repair it or give another folder "
                "with --data: then what scans left is not swept"
            ) from error

    # what is in it

    def entries(self, place: Place | None = None, *, kept: bool = False) -> list[Resource]:
        """All that is written down, of one place if given; without what was kept on purpose, or just that."""
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM resource WHERE kept = ? ORDER BY number",  # noqa: S608  names of ours
                (int(kept),),
            ).fetchall()
        found = [_resource(row) for row in rows]
        return [one for one in found if place is None or one.place == place]

    def keep(self, resource: Resource) -> None:
        """It stays, as the base of a later scan, until somebody deletes it."""
        with self._stored() as connection:
            connection.execute("UPDATE resource SET kept = 1 WHERE id = ? AND token = ?", (resource.id, resource.token))

    def unkeep(self, place: Place) -> None:
        """What was kept there is wanted no more."""
        with self._stored() as connection:
            connection.execute(
                "UPDATE resource SET kept = 0 WHERE cloud = ? AND account = ? AND region = ?",
                (place.cloud, place.account, place.region),
            )

    # Memory

    def dead(self, place: Place) -> list[Resource]:
        left = [one for one in self.entries(place) if not self.is_alive(one.token)]
        still = set(self.entries(place))  # one that ended meanwhile may have kept what it made
        return [one for one in left if one in still]

    def is_abandoned(self, resource: Resource, now: datetime) -> bool:
        if self.is_alive(resource.token) or resource.id in self.kept_ids():  # in this order: what ends may keep it
            return False
        return resource.expires <= now or any(one.token == resource.token for one in self.entries(resource.place))

    def is_settled(self, resource: Resource, now: datetime) -> bool:
        return self.age_seconds(resource, now) > LISTED_SECONDS

    def age_seconds(self, resource: Resource, now: datetime) -> float:
        """Since it was intended."""
        with self._read() as connection:
            row = connection.execute(
                "SELECT min(made) FROM resource WHERE token = ? AND of = ? AND id = ?",
                (resource.token, resource.of, resource.id),
            ).fetchone()
        return (now - datetime.fromisoformat(row[0])).total_seconds() if row and row[0] else float("inf")

    def kept_ids(self) -> set[str]:
        with self._read() as connection:
            return {str(row[0]) for row in connection.execute("SELECT id FROM resource WHERE kept")}

    # who is alive

    @contextmanager
    def scan(self, token: str) -> Iterator[None]:
        """While this lasts, nobody takes away what carries `token`."""
        try:
            fd = os.open(self._lock(token), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"{printable(str(self._folder))}: a scan cannot be locked there ({error.strerror}); give another folder "
                "with --data"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            with suppress(ConfigError):  # of a ledger that cannot be read: the report counts more
                self.forget_lock(token)
            os.close(fd)

    def _lock(self, token: str) -> Path:
        """A token may come from a tag, where anybody may write anything."""
        if not _PLAIN.fullmatch(token):
            token = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"scan-{token}.lock"

    def is_alive(self, token: str) -> bool:
        try:
            fd = os.open(self._lock(token), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(fd)

    def forget_lock(self, token: str) -> None:
        if not any(one.token == token for one in self.entries()):
            self._lock(token).unlink(missing_ok=True)


def _values(resource: Resource) -> tuple[str, ...]:
    place = resource.place
    return (
        *(place.cloud, place.account, place.region, resource.kind, resource.id, resource.token),
        *(resource.installation, resource.expires.isoformat(), resource.of),
    )


def _resource(row: tuple[str, ...]) -> Resource:
    cloud, account, region, kind, id_, token, installation, expires, of = row
    return Resource(Place(cloud, account, region), kind, id_, token, installation, datetime.fromisoformat(expires), of)


class Memory(Protocol):
    """What a sweeper knows of what was made. All of it is asked anew for each resource: scans begin and end meanwhile."""

    def dead(self, place: Place) -> list[Resource]:
        """What is written down there and is needed by nobody: its scan has ended, and it was not kept."""
        ...

    def is_abandoned(self, resource: Resource, now: datetime) -> bool:
        """Whether nobody needs what the cloud says is there. Asked after it was listed."""
        ...

    def is_settled(self, resource: Resource, now: datetime) -> bool:
        """Of an intention: what came of it would be listed by now."""
        ...

    def gone(self, resource: Resource) -> None: ...


def sweep(
    ledger: Memory, connector: Connector, place: Place, *, dry_run: bool = False, now: datetime | None = None
) -> Iterator[tuple[Resource, Error | None]]:
    """Delete what dead scans left in `place`: what the ledger knows of, and what carries our tag and has expired.

    Yields each resource, with the error if it could not be deleted (it is then tried again next time). Raises `CloudError`
    if what carries our tag cannot be listed.
    """
    now = now or datetime.now(UTC)
    left = ledger.dead(place)
    ids = {one.id for one in left if one.id}
    left += [one for one in connector.owned() if one.id not in ids and ledger.is_abandoned(one, now)]
    for one in left:
        if dry_run:
            yield one, None
            continue
        try:
            connector.delete(one)
        except Error as error:
            yield one, error
            continue
        if one.id or ledger.is_settled(one, now):
            ledger.gone(one)
        yield one, None
