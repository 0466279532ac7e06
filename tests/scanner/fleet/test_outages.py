"""A scan outlives a database that is away and a disk that is full: it ends, and nothing of it stays behind."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from client.model import ScanState
from scanner.fleet.tables import slot
from tests.need import need_root
from tests.postgres import Postgres
from tests.scanner.fleet.fleet import Fleet
from tests.scanner.fleet.workers import eventually

pytestmark = pytest.mark.slow


@contextmanager
def supervised(fleet: Fleet, lease: float) -> Iterator[None]:
    """A worker, and another one each time that it ends."""
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            worker = fleet.worker(lease=lease)
            while worker.poll() is None and not done.wait(0.1):
                pass
            worker.kill()
            worker.wait()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def in_the_scan(fleet: Fleet, do: Callable[[], None], lease: float) -> ScanState:
    """Its state in the end, when `do` was done in the middle of it."""
    fleet.remote.do("calm")
    fleet.remote.do("limits", block_latency_seconds=0.25)
    fleet.order("one")
    with supervised(fleet, lease):
        eventually(lambda: fleet.row("one").step == "scan", fleet.log())
        do()
        fleet.remote.do("calm")

        def has_ended() -> bool:
            fleet.hurry()
            return "one" in fleet.results()

        eventually(has_ended, fleet.log())
    result = fleet.results()["one"]
    assert not [one for one in fleet.sweep() if one.error]
    assert fleet.ours() == set()
    assert result.state is ScanState.FAILED or fleet.report(result)["result"] == "clean"
    return result.state


@pytest.mark.parametrize(
    ("away_seconds", "lease"),
    [(3.0, 10.0), (8.0, 3.0), (65.0, 10.0)],
    ids=["shorter than the lease", "longer", "a minute"],
)
def test_the_database_is_away(
    postgres: Postgres, tmp_path: Path, aws: dict[str, Any], away_seconds: float, lease: float
) -> None:
    """Longer than the lease, the worker must end, and the next one goes on. A minute is twice a lease as it is by default."""
    url = postgres.database()
    fleet = Fleet(url, tmp_path, aws)

    def away() -> None:
        postgres.stop()
        time.sleep(away_seconds)
        postgres.go()

    try:
        assert in_the_scan(fleet, away, lease) is ScanState.DONE
        assert fleet.row("one").attempt == 1
    finally:
        fleet.close()
        postgres.drop(url)


def test_the_file_is_locked_for_a_minute(tmp_path: Path, aws: dict[str, Any]) -> None:
    """Nobody else can write: the lease of the worker ends, and the next one goes on with its scan, which has one result."""
    path = tmp_path / "fleet" / "fleet.sqlite"
    fleet = Fleet(f"sqlite:///{path}", tmp_path, aws)

    def lock() -> None:
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(65)
            connection.execute("ROLLBACK")
        finally:
            connection.close()

    try:
        assert in_the_scan(fleet, lock, 10.0) is ScanState.DONE
        assert fleet.row("one").attempt == 1
        with fleet.database.read() as connection:
            slots = connection.execute(select(slot.c.name, slot.c.epoch)).all()
        assert [row.name for row in slots] == ["slot-1"]
        assert slots[0].epoch > 1, "its worker did not hold on to what it could not renew"
    finally:
        fleet.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 64 MiB."""
    need_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_the_disk_is_full(small: Path, aws: dict[str, Any]) -> None:
    """Database and data lie on it."""
    fleet = Fleet(f"sqlite:///{small}/fleet.sqlite", small, aws)

    def fill() -> None:
        filler = small / "filler"
        with filler.open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(bytes(1 << 16))
        time.sleep(5)
        filler.unlink()

    try:
        assert in_the_scan(fleet, fill, 3.0) in {ScanState.DONE, ScanState.FAILED}
    finally:
        fleet.close()
