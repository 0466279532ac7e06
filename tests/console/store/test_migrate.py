from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from console.store.database import Database
from console.store.migrate import downgrade, upgrade
from console.store.tables import metadata
from core.errors import ConfigError


def described(database: Database) -> dict[str, Any]:
    """All that the database itself says of its tables."""
    inspector = sa.inspect(database.engine)
    found: dict[str, Any] = {}
    for table in inspector.get_table_names():
        if table == "alembic_version":
            continue
        found[table] = {
            "columns": sorted((one["name"], str(one["type"]), one["nullable"]) for one in inspector.get_columns(table)),
            "key": inspector.get_pk_constraint(table),
            "checks": sorted(one["sqltext"] for one in inspector.get_check_constraints(table)),
            "indexes": sorted(
                (str(one["name"]), one["column_names"], one["unique"]) for one in inspector.get_indexes(table)
            ),
            "foreign": sorted(
                (str(one["name"]), one["constrained_columns"]) for one in inspector.get_foreign_keys(table)
            ),
            "unique": sorted(
                (str(one["name"]), one["column_names"]) for one in inspector.get_unique_constraints(table)
            ),
        }
    return found


def test_the_migrations_make_what_the_tables_say(empty_database: Database) -> None:
    upgrade(empty_database)
    with empty_database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    migrated = described(empty_database)
    downgrade(empty_database, "base")
    assert described(empty_database) == {}
    with empty_database.write() as connection:
        metadata.create_all(connection)
    made = described(empty_database)
    assert made == migrated
    assert {"token", "finding", "order", "hold", "event", "policy_version"} <= set(made)


def test_up_and_down_and_up_again(empty_database: Database) -> None:
    upgrade(empty_database)
    downgrade(empty_database, "base")
    upgrade(empty_database)
    upgrade(empty_database)  # nothing to do
    assert set(described(empty_database)) == set(metadata.tables)


def test_many_start_at_once(empty_url: str) -> None:
    errors: list[Exception] = []

    def start() -> None:
        database = Database(empty_url)
        try:
            upgrade(database)
        except Exception as error:  # noqa: BLE001  told below
            errors.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_newer_database_is_refused(empty_database: Database) -> None:
    upgrade(empty_database)
    with empty_database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="9999"):
        upgrade(empty_database)
