"""Verdicts on contents, kept for later scans and for other machines: content that was searched once is not searched again.

Only content decides: the key is its SHA-256 and size, with the engine and the options that mattered. What a scan learnt is
written by the parent process alone, after the parser ended cleanly, and can be revoked by machine, scan or time.
docs/verdicts.md says how to use it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from core.text import printable
from scanner.lookup import CLEAN, KEY_BYTES, FoundMessage, Verdict
from scanner.verdicts.store import Damaged, Store, load_json

__all__ = ["Generation", "Provenance", "Session", "Stats", "VerdictCache"]

_ROWS_AT_ONCE: Final = 2000  # in one transaction: others are waiting
_SUM_BYTES: Final = 8
_DAY_SECONDS: Final = 86400
_MAX_FINDINGS_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Generation:
    """The rules of a scan: rule file (namespace) to hex digest of its source."""

    namespaces: Mapping[str, str]

    @cached_property
    def id(self) -> str:
        digest = hashlib.sha256()
        for name, source in sorted(self.namespaces.items()):
            for part in (name.encode("utf-8", "surrogatepass"), source.encode()):
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()


@dataclass(frozen=True)
class Provenance:
    """Where verdicts come from; `time` is when the scan began, with a time zone."""

    scan: str
    machine: str
    time: datetime


@dataclass(frozen=True)
class Stats:
    """`machines` are (name, verdicts), the most first. Times are UTC, None without verdicts."""

    verdicts: int
    bytes: int
    generations: int
    scans: int
    oldest: datetime | None
    newest: datetime | None
    machines: Sequence[tuple[str, int]]


class VerdictCache:
    """Verdicts in a folder. After any failure of the folder the scan goes on without it; `warn` is told."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    def open(cls, folder: Path, *, most_bytes: int = 1 << 30, warn: Callable[[str], None]) -> VerdictCache:
        """Makes the folder if it is not there. Raises `ConfigError` if it cannot be used or holds something else."""
        return cls(Store(folder, most_bytes, warn))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()

    def session(self, engine: str, options: str, generation: Generation, provenance: Provenance) -> Session:
        return Session(self._store, engine, options, generation, provenance)

    def revoke(
        self,
        *,
        machine: str | None = None,
        scan: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """Forget the verdicts of a machine, of a scan, or of scans that began in a time; returns how many.

        All given criteria must hold. A scan under way that they fit keeps what it records to itself. Raises `ValueError` if
        none is given.
        """
        if machine is None and scan is None and since is None and until is None:
            raise ValueError("nothing says what to revoke")
        times = [None if one is None else one.timestamp() for one in (since, until)]
        values = (None if machine is None else printable(machine), scan, *times)
        connection = self._store.connection
        if connection is None:
            return 0
        with _guarded(self._store):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO revoked VALUES (?, ?, ?, ?, ?)", (*values, time.time()))
            gone = connection.execute(
                "DELETE FROM verdict WHERE scan IN (SELECT id FROM scan WHERE machine = coalesce(?1, machine) AND "
                "uuid = coalesce(?2, uuid) AND time >= coalesce(?3, time) AND time <= coalesce(?4, time))",
                values,
            ).rowcount
            connection.execute("COMMIT")
            return gone
        return 0

    def trim(self, most_bytes: int) -> int:
        """Forget what was not used for the longest time; returns how many."""
        with _guarded(self._store):
            return self._store.trim(most_bytes) if self._store.connection else 0
        return 0

    def is_empty(self) -> bool:
        with _guarded(self._store):
            connection = self._store.connection
            return connection is None or connection.execute("SELECT 1 FROM verdict LIMIT 1").fetchone() is None
        return True

    def stats(self) -> Stats:
        connection = self._store.connection
        if connection is not None:
            with _guarded(self._store):
                counts = [
                    connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608  names of ours
                    for table in ("verdict", "generation", "scan")
                ]
                oldest, newest = connection.execute("SELECT min(time), max(time) FROM scan").fetchone()
                machines = connection.execute(
                    "SELECT machine, count(*) FROM verdict JOIN scan ON scan.id = verdict.scan "
                    "GROUP BY machine ORDER BY 2 DESC, 1 LIMIT 20"
                ).fetchall()
                if not all(isinstance(name, str) for name, _ in machines):
                    raise Damaged("a machine's name is no text")
                ends = [None if one is None else datetime.fromtimestamp(one, UTC) for one in (oldest, newest)]
                return Stats(counts[0], self._store.size_bytes(), counts[1], counts[2], ends[0], ends[1], machines)
        return Stats(0, 0, 0, 0, None, None, ())


# what Python says to a value of another type or size than was written: SQLite keeps the type with each value
_STRANGE: Final = (TypeError, ValueError, OverflowError, AttributeError)


class _guarded:  # noqa: N801  reads as a statement
    """Turns damage into a dropped cache, and a lock or a full disk into a warning; the block then simply ends."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if error is None:
            return False
        store = self._store
        if isinstance(error, sqlite3.OperationalError) and store.is_no_damage(error):
            store.warn(f"the cache cannot be used just now, the scan goes on without it: {error}")
            store.close()
            return True
        if isinstance(error, (Damaged, sqlite3.DatabaseError, *_STRANGE)):
            store.drop(str(error))
            return True
        if isinstance(error, OSError):
            store.warn(f"the cache cannot be used just now, the scan goes on without it: {error}")
            store.close()
            return True
        return False


class Session:
    """One scan's use of the cache: looks verdicts up, and keeps new ones to itself until `commit`."""

    def __init__(self, store: Store, engine: str, options: str, generation: Generation, provenance: Provenance) -> None:
        self._store = store
        self._engine = engine
        self._options = options
        self._generation = generation
        # a path may hold any bytes; the name is what `show` prints, which is what `revoke` is given
        self._provenance = replace(provenance, machine=printable(provenance.machine))
        self._room = 2 * store.most_bytes  # for what is recorded: more of it would not fit in the end
        self._began = time.time()
        self._today = int(self._began) // _DAY_SECONDS
        self._lost = False
        self._context: int | None = None
        self._known: dict[int, tuple[bytes, frozenset[str], frozenset[str]]] = {}
        self._current = -1
        self._looked_up = self._hit = 0
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        self._hits = tempfile.TemporaryFile()  # noqa: SIM115
        self.knows_generation = False
        with _guarded(store):
            self._begin()

    def _begin(self) -> None:
        connection = self._store.connection
        if connection is None:
            return
        found = connection.execute(
            "SELECT id FROM context WHERE engine = ? AND options = ?", (self._engine, self._options)
        ).fetchone()
        if found is None:
            return
        self._context = found[0]
        row = connection.execute(
            "SELECT id FROM generation JOIN whole ON whole.generation = generation.id WHERE digest = ? AND context = ?",
            (self._generation.id, self._context),
        ).fetchone()
        self.knows_generation = row is not None

    def _salt(self, generation: str) -> bytes:
        """Binds a row's checksum to what its numbers stand for."""
        text = f"{self._engine}\0{self._options}\0{generation}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    def lookup(self, keys: Sequence[bytes]) -> list[Verdict | None]:
        """For each key (SHA-256 and the size as 8 bytes, little endian) what is known. Raises `ValueError` for other keys."""
        if any(len(key) != KEY_BYTES for key in keys):
            raise ValueError("a key is a SHA-256 and a size")
        known: dict[bytes, Verdict] = {}
        connection, bloom = self._store.connection, self._store.bloom
        if connection is not None and self._context is not None:
            with _guarded(self._store):
                # where most are known, the filter only costs
                filtered = bloom is not None and 2 * self._hit <= self._looked_up
                wanted = [key for key in keys if key in bloom] if bloom is not None and filtered else keys
                for at in range(0, len(wanted), 500):
                    known |= self._select(connection, wanted[at : at + 500])
                self._looked_up += len(keys)
                self._hit += len(known)
        return [known.get(key) for key in keys]

    def _select(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Verdict]:
        if not keys:
            return {}
        known = {}
        old = []
        marks = ",".join("?" * len(keys))
        for key, generation, used, findings, found in connection.execute(
            f"SELECT key, generation, used, findings, sum FROM verdict WHERE context = ? AND key IN ({marks})",  # noqa: S608
            (self._context, *keys),
        ):
            salt, kept, missing = self._known.get(generation) or self._load(connection, generation)
            if found != hashlib.blake2b(key + (findings or b""), digest_size=_SUM_BYTES, key=salt).digest():
                raise Damaged("a verdict has a wrong checksum")
            if used < self._today:
                old.append(key)
            if findings is None and not missing:
                known[key] = CLEAN
            else:
                known[key] = Verdict(_findings(findings, kept), missing)
        if old and self._hits.tell() < self._store.most_bytes:
            self._hits.write(b"".join(old))
        return known

    def _load(self, connection: sqlite3.Connection, generation: int) -> tuple[bytes, frozenset[str], frozenset[str]]:
        """(salt, namespaces that are still the same, namespaces that are new or changed) for an older generation."""
        row = connection.execute("SELECT digest, namespaces FROM generation WHERE id = ?", (generation,)).fetchone()
        names = load_json(row[1]) if row else None
        if not isinstance(names, dict) or not all(isinstance(one, str) for one in names.values()):
            raise Damaged("a generation is missing")
        if Generation(names).id != row[0]:
            raise Damaged("a generation has a wrong digest")
        now = self._generation.namespaces
        kept = frozenset(name for name, source in names.items() if now.get(name) == source)
        self._known[generation] = (self._salt(row[0]), kept, frozenset(now) - kept)
        return self._known[generation]

    def record(self, key: bytes, findings: Sequence[FoundMessage]) -> None:
        """A complete verdict of this scan. Raises `ValueError` for a wrong key."""
        if len(key) != KEY_BYTES:
            raise ValueError("a key is a SHA-256 and a size")
        raw = json.dumps(list(findings), separators=(",", ":")).encode("ascii") if findings else b""
        self._room -= len(key) + 4 + len(raw)
        if len(raw) > _MAX_FINDINGS_BYTES or self._room < 0 or self._lost:
            return
        try:
            self._spool.write(key + len(raw).to_bytes(4, "little") + raw)
        except OSError as error:
            self._lost = True  # it may have been written in part
            self._store.warn(f"the verdicts of this scan cannot be kept: {error}")

    def _spooled(self) -> Iterator[tuple[bytes, bytes | None]]:
        self._spool.seek(0)
        while head := self._spool.read(KEY_BYTES + 4):
            size = int.from_bytes(head[KEY_BYTES:], "little")
            yield head[:KEY_BYTES], self._spool.read(size) if size else None

    def commit(self) -> int:
        """Write what was recorded; returns how many verdicts. What others see is always a whole verdict."""
        if self._store.connection is None:
            self._store.open()
        written = 0
        with _guarded(self._store):
            written = self._write()
        self.discard()
        return written

    def _write(self) -> int:
        connection = self._store.connection
        if connection is None or self._lost or self._is_revoked(connection):
            return 0
        self._names(connection)
        written = 0
        batch: list[tuple[bytes, bytes | None]] = []
        for one in self._spooled():
            batch.append(one)
            if len(batch) == _ROWS_AT_ONCE:
                written += self._insert(connection, batch)
                batch = []
        written += self._insert(connection, batch)
        connection.execute("INSERT OR IGNORE INTO whole VALUES (?, ?)", (self._context, self._current))
        self._refresh(connection)
        if self._store.size_bytes() > self._store.most_bytes:
            self._store.trim(self._store.most_bytes)
        return written

    def _names(self, connection: sqlite3.Connection) -> None:
        generation, scan = self._generation, self._provenance
        names = json.dumps(dict(generation.namespaces), separators=(",", ":"))
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "INSERT OR IGNORE INTO context (engine, options) VALUES (?, ?)", (self._engine, self._options)
        )
        connection.execute(
            "INSERT OR IGNORE INTO generation (digest, namespaces) VALUES (?, ?)", (generation.id, names)
        )
        connection.execute(
            "INSERT OR IGNORE INTO scan (uuid, machine, time) VALUES (?, ?, ?)",
            (scan.scan, scan.machine, scan.time.timestamp()),
        )
        self._context = connection.execute(
            "SELECT id FROM context WHERE engine = ? AND options = ?", (self._engine, self._options)
        ).fetchone()[0]
        self._current = connection.execute("SELECT id FROM generation WHERE digest = ?", (generation.id,)).fetchone()[0]
        self._scan = connection.execute("SELECT id FROM scan WHERE uuid = ?", (scan.scan,)).fetchone()[0]
        connection.execute("COMMIT")

    def _insert(self, connection: sqlite3.Connection, batch: Sequence[tuple[bytes, bytes | None]]) -> int:
        if not batch:
            return 0
        salt = self._salt(self._generation.id)
        rows = [
            (
                key,
                self._context,
                self._current,
                self._scan,
                self._today,
                findings,
                hashlib.blake2b(key + (findings or b""), digest_size=_SUM_BYTES, key=salt).digest(),
            )
            for key, findings in batch
        ]
        connection.execute("BEGIN IMMEDIATE")
        if self._is_revoked(connection):
            connection.execute("ROLLBACK")
            return 0
        connection.executemany("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
        if self._store.bloom is not None:
            self._store.bloom.add(key for key, _ in batch)
        return len(batch)

    def _is_revoked(self, connection: sqlite3.Connection) -> bool:
        scan = self._provenance
        return bool(
            connection.execute(
                "SELECT 1 FROM revoked WHERE at >= ? AND coalesce(machine, ?2) = ?2 AND coalesce(scan, ?3) = ?3 "
                "AND coalesce(since, ?4) <= ?4 AND coalesce(until, ?4) >= ?4",
                (self._began, scan.machine, scan.scan, scan.time.timestamp()),
            ).fetchone()
        )

    def _refresh(self, connection: sqlite3.Connection) -> None:
        """What was used today is not the first to be forgotten."""
        self._hits.seek(0)
        while raw := self._hits.read(KEY_BYTES * _ROWS_AT_ONCE):
            keys = [(self._today, raw[at : at + KEY_BYTES], self._context) for at in range(0, len(raw), KEY_BYTES)]
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("UPDATE verdict SET used = ? WHERE key = ? AND context = ?", keys)
            connection.execute("COMMIT")

    def discard(self) -> None:
        """Forget what was recorded and not committed."""
        for spool in (self._spool, self._hits):
            with suppress(OSError):  # a full disk: what is in its buffer is not wanted any more
                spool.seek(0)
                spool.truncate()

    def close(self) -> None:
        for spool in (self._spool, self._hits):
            with suppress(OSError):
                spool.close()


def _findings(raw: bytes | None, kept: frozenset[str]) -> tuple[FoundMessage, ...]:
    if raw is None:
        return ()
    value: Any = load_json(raw)
    if not isinstance(value, list) or not all(isinstance(one, list) and len(one) == 2 for one in value):
        raise Damaged("findings are not of the agreed form")
    return tuple((name, finding) for name, finding in value if name in kept)
