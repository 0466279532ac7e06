"""A fleet's worker for a limited time, as AWS Lambda runs it: on PostgreSQL, against the emulated AWS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text, update

from client.model import ScanState
from core.errors import ConfigError, Unavailable
from scanner.fleet import admission, function
from scanner.fleet.admission import Serving
from scanner.fleet.function import handler, read
from scanner.fleet.settings import Settings
from scanner.fleet.tables import base, scan, slot
from tests.postgres import Postgres
from tests.scanner.fleet.fleet import Fleet
from tests.scanner.fleet.workers import eventually

pytestmark = pytest.mark.slow
KEYS = "0000000a " + "ab" * 32 + "\n"
KEEP = {"base_snapshots.keep": 1}
SMALL = Serving(1, small=True)


class Lambda:
    """The runtime's context."""

    def __init__(self, seconds: float = 600.0) -> None:
        self._ends = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(max(0.0, self._ends - time.monotonic()) * 1000)


@pytest.fixture
def fleet(postgres: Postgres, tmp_path: Path, aws: dict[str, Any]) -> Iterator[Fleet]:
    made = Fleet(postgres.database(), tmp_path, aws)
    (tmp_path / "data").mkdir(mode=0o700)
    path = tmp_path / "data" / "manifest.keys"
    path.touch(0o600)
    path.write_text(KEYS)
    yield made
    made.close()
    postgres.drop(made.url)


