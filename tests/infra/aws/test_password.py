"""The database's password, as a machine and a task get it: beside the address, and another one without a restart."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from console.store.database import Database as ConsoleDatabase
from core.errors import Unavailable
from scanner.fleet.database import Database
from tests.infra.aws.test_machine import PASSWORD, VALUES, read_secrets
from tests.postgres import Postgres

pytestmark = pytest.mark.slow


@pytest.fixture
def user(postgres: Postgres) -> Iterator[str]:
    """One who has to say a password, and its role's name; the server trusts all others."""
    name = f"user_{uuid.uuid4().hex[:8]}"
    rules = postgres.folder / "data/pg_hba.conf"
    before = rules.read_text()
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(PASSWORD))
        )
        rules.write_text(f"host all {name} 127.0.0.1/32 scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        try:
            yield name
        finally:
            rules.write_text(before)
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_a_worker_reads_a_new_password_for_each_connection(
    postgres: Postgres, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_secrets(tmp_path, VALUES).returncode == 0
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "run/kumomori/pgpass"))
    database = Database(f"postgresql://{user}@127.0.0.1:{postgres.port}/postgres")
    try:
        with database.read() as connection:
            assert connection.execute(text("SELECT current_user")).scalar_one() == user
        with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("ALTER ROLE {} PASSWORD 'another'").format(sql.Identifier(user)))
        database.engine.dispose()
        with pytest.raises(Unavailable) as caught, database.read():
            pass
        assert PASSWORD not in str(caught.value)
        read_secrets(tmp_path, VALUES | {"rds!db-1": '{"password": "another"}'})
        with database.read() as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
    finally:
        database.close()


def test_a_task_is_given_it_when_it_starts(postgres: Postgres, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    database = ConsoleDatabase(f"postgresql://{user}@127.0.0.1:{postgres.port}/postgres")
    try:
        with database.read() as connection:
            assert connection.execute(text("SELECT current_user")).scalar_one() == user
    finally:
        database.close()
