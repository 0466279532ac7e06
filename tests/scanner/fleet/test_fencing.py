"""A worker that is slow but alive does nothing more once another has its slot; one whose database is away waits, or ends."""

from __future__ import annotations

import signal
import sqlite3
import time
from pathlib import Path

import pytest

from scanner.fleet.worker import EXIT_FENCED
from tests.postgres import Postgres
from tests.scanner.fleet.workers import Site, done_once, eventually, kill

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("place", ["in-1", "between-1", "in-store"])
def test_a_stopped_worker_wakes_up_too_late(site: Site, place: str) -> None:
    site.order("scan-a")
    stale = site.worker(hold=place)
    site.held(stale, place)
    site.stop_cleanly(stale)
    before = site.events(stale)

    second = site.worker()
    site.ended("scan-a")
    done_once(site.events())

    site.go()  # the moment it wakes up, its way is free
    stale.send_signal(signal.SIGCONT)
    assert stale.wait(60) == EXIT_FENCED
    assert site.events(stale) == before  # not one effect more
    done_once(site.events())
    assert second.poll() is None
    assert "slot-1" in site.stderr()


def test_its_children_end_with_it(site: Site) -> None:
    site.order("scan-a")
    stale = site.worker(hold="in-0", FLEET_CHILD="1")
    site.held(stale, "in-0")
    child = next(int(event.rpartition("-")[2]) for event in site.events(stale) if event.startswith("child-"))
    grandchildren = Path(f"/proc/{child}/task/{child}/children").read_text().split()
    assert grandchildren
    site.stop_cleanly(stale)
    site.worker()  # a slot that nobody took meanwhile may be renewed
    eventually(lambda: "slot-1 taken, epoch 2" in site.stderr(), "taken over")
    stale.send_signal(signal.SIGCONT)
    assert stale.wait(60) == EXIT_FENCED
    for pid in (child, *map(int, grandchildren)):
        eventually(lambda pid=pid: not _is_alive(pid), "end of the children")  # type: ignore[misc]


@pytest.mark.parametrize("offset", [3600, -3600], ids=["an-hour-ahead", "an-hour-behind"])
def test_a_worker_whose_clock_is_wrong(postgres: Postgres, tmp_path: Path, offset: int) -> None:
    url = postgres.database()
    site = Site(url, tmp_path)
    try:
        site.order("scan-a")
        first = site.worker(hold="in-1")
        site.held(first, "in-1")
        wrong = site.worker(FLEET_CLOCK_OFFSET=str(offset))
        assert wrong.wait(60) == 2  # refused: the other is alive
        assert "slot-1 is held by another worker" in site.stderr()
        kill(first)
        wrong = site.worker(FLEET_CLOCK_OFFSET=str(offset))
        site.ended("scan-a")
        done_once(site.events())
        kill(wrong)
    finally:
        site.close()
        postgres.drop(url)


def test_two_workers_told_the_same_slot(site: Site) -> None:
    first = site.worker()
    eventually(lambda: "taken" in site.stderr(), "first")
    second = site.worker()
    assert second.wait(60) == 2
    assert "slot-1 is held by another worker" in site.stderr()
    assert first.poll() is None


# the database is away


def test_postgres_away_for_less_than_the_lease(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database()
    site = Site(url, tmp_path)
    try:
        site.order("scan-a")
        worker = site.worker(hold="in-1", lease=60)
        site.held(worker, "in-1")
        postgres.stop()
        site.go()  # the step ends while it cannot be written down
        time.sleep(4)
        assert worker.poll() is None
        postgres.go()
        site.ended("scan-a")
        done_once(site.events())
        assert worker.poll() is None
    finally:
        if postgres.process is None:
            postgres.go()
        site.close()
        postgres.drop(url)


def test_postgres_away_for_longer_than_the_lease(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database()
    site = Site(url, tmp_path)
    try:
        site.order("scan-a")
        worker = site.worker(hold="in-1")
        site.held(worker, "in-1")
        before = site.events(worker)
        postgres.stop()
        assert worker.wait(60) == EXIT_FENCED  # nobody can tell it that the slot is still its own
        site.go()
        waiting = site.worker()  # it waits for the database
        time.sleep(2)
        postgres.go()
        site.ended("scan-a")
        assert site.events(worker) == before
        done_once(site.events())
        assert waiting.poll() is None
    finally:
        if postgres.process is None:
            postgres.go()
        site.close()
        postgres.drop(url)


@pytest.mark.parametrize("file", ["fleet.sqlite", "engine.sqlite"])
def test_sqlite_locked_for_some_seconds(tmp_path: Path, file: str) -> None:
    site = Site(f"sqlite:///{tmp_path}/fleet/fleet.sqlite", tmp_path)
    try:
        site.order("scan-a")
        worker = site.worker(hold="in-1", lease=60)
        site.held(worker, "in-1")
        lock = sqlite3.connect(tmp_path / "fleet" / file, timeout=30, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        site.go()
        time.sleep(12)  # longer than the fleet's busy timeout
        assert worker.poll() is None
        lock.execute("ROLLBACK")
        lock.close()
        site.ended("scan-a")
        done_once(site.events())
    finally:
        site.close()


def test_sqlite_locked_for_longer_than_the_lease(tmp_path: Path) -> None:
    site = Site(f"sqlite:///{tmp_path}/fleet/fleet.sqlite", tmp_path)
    try:
        site.order("scan-a")
        worker = site.worker(hold="in-1")
        site.held(worker, "in-1")
        before = site.events(worker)
        lock = sqlite3.connect(tmp_path / "fleet" / "fleet.sqlite", timeout=30, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        assert worker.wait(60) == EXIT_FENCED
        lock.execute("ROLLBACK")
        lock.close()
        assert site.events(worker) == before
        site.worker()
        site.ended("scan-a")
        done_once(site.events())
    finally:
        site.close()


def _is_alive(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return False
