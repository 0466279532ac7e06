"""The console's database: `sqlite:///…` or `postgresql+psycopg://…`.

SQLite: WAL, one writer at a time by `BEGIN IMMEDIATE`, so that a transaction that reads and then writes never fails half-way
(https://sqlite.org/lang_transaction.html). PostgreSQL: READ COMMITTED to write, REPEATABLE READ to read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url

from core.errors import ConfigError
from core.sqlite import write_ahead

_BUSY_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 5
_POOL_SECONDS: Final = 10.0
_STATEMENT_SECONDS: Final = 120
_WRITES: Final = "kumomori_writes"


class Database:
    """One database, shared by all threads of a process. `close` it at the end."""

    def __init__(self, url: str) -> None:
        """Raises `ConfigError` for an address that is none, or a folder that is not there; makes no connection yet."""
        parsed = _parsed(url)
        self.sqlite: Final = parsed.get_backend_name() == "sqlite"
        # SQLite's writers wait by sleeping, which is not fair: inside a process they queue here instead.
        self._turn: Final[AbstractContextManager[Any]] = threading.Lock() if self.sqlite else nullcontext()
        self.engine: Final = _sqlite(parsed) if self.sqlite else _postgresql(parsed)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        with self.engine.connect() as connection:
            if not self.sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed at the end, or undone if an exception leaves it."""
        with self._turn, self.engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def close(self) -> None:
        self.engine.dispose()


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError:
        raise ConfigError(
            "the database's address is not like sqlite:///PATH or postgresql+psycopg://HOST/NAME"
        ) from None
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"}:
        raise ConfigError(f"the database is {parsed.drivername}; sqlite and postgresql+psycopg are supported")
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _sqlite(url: URL) -> sa.Engine:
    if url.database in {None, "", ":memory:"} or url.query:
        raise ConfigError("the database must be a file: sqlite:///PATH, without options")
    path = Path(str(url.database))
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # what is found on disks is not for all
    except OSError as error:
        raise ConfigError(f"{path}: the database cannot be opened: {error.strerror}") from error
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        pool_size=10,
        max_overflow=30,
        pool_timeout=_POOL_SECONDS,
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
    )
    sa.event.listen(engine, "connect", _prepare)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver
    write_ahead(connection, _BUSY_SECONDS)
    for pragma in ("synchronous = NORMAL", "foreign_keys = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _postgresql(url: URL) -> sa.Engine:
    options = f"-c timezone=UTC -c statement_timeout={_STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout=60s"
    return sa.create_engine(
        url,
        hide_parameters=True,
        pool_size=10,
        max_overflow=10,
        pool_timeout=_POOL_SECONDS,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "options": options,
            "client_encoding": "utf8",  # of a database made without a locale (SQL_ASCII) the driver would give us bytes
        },
    )
