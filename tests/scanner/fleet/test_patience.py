"""A database that is away is told of once, then seldom; one that does not let the fleet in is an error at the start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from core.errors import ConfigError, Unavailable
from scanner.fleet.database import Database, Turned
from scanner.fleet.patience import Outage
from tests.postgres import Postgres
from tests.scanner.fleet.workers import ROOT, eventually


def test_it_is_told_once_and_then_at_growing_intervals() -> None:
    said: list[tuple[float, str]] = []
    now = 0.0
    outage = Outage(lambda words: said.append((now, words)), clock=lambda: now)
    outage.over()
    for step in range(3 * 3600 * 2):
        now = step / 2
        outage.problem(Unavailable(f"away, port {step}"))
    assert [at for at, _ in said] == [0, 30, 90, 210, 450, 930, 1890, 3810, 7410]
    outage.problem(Unavailable("locked"))
    outage.problem(Unavailable("locked"))
    outage.problem(Unavailable("away, port 1"))
    assert said[9:] == [(now, "locked")]
    outage.over()
    outage.over()
    outage.problem(Unavailable("locked"))
    now += 30
    outage.problem(Unavailable("locked"))
    assert [words for _, words in said[10:]] == ["the database is there again", "locked", "locked"]


def test_words_without_an_end_are_told_seldom_too() -> None:
    said: list[str] = []
    outage = Outage(said.append, clock=lambda: 0.0)
    for number in range(1000):
        outage.problem(Unavailable("x" * number))
    assert len(said) == 10


@pytest.mark.slow
@pytest.mark.parametrize("given", [("--slots", "2"), ("--slot", "slot-1")])
def test_a_worker_of_a_database_that_is_away(tmp_path: Path, given: tuple[str, str]) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "scanner.fleet.worker", *given, "--poll", "0.02"],
            cwd=ROOT,
            env={**os.environ, "KUMOMORI_FLEET_DATABASE": "postgresql://u:s3cret@127.0.0.1:1/x"},
            stderr=out,
        )
    try:
        eventually(lambda: b"away" in log.read_bytes(), "it says so")
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert len(log.read_text().splitlines()) == 1, log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"database": "nowhere"}, '"nowhere" does not exist.*make it', id="no-database"),
        pytest.param({"username": "nobody"}, '"nobody" does not exist.*make it', id="no-role"),
        pytest.param({"username": "fleet", "password": "s3cret"}, "its password", id="wrong-password"),
        pytest.param({"username": "fleet"}, "needs a password", id="no-password"),
    ],
)
def test_a_server_that_does_not_let_the_fleet_in(
    postgres: Postgres, change: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    rules = postgres.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    made = postgres.database()
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute("CREATE ROLE fleet LOGIN PASSWORD 'right'")
        rules.write_text(f"host all fleet all scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        try:
            url = make_url(made).set(**change).render_as_string(hide_password=False)  # type: ignore[arg-type]
            database = Database(url)
            with pytest.raises(ConfigError, match=said) as refused:
                eventually(database.check, "the server has read its rules")
            with pytest.raises(Turned), database.read():
                pytest.fail("let in")
            database.close()
        finally:
            rules.write_text(before)
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("DROP ROLE fleet")
    postgres.drop(made)
    assert "s3cret" not in str(refused.value)
    postgres_away = Database("postgresql://u:s3cret@127.0.0.1:1/x")
    postgres_away.check()  # is waited for
    postgres_away.close()


@pytest.mark.slow
def test_a_fleet_does_not_start_without_its_database(postgres: Postgres, tmp_path: Path) -> None:
    words = {"DATA": str(tmp_path), "CONSOLE": "http://127.0.0.1:9", "TOKEN_FILE": "token"}
    made = postgres.database()
    postgres.drop(made)
    environment = {f"KUMOMORI_FLEET_{name}": value for name, value in (words | {"DATABASE": made}).items()}
    for module in ("supervisor", "worker"):
        done = subprocess.run(
            [sys.executable, "-m", f"scanner.fleet.{module}"],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, b"make it" in done.stderr) == (2, True), done.stderr
