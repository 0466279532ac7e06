"""The tables that migrations make are those of `tables.py`, on both databases, however many processes ask at once."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from core.errors import ConfigError, Unavailable
from scanner.fleet import kept
from scanner.fleet.database import Database
from scanner.fleet.migrations import check, upgrade
from scanner.fleet.tables import metadata


def test_the_tables_are_those_of_the_code(url: str) -> None:
    database = Database(url)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            upgrade(database)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "fleet_version", "compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert set(inspect(connection).get_table_names()) == {*metadata.tables, "fleet_version"}
    database.close()


def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    database = Database(url)
    upgrade(database)
    with database.write() as connection:
        connection.execute(text("UPDATE fleet_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="another version"):
        upgrade(database)
    database.close()


def version(database: Database) -> str:
    with database.read() as connection:
        return str(connection.execute(text("SELECT version_num FROM fleet_version")).scalar_one())


def test_a_guest_changes_nothing(url: str) -> None:
    database = Database(url)
    with pytest.raises(Unavailable, match=r"\(empty, not [0-9]+\): upgrade the fleet first"):
        check(database)
    with database.read() as connection:
        assert inspect(connection).get_table_names() == []
    upgrade(database)
    check(database)
    ours = version(database)
    with database.write() as connection:
        connection.execute(text("UPDATE fleet_version SET version_num = '0001'"))
    with pytest.raises(Unavailable, match=rf"\(0001, not {ours}\): upgrade the fleet first"):
        check(database)
    assert version(database) == "0001"
    with database.write() as connection:
        connection.execute(text("UPDATE fleet_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="the fleet is newer"):
        check(database)
    database.close()


def test_an_installation_keeps_its_name_and_the_consoles_time(url: str) -> None:
    database = Database(url)
    upgrade(database)
    name = kept.installation(database)
    assert name.startswith("kumomori-")
    assert kept.installation(database) == name
    assert kept.installation(database, name) == name
    with pytest.raises(ConfigError, match=f"that of the installation {name}, not of another"):
        kept.installation(database, "another")
    with database.write() as connection:
        here = kept.now_ms(database, connection)
        kept.write(connection, kept.CLOCK_OFFSET_MS, "3600000")
        assert kept.now_ms(database, connection) - here >= 3_600_000
        kept.write(connection, kept.CLOCK_OFFSET_MS, "no number")
        assert kept.now_ms(database, connection) - here < 60_000
    database.close()


def test_an_installation_bears_the_name_that_it_is_given(url: str) -> None:
    database = Database(url)
    upgrade(database)
    assert kept.installation(database, "acme") == "acme"
    assert kept.installation(database) == "acme"
    database.close()