@pytest.fixture
def runtime(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """The environment of the function; its secrets are in Secrets Manager, or what stands for it here."""
    secrets = {"arn:database": fleet.url, "arn:keys": KEYS}
    monkeypatch.setattr(function, "read_secret", lambda _, arn: secrets[arn])
    # manifests lie in a folder here: what writes them to S3 is tested in test_objects.py
    monkeypatch.setattr(function, "Settings", _InAFolder)
    for name in [name for name in os.environ if name.startswith("KUMOMORI_")]:
        monkeypatch.delenv(name)
    for name, value in fleet.environment().items():
        if name.startswith(("AWS_", "KUMOMORI_")):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("KUMOMORI_FLEET_DATABASE")
    monkeypatch.setenv("KUMOMORI_FUNCTION_DATABASE_SECRET", "arn:database")
    monkeypatch.setenv("KUMOMORI_FUNCTION_KEYS_SECRET", "arn:keys")
    monkeypatch.setenv("KUMOMORI_FUNCTION_SLOTS", "1")
    monkeypatch.setenv("KUMOMORI_FLEET_OBJECTS", "s3://manifests/here")
    monkeypatch.setenv("KUMOMORI_FLEET_LEASE_SECONDS", "2")
    monkeypatch.setenv("KUMOMORI_FLEET_POLL_SECONDS", "0.05")
    return fleet


class _InAFolder(Settings):
    def environment(self) -> dict[str, str]:
        return {**super().environment(), "KUMOMORI_FLEET_OBJECTS": ""}


def with_base(fleet: Fleet, name: str = "web-1") -> str:
    """A machine that an ordinary worker has scanned once, and an order to scan it again."""
    worker = fleet.worker(KUMOMORI_FLEET_OBJECTS="")
    fleet.order(f"first-{name}", fleet.machine(name), settings=KEEP)
    assert fleet.ended(f"first-{name}")[f"first-{name}"].state is ScanState.DONE, fleet.results()
    worker.send_signal(signal.SIGTERM)
    worker.wait(60)
    fleet.order(f"again-{name}", fleet.machine(name), settings=KEEP)
    return f"again-{name}"


def test_nothing_due_returns_at_once(runtime: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    answer = handler({}, Lambda())
    assert answer["worker"] == "none"
    assert time.monotonic() - began < 5
    assert json.loads(capsys.readouterr().out) == answer


def test_it_does_the_small_scan_and_leaves_the_large_one(runtime: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    small = with_base(runtime)
    runtime.order("large", runtime.machine("shop-1"), settings=KEEP)
    runtime.order("full", settings=KEEP | {"scan.depth": "full"})
    runtime.order("asked-for-in-full", settings=KEEP, full=True)
    answer = handler({}, Lambda())
    assert answer["worker"] == "ended"
    result = runtime.results()[small]
    assert result.state is ScanState.DONE
    assert runtime.report(result)["coverage"]["mode"] == "incremental"
    for other in ("large", "full", "asked-for-in-full"):
        assert (runtime.row(other).state, runtime.row(other).attempt) == (ScanState.WAITING, 0)
    assert handler({}, Lambda())["worker"] == "none"
    words = "".join(capfd.readouterr())
    assert "postgresql://" not in words
    assert KEYS.split()[1] not in words


def test_out_of_time_another_worker_goes_on(runtime: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    small = with_base(runtime)
    before = runtime.ours()
    monkeypatch.setattr(function, "LEAVE_SECONDS", 25.0)
    monkeypatch.setattr(function, "LEAST_SECONDS", 26.0)
    monkeypatch.setattr(function, "KILL_SECONDS", 1.0)
    runtime.remote.do("pending", seconds=600)  # so long it waits for its snapshots
    try:
        assert handler({}, Lambda(45))["worker"] == "left"
    finally:
        runtime.remote.do("pending", seconds=0)
    row = runtime.row(small)
    assert (row.state, row.attempt, row.failures, row.slot) == (ScanState.WAITING, 1, 0, None)
    assert runtime.ours() == before, "what it made is put away"
    assert handler({}, Lambda())["worker"] == "none", "it took too long for a function: a worker takes it"
    runtime.worker(KUMOMORI_FLEET_OBJECTS="")
    assert runtime.ended(small)[small].state is ScanState.DONE
    assert runtime.sweep() == []


def test_killed_in_the_middle_the_next_function_goes_on(runtime: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    small = with_base(runtime)
    started: list[subprocess.Popen[bytes]] = []
    start = function._started

    def watched(visit: function.Visit) -> subprocess.Popen[bytes]:
        started.append(start(visit))
        return started[-1]

    monkeypatch.setattr(function, "_started", watched)
    runtime.remote.do("limits", block_latency_seconds=4.0)
    answers: list[Any] = []
    run = threading.Thread(target=lambda: answers.append(handler({}, Lambda())))
    run.start()
    try:
        eventually(lambda: runtime.row(small).step == "scan", "it scans")
        started[0].kill()
    finally:
        run.join(60)
        runtime.remote.do("limits", block_latency_seconds=0.0)
    assert answers[0]["worker"] == "failed"
    assert runtime.row(small).state == ScanState.RUNNING
    made = runtime.ours()
    eventually(lambda: handler({}, Lambda())["worker"] == "ended", "its lease is over, and the next one goes on")
    result = runtime.results()[small]
    assert (result.state, result.attempt) == (ScanState.DONE, 1)
    assert runtime.report(result)["coverage"]["mode"] == "incremental"
    assert {one.id for one in result.base} <= made, "it read the snapshots of before"
    assert runtime.sweep() == []


def test_killed_and_no_function_comes_a_worker_goes_on(runtime: Fleet) -> None:
    """As the fleet's sweeper lets it wait anew, when its slot was without a worker for an hour."""
    small = with_base(runtime)
    with runtime.database.write() as connection:
        hour_ago = runtime.database.now_ms(connection) - 3_700_000
        runtime.database.insert_missing(
            connection,
            slot,
            [{"name": "function-1", "holder": "dead", "lease_ends_ms": hour_ago, "heartbeat_ms": hour_ago}],
        )
        running = {"state": ScanState.RUNNING, "slot": "function-1", "attempt": 1}
        connection.execute(update(scan).where(scan.c.id == small).values(**running))
    assert admission.is_left(runtime.database, ["function-1"])
    assert not admission.is_left(runtime.database, ["function-2", "slot-1"])
    runtime.sweep()
    assert runtime.row(small).state == ScanState.WAITING
    runtime.hurry()
    assert not admission.is_due(runtime.database, SMALL), "it was begun before: it is a worker's now"
    runtime.worker(KUMOMORI_FLEET_OBJECTS="")
    assert runtime.ended(small)[small].state is ScanState.DONE


def test_all_slots_taken(runtime: Fleet) -> None:
    small = with_base(runtime)
    with runtime.database.write() as connection:
        later = runtime.database.now_ms(connection) + 60_000
        row = {"name": "function-1", "holder": "other", "lease_ends_ms": later, "heartbeat_ms": later}
        runtime.database.insert_missing(connection, slot, [row])
    assert handler({}, Lambda())["worker"] == "ended"
    assert runtime.row(small).attempt == 0


def test_an_old_base_makes_no_small_scan(runtime: Fleet) -> None:
    with_base(runtime)
    assert admission.is_due(runtime.database, SMALL)
    with runtime.database.write() as connection:
        connection.execute(update(base).values(expires_ms=0))
    assert not admission.is_due(runtime.database, SMALL)
    assert admission.is_due(runtime.database)


def test_too_little_time_is_not_begun(runtime: Fleet) -> None:
    small = with_base(runtime)
    assert handler({}, Lambda(function.LEAST_SECONDS - 5))["worker"] == "none"
    assert runtime.row(small).attempt == 0


def test_what_is_kept_says_how_long(runtime: Fleet) -> None:
    """So that a sweep that knows only of tags takes no base away; what is not kept expires after a day."""
    with_base(runtime)
    (kept,) = [runtime.snapshots()[one]["kumomori:expires"] for one in runtime.ours()]
    days = (datetime.fromisoformat(kept) - datetime.now(UTC)).total_seconds() / 86_400
    assert 45.9 < days <= 46


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KUMOMORI_FUNCTION_DATABASE_SECRET", "", "KUMOMORI_FUNCTION_DATABASE_SECRET is not set"),
        ("KUMOMORI_FUNCTION_KEYS_SECRET", "", "KUMOMORI_FUNCTION_KEYS_SECRET is not set"),
        ("KUMOMORI_FUNCTION_SLOTS", "0", "KUMOMORI_FUNCTION_SLOTS"),
        ("KUMOMORI_FUNCTION_SLOTS", "many", "KUMOMORI_FUNCTION_SLOTS"),
        ("KUMOMORI_FLEET_OBJECTS", "", "KUMOMORI_FLEET_OBJECTS is not set"),
        ("KUMOMORI_FLEET_DATABSE", "x", "no such setting"),
    ],
)
def test_settings(runtime: Fleet, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words) as told:
        handler({}, Lambda())
    assert "postgresql://" not in str(told.value)


def test_a_file_is_no_database_of_a_function(runtime: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "read_secret", lambda _, arn: "sqlite:////tmp/fleet.sqlite")
    with pytest.raises(ConfigError, match="PostgreSQL is needed"):
        read(os.environ)


def test_the_database_may_stand_in_the_environment(runtime: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUMOMORI_FLEET_DATABASE", runtime.url)
    monkeypatch.delenv("KUMOMORI_FUNCTION_DATABASE_SECRET")
    visit = read(os.environ)
    assert visit.settings.database.get_secret_value() == runtime.url
    assert runtime.url not in repr(visit)
    assert KEYS.split()[1] not in repr(visit)


@pytest.mark.parametrize(
    "secret", ["pa:ss/wo@rd", "pa:ss/wo@rd\n", '{"username": "postgres", "password": "pa:ss/wo@rd"}']
)
def test_the_password_may_stand_apart(runtime: Fleet, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """As RDS keeps it, and changes it."""
    monkeypatch.setenv("KUMOMORI_FLEET_DATABASE", runtime.url)
    monkeypatch.setattr(function, "read_secret", lambda _, arn: KEYS if arn == "arn:keys" else secret)
    url = make_url(read(os.environ).settings.database.get_secret_value())
    assert (url.password, url.host, url.port) == ("pa:ss/wo@rd", "127.0.0.1", make_url(runtime.url).port)
    assert handler({}, Lambda())["worker"] == "none"  # the server of the tests lets everybody in


@pytest.mark.parametrize("secret", ["{", '{"user": "hush"}', "{" * 100_000])
def test_a_bad_secret_is_told_without_it(runtime: Fleet, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("KUMOMORI_FLEET_DATABASE", runtime.url)
    monkeypatch.setattr(function, "read_secret", lambda _, arn: secret)
    with pytest.raises(ConfigError, match="without a password") as told:
        read(os.environ)
    assert "hush" not in str(told.value)


@pytest.mark.parametrize(
    ("table", "older"), [("fleet_version", "version_num = '0003'"), ("dbos.dbos_migrations", "version = version - 1")]
)
def test_of_an_older_fleet_nothing_is_changed(
    runtime: Fleet, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, table: str, older: str
) -> None:
    """A function may be upgraded before its fleet: what is due waits until the fleet is. Neither ours nor the engine's tables change,
    and no slot is held."""
    monkeypatch.setenv("KUMOMORI_FLEET_LEASE_SECONDS", "600")

    def now(change: str) -> Any:
        with runtime.database.write() as connection:
            before = connection.execute(text(f"SELECT * FROM {table}")).scalar_one()
            connection.execute(text(f"UPDATE {table} SET {change}"))
        return before

    small = with_base(runtime)
    column = older.partition(" ")[0]
    ours = now(older)
    told = ""
    try:
        assert handler({}, Lambda())["worker"] == "failed"
    except Unavailable as error:
        told = str(error)
    assert "upgrade the fleet first" in told + "".join(capfd.readouterr())
    assert now(f"{column} = '{ours}'") != ours, "it was left as it was"
    assert (runtime.row(small).state, runtime.row(small).attempt) == (ScanState.WAITING, 0)
    assert handler({}, Lambda())["worker"] == "ended"
    assert runtime.results()[small].state is ScanState.DONE


def test_a_database_that_is_away_is_an_error(
    runtime: Fleet, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUMOMORI_FLEET_DATABASE", "postgresql://kumomori:hush-hush@127.0.0.1:9/none")
    monkeypatch.delenv("KUMOMORI_FUNCTION_DATABASE_SECRET")
    with pytest.raises(Unavailable) as told:
        handler({}, Lambda())
    assert "hush" not in str(told.value) + "".join(capfd.readouterr())
