from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from client.model import Scope, TokenIn
from console.store import tables, tokens
from console.store.database import Database
from console.store.migrate import upgrade
from core.errors import ConfigError
from tests.postgres import Postgres

NOW = datetime(2027, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("nonsense", id="no-url"),
        pytest.param("mysql://user:secret@host/name", id="mysql"),
        pytest.param("sqlite://", id="memory"),
        pytest.param("sqlite:///:memory:", id="memory-by-name"),
        pytest.param("sqlite:////no/such/folder/console.sqlite", id="no-folder"),
        pytest.param("sqlite:///x?mode=memory", id="options"),
        pytest.param("postgresql+psycopg2://user:secret@host/name", id="other-driver"),
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Database(url)
    assert "secret" not in str(caught.value)


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/console.sqlite")
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE x (y INTEGER)"))
    assert {os.stat(path).st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()


def test_a_transaction_is_undone_as_a_whole(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as connection:
        connection.execute(tables.lease.insert().values(name="a", holder="b", until=NOW))
        raise RuntimeError
    with database.read() as connection:
        assert connection.execute(sa.select(tables.lease)).all() == []


def test_readers_see_one_state_and_change_nothing(database: Database) -> None:
    with database.read() as reader:
        assert reader.execute(sa.select(tables.lease)).all() == []
        with database.write() as writer:
            writer.execute(tables.lease.insert().values(name="a", holder="b", until=NOW))
        assert reader.execute(sa.select(tables.lease)).all() == []
    with database.read() as reader:
        assert len(reader.execute(sa.select(tables.lease)).all()) == 1


def test_writers_that_read_first_do_not_lose_updates(database: Database) -> None:
    with database.write() as connection:
        connection.execute(tables.order_counter.insert().values(fleet="a", last=0))
    errors: list[Exception] = []

    def count() -> None:
        try:
            for _ in range(25):
                with database.write() as connection:
                    connection.execute(sa.select(tables.order_counter)).one()
                    connection.execute(tables.order_counter.update().values(last=tables.order_counter.c.last + 1))
        except sa.exc.SQLAlchemyError as error:
            errors.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database.read() as connection:
        assert connection.execute(sa.select(tables.order_counter.c.last)).scalar() == 100


HOSTILE_TEXTS = [
    pytest.param("", id="empty"),
    pytest.param("a\x00b", id="nul"),
    pytest.param("\ud800 and \udfff", id="lone-surrogates"),
    pytest.param("\U0001d4b3 ä \u202e \x1b[31m", id="unicode"),
    pytest.param("'; DROP TABLE token; --", id="quotes"),
    pytest.param("x" * 100_000, id="long"),
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_text_from_disks_survives(database: Database, text: str) -> None:
    evidence = {text: [text, {"deep": text}], "number": 1 << 70, "none": None}
    path = text.encode("utf-8", "surrogatepass") + b"\xff\xfe\x00"
    with database.write() as connection:
        connection.execute(
            tables.finding.insert().values(
                instance="aws://1/r/i", id="0" * 64, rule=text, title=text, severity=0, remedy=text, volume=text,
                path=path, subject=text, evidence=evidence, state="open", first_seen=NOW, last_seen=NOW, last_scan="s",
                actions=[text],
            )
        )  # fmt: skip
    with database.read() as connection:
        row = connection.execute(sa.select(tables.finding)).one()
    assert (row.rule, row.title, row.remedy, row.volume, row.subject, row.actions) == (*[text] * 5, [text])
    assert row.path == path
    assert row.evidence == evidence


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param(NOW, NOW, id="utc"),
        pytest.param(NOW.astimezone(timezone(timedelta(hours=5, minutes=30))), NOW, id="offset"),
        pytest.param(
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), datetime.min.replace(tzinfo=UTC), id="before-time"
        ),
        pytest.param(
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
            datetime.max.replace(tzinfo=UTC),
            id="after-time",
        ),
    ],
)
def test_times(database: Database, given: datetime, kept: datetime) -> None:
    with database.write() as connection:
        connection.execute(tables.lease.insert().values(name="a", holder="b", until=given))
    with database.read() as connection:
        assert connection.execute(sa.select(tables.lease.c.until)).scalar() == kept
        assert connection.execute(sa.select(tables.lease).where(tables.lease.c.until <= given)).all()


def test_a_time_without_an_offset_is_refused(database: Database) -> None:
    with pytest.raises(sa.exc.StatementError), database.write() as connection:
        connection.execute(tables.lease.insert().values(name="a", holder="b", until=NOW.replace(tzinfo=None)))


@pytest.mark.slow
def test_a_postgres_that_was_made_without_a_locale(postgres: Postgres) -> None:
    """Its encoding is SQL_ASCII: names are text there all the same, those beyond ASCII too."""
    url = postgres.database("SQL_ASCII")
    database = Database(url)
    try:
        upgrade(database)
        with database.write() as connection:
            tokens.make(connection, TokenIn(name="ci", scopes=(Scope.READ,)), "test")
            assert [one.name for one in tokens.everything(connection)] == ["ci"]
            connection.execute(sa.insert(tables.hold).values(scope="all", why="雲守 ü", until=None, by="ci", since=NOW))
            assert connection.scalar(sa.select(tables.hold.c.why)) == "雲守 ü"
    finally:
        database.close()
        postgres.drop(url)
