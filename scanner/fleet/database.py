"""A fleet's database: one SQLite file on one machine, or PostgreSQL; short transactions, each of which can be made again.

SQLite is set up as its documentation asks for where several processes write (WAL, `BEGIN IMMEDIATE`, a busy timeout), see
https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-transactions; with `synchronous=NORMAL` a killed process
loses nothing, and a power cut at most the last commits.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from core.errors import ConfigError, Unavailable
from core.sqlite import write_ahead
from core.text import printable

_BUSY_SECONDS: Final = 10
_SQLITE_RETRY: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
}
_TO_DO: Final = {
    sqlite3.SQLITE_FULL: "make room where it lies",
    sqlite3.SQLITE_IOERR: "look after the disk where it lies",
    sqlite3.SQLITE_READONLY: "let it be written where it lies; a disk with errors is mounted read-only",
    sqlite3.SQLITE_CANTOPEN: "is its folder there, and may this user write in it?",
}
# Of the answers to a connection the driver gives only words: of a server that speaks another language, it is away.
_REFUSED: Final = (
    ("password authentication failed", "is that its password?"),
    ("no password supplied", "its URL needs a password"),
    ("does not exist", "make it, or name another one"),
    ("pg_hba.conf", "let it in from here, or over TLS (?sslmode=require)"),
    ("permission denied for database", "GRANT CONNECT to the fleet's user"),
)
# A worker that is stopped inside a transaction must not hold its locks for ever, and one that is cut off must notice.
# A database made without a locale has the encoding SQL_ASCII, of which the driver would give us bytes instead of text.
_POSTGRES: Final = {
    "client_encoding": "utf8",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "options": "-c idle_in_transaction_session_timeout=15s -c statement_timeout=30s -c lock_timeout=10s -c timezone=UTC",
}


class Turned(Unavailable):
    """The server is there and does not let us in: somebody has to do something, but also while it is restored from a copy."""


class Database:
    """`url` is `sqlite:///path` or `postgresql://…`. Raises `ConfigError` for any other, and if the file cannot be made.

    `clock` gives seconds since 1970; only SQLite uses it, where all processes share one machine. On PostgreSQL the server's
    time counts, so that a worker whose clock is wrong can neither take nor keep what is another's.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self.url: Final = checked_url(url)
        self.is_sqlite: Final = self.url.get_backend_name() == "sqlite"
        self._clock = clock
        if self.is_sqlite:
            self.engine: Engine = _sqlite_engine(self.url)
            self._writer: Engine = self.engine.execution_options(immediate=True)
        else:
            self.engine = postgres_engine(self.url)
            self._writer = self.engine

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that ends with the block; on SQLite it holds the write lock from its beginning.

        Raises `Unavailable` if the database is away or locked for long; what the block raises is raised after a roll-back.
        """
        with translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction for reading. Raises `Unavailable`."""
        with translated(), self.engine.begin() as connection:
            yield connection

    def check(self) -> None:
        """For the start. Raises `ConfigError` if the server does not let us in; one that is away now is waited for later."""
        try:
            with self.read() as connection:
                connection.execute(text("SELECT 1"))
        except Turned as error:
            raise ConfigError(str(error)) from error
        except Unavailable:
            pass

    def now_ms(self, connection: Connection) -> int:
        """The time that all workers agree on, in milliseconds since 1970."""
        if self.is_sqlite:
            return int(self._clock() * 1000)
        return int(
            connection.execute(text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")).scalar_one()
        )

    def insert_missing(self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> int:
        """Insert `rows`, leaving alone what has the same key. Returns how many were new."""
        insert = sqlite.insert if self.is_sqlite else postgresql.insert
        made = 0
        for row in rows:
            statement = insert(table).values(**row).on_conflict_do_nothing().returning(*table.primary_key)
            made += len(connection.execute(statement).all())
        return made

    def close(self) -> None:
        self.engine.dispose()


def checked_url(url: str) -> URL:
    """Raises `ConfigError` for what no fleet can live in; no message holds the URL, since there may be a password in it."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "the database's URL is not one: write sqlite:///path or postgresql://user@host/name"
        ) from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database not in (None, "", ":memory:"):
        return parsed
    if parsed.drivername in ("postgresql", "postgresql+psycopg") and parsed.database:
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(
        f"{printable(parsed.drivername)}: no such database for a fleet: write sqlite:///path or postgresql://user@host/name"
    )


def _sqlite_engine(url: URL) -> Engine:
    prepare_file(url)
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS, "isolation_level": None}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        set_up_sqlite(connection)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def prepare_file(url: URL) -> None:
    """The database file exists, and only its owner may read it. Raises `ConfigError`."""
    path = Path(str(url.database))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(f"{printable(str(path))}: cannot keep a database there ({error.strerror})") from error


def set_up_sqlite(connection: sqlite3.Connection) -> None:
    write_ahead(connection, _BUSY_SECONDS)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def postgres_engine(url: URL) -> Engine:
    """Its sessions give up instead of waiting for ever; a session that the server ended is replaced before it is used."""
    return create_engine(url, pool_pre_ping=True, connect_args=_POSTGRES, hide_parameters=True)


@contextmanager
def translated() -> Iterator[None]:
    """Errors after which the same may be tried again become `Unavailable`; others are faults of ours and go on."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("all connections to the database are in use") from error
    except DBAPIError as error:
        if not _may_pass(error):
            raise
        lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
        if (refused := _refused(error)) is not None:
            raise Turned(f"the database does not let the fleet in ({printable(lines[0][:300])}): {refused}") from error
        advice = f": {_TO_DO[code]}" if (code := _sqlite_code(error)) in _TO_DO else ""
        raise Unavailable(f"the database is away or busy ({printable(lines[0][:200])}){advice}") from error


def _may_pass(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error) in _SQLITE_RETRY
    return isinstance(error.orig, psycopg.OperationalError)  # away, shut down, deadlock, lock or statement timeout


def _refused(error: DBAPIError) -> str | None:
    """What to do, of a connection that the server refused. Faults of statements have a code, and come from a session."""
    if not isinstance(error.orig, psycopg.OperationalError) or error.orig.sqlstate is not None:
        return None
    return next((advice for words, advice in _REFUSED if words in str(error.orig)), None)


def _sqlite_code(error: DBAPIError) -> int:
    """0 if it is none of SQLite's."""
    return int(getattr(error.orig, "sqlite_errorcode", 0)) & 0xFF
