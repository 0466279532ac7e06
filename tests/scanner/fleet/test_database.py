"""The fleet's database: which URLs it takes, what it says when it is away, and that several write at once."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, make_url, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError

from core.errors import ConfigError, Unavailable
from scanner.fleet import kept
from scanner.fleet.database import Database
from scanner.fleet.engine import sqlite_engine
from scanner.fleet.migrations import upgrade
from scanner.fleet.tables import metadata, slot
from tests.postgres import Postgres


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("", id="empty"),
        pytest.param("nothing", id="no-url"),
        pytest.param("sqlite://", id="in-memory"),
        pytest.param("sqlite:///:memory:", id="in-memory-by-name"),
        pytest.param("mysql://root:s3cret@host/x", id="another"),
        pytest.param("postgresql://u:s3cret@host", id="no-name"),
        pytest.param("postgresql+psycopg2://u:s3cret@host/x", id="another-driver"),
        pytest.param("postgresql://u:s3cret@host:port/x", id="no-port"),
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Database(url)
    assert "s3cret" not in str(refused.value)


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot keep a database there"):
        Database(f"sqlite:///{tmp_path}/file/fleet.sqlite")


def test_the_file_is_the_owners_and_set_up(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/deep/er/fleet.sqlite")
    with database.read() as connection:
        found = [
            connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 1, 1]
    assert (tmp_path / "deep/er/fleet.sqlite").stat().st_mode & 0o777 == 0o600
    database.close()


def test_what_the_block_raises_undoes_it(url: str) -> None:
    database = Database(url)
    metadata.create_all(database.engine)
    with pytest.raises(KeyError), database.write() as connection:
        connection.execute(insert(slot).values(name="slot-1"))
        raise KeyError
    with database.read() as connection:
        assert connection.execute(select(slot.c.name)).all() == []
    database.close()


def test_our_own_faults_are_not_taken_for_a_database_that_is_away(url: str) -> None:
    database = Database(url)
    metadata.create_all(database.engine)
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(insert(slot), [{"name": "slot-1"}, {"name": "slot-1"}])
    with pytest.raises((OperationalError, Exception), match="nowhere") as wrong, database.read() as connection:
        connection.execute(text("SELECT 1 FROM nowhere"))
    assert not isinstance(wrong.value, Unavailable)
    database.close()


def test_insert_missing(url: str) -> None:
    database = Database(url)
    metadata.create_all(database.engine)
    with database.write() as connection:
        assert database.insert_missing(connection, slot, [{"name": "slot-1", "epoch": 7}]) == 1
        assert database.insert_missing(connection, slot, [{"name": "slot-1", "epoch": 8}, {"name": "slot-2"}]) == 1
        assert connection.execute(select(slot.c.name, slot.c.epoch).order_by(slot.c.name)).all() == [
            ("slot-1", 7),
            ("slot-2", 0),
        ]
    database.close()


def test_a_locked_file_is_away(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/fleet.sqlite")
    with database.read() as connection:
        connection.execute(text("PRAGMA busy_timeout=50"))  # of the one connection in the pool
    lock = sqlite3.connect(tmp_path / "fleet.sqlite", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"), database.write():
        pytest.fail("not locked")
    lock.close()
    database.close()


def test_a_server_that_is_not_there() -> None:
    database = Database("postgresql://u:s3cret@127.0.0.1:1/x")
    with pytest.raises(Unavailable) as away, database.read():
        pytest.fail("connected")
    assert "s3cret" not in str(away.value)
    database.close()


def test_many_write_at_once(url: str) -> None:
    """Read, then write what was read: in one transaction, nothing is lost."""
    database = Database(url)
    metadata.create_all(database.engine)
    with database.write() as connection:
        connection.execute(insert(slot).values(name="slot-1"))

    def count() -> None:
        for _ in range(20):
            with database.write() as connection:
                found = connection.execute(select(slot.c.epoch).with_for_update()).scalar_one()
                connection.execute(update(slot).values(epoch=found + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute(select(slot.c.epoch)).scalar_one() == 80
    database.close()


def test_only_one_module_knows_the_engine() -> None:
    folder = Path(__file__).resolve().parents[3]
    known = {
        path.relative_to(folder).as_posix()
        for top in ("core", "cloud", "definitions", "policy", "scanner", "cli", "infra", "demo")
        for path in (folder / top).rglob("*.py")
        if any(line.startswith(("import dbos", "from dbos")) for line in path.read_text().splitlines())
    }
    assert known == {"scanner/fleet/engine.py"}


def test_a_fault_of_ours_quotes_no_value(url: str) -> None:
    """Orders, roles' external ids and reports are values; a fault's words go to the log and, of a step, to the console."""
    database = Database(url)
    metadata.create_all(database.engine)
    row = {"name": "slot-1", "worker": "hunter22"}
    with pytest.raises(IntegrityError) as fault, database.write() as connection:
        connection.execute(insert(slot).values(**row))
        connection.execute(insert(slot).values(**row))
    assert "hunter22" not in str(fault.value)
    database.close()


def test_nor_does_one_of_the_engine(tmp_path: Path) -> None:
    engine = sqlite_engine(make_url(f"sqlite:///{tmp_path}/engine.sqlite"))
    with pytest.raises(OperationalError) as fault, engine.begin() as connection:
        connection.execute(text("SELECT :value FROM nowhere"), {"value": "hunter22"})
    assert "hunter22" not in str(fault.value)
    engine.dispose()


@pytest.mark.parametrize(
    ("pragma", "advice"), [("max_page_count = 1", "make room"), ("query_only = ON", "mounted read-only")]
)
def test_a_disk_that_takes_no_more_is_waited_for(tmp_path: Path, pragma: str, advice: str) -> None:
    """Full, or mounted read-only after an error: what is half done is not given up, and it is said what to do."""
    database = Database(f"sqlite:///{tmp_path}/fleet.sqlite")
    metadata.create_all(database.engine)
    with pytest.raises(Unavailable, match=advice), database.write() as connection:
        connection.exec_driver_sql(f"PRAGMA {pragma}")
        for number in range(1000):
            connection.execute(insert(slot).values(name=f"slot-{number}", worker="x" * 200))
    database.close()
    again = Database(f"sqlite:///{tmp_path}/fleet.sqlite")
    with again.read() as connection:
        assert connection.execute(select(slot)).all() == []
    again.close()


@pytest.mark.slow
def test_a_postgres_that_was_made_without_a_locale(postgres: Postgres) -> None:
    """Its encoding is SQL_ASCII: names are text there all the same, those beyond ASCII too."""
    url = postgres.database("SQL_ASCII")
    database = Database(url)
    try:
        upgrade(database)
        with database.write() as connection:
            kept.write(connection, "name", "雲守 ü")
        with database.read() as connection:
            assert kept.read(connection, "name") == "雲守 ü"
    finally:
        database.close()
        postgres.drop(url)
