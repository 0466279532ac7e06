"""kill -9 anywhere in a scan: the next holder of the slot goes on with the step that was cut off, and nobody else does."""

from __future__ import annotations

import signal
import time

import pytest
from sqlalchemy import text

from scanner.fleet import engine
from tests.scanner.fleet.workers import Site, done_once, eventually, kill

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("place", "finished", "repeated"),
    [
        pytest.param("claimed", 0, "", id="claimed-not-begun"),
        pytest.param("in-0", 0, "", id="in-first-step"),
        pytest.param("between-0", 1, "", id="between-first-and-second"),
        pytest.param("in-1", 1, "", id="in-second-step"),
        # at least once: an effect that was done and not yet written down is done again, so it must bear that
        pytest.param("after-1", 1, "done-1", id="done-not-written-down"),
        pytest.param("between-1", 2, "", id="between-second-and-third"),
        pytest.param("in-2", 2, "", id="in-third-step"),
        pytest.param("between-2", 3, "", id="before-the-store"),
        pytest.param("in-store", 3, "", id="in-the-store"),
    ],
)
def test_a_killed_scan_goes_on(site: Site, place: str, finished: int, repeated: str) -> None:
    site.order("scan-a")
    first = site.worker(hold=place)
    site.held(first, place)
    kill(first)

    second = site.worker()
    site.ended("scan-a")
    begun = [event for event in site.events(second) if event.startswith("begin-")]
    assert begun == [f"begin-{number}" for number in range(finished, 3)] + ["begin-store"]
    done_once(site.events(), twice=repeated)
    assert not any(event.startswith("ended-") for event in site.events())  # the workflow stored its end by itself


def test_another_slots_worker_leaves_it_alone(site: Site) -> None:
    """Also while the slot's own engine is recovering: in DBOS 3.4.0 recovered work lies on a queue that all look at."""
    site.order("scan-a", "scan-b", "scan-c")
    first = site.worker(hold="in-1")
    # all three: one that was killed between a step and writing it down would rightly do that step twice
    eventually(lambda: site.events(first).count("hold-in-1") == 3, "all three are in their second step")
    other = site.worker(slot="slot-2")
    kill(first)
    site.order("scan-d")
    site.ended("scan-d")  # the other one is at work
    time.sleep(2.5)  # and has looked at its queues a few times
    assert {line.scan for line in site.lines() if line.pid == other.pid and line.event.startswith("begin")} == {
        "scan-d"
    }

    second = site.worker()
    site.ended("scan-a", "scan-b", "scan-c")
    by_scan = {scan: [line for line in site.lines() if line.scan == scan] for scan in ("scan-a", "scan-b", "scan-c")}
    for lines in by_scan.values():
        done_once(line.event for line in lines)
        assert {line.pid for line in lines} <= {first.pid, second.pid}
    assert second.poll() is None and other.poll() is None


def test_an_asked_worker_ends_after_the_running_step_and_gives_its_slot_back(site: Site) -> None:
    site.order("scan-a")
    first = site.worker(hold="in-1", lease=60)
    site.held(first, "in-1")
    first.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert first.poll() is None  # the step runs
    site.go()
    assert first.wait(60) == 0
    assert site.events(first)[-1] == "done-1"  # no further step, and no `finally`

    began = time.monotonic()
    second = site.worker(lease=60)
    site.ended("scan-a")
    assert time.monotonic() - began < 60  # it did not wait for the lease
    done_once(site.events())
    assert "begin-1" not in site.events(second)


def test_a_scan_that_fails_is_told(site: Site) -> None:
    site.order("scan-a")
    worker = site.worker(FLEET_FAIL="raised")
    site.ended("scan-a")
    eventually(lambda: "ended-failed" in site.events(worker), "told")


def test_what_a_step_raised_is_the_same_from_memory(site: Site) -> None:
    """Else a workflow that catches it would go another way after a crash."""
    site.order("scan-a")
    first = site.worker(hold="between-0", FLEET_FAIL="caught")
    site.held(first, "between-0")
    kill(first)
    second = site.worker()
    site.ended("scan-a")
    for process in (first, second):
        assert "failed-Throttled-slow-down" in site.events(process)
    assert "begin-0" not in site.events(second)


def test_workers_that_start_at_once_on_a_new_database(site: Site) -> None:
    """Each makes the engine's tables; a fifth stands by until a slot is free."""
    workers = [site.worker(slot="") for _ in range(5)]
    eventually(lambda: site.stderr().count("taken, epoch 1") == 4, f"four slots: {site.stderr()}")
    site.order(*(f"scan-{number}" for number in range(8)))
    site.ended(*(f"scan-{number}" for number in range(8)))
    assert [worker.poll() for worker in workers] == [None] * 5
    for number in range(8):
        done_once(line.event for line in site.lines() if line.scan == f"scan-{number}")
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    assert [worker.wait(60) for worker in workers] == [0] * 5
    assert "epoch 2" in site.stderr() or site.stderr().count("taken") == 4


def test_what_ended_is_forgotten_in_the_end(site: Site) -> None:
    site.order("scan-a", "scan-b")
    first = site.worker()
    site.ended("scan-a", "scan-b")
    eventually(lambda: set(_remembered(site).values()) == {"SUCCESS"}, "both are written down")
    first.terminate()
    assert first.wait(30) == 0
    site.order("scan-c")
    second = site.worker(hold="in-1")
    site.held(second, "in-1")
    assert len(_remembered(site)) == 3  # a day is not over
    kill(second)

    third = site.worker("--remember", "0", hold="in-1")
    site.held(third, "in-1")
    eventually(lambda: _remembered(site).keys() == {"scan-c"}, "what goes on is remembered")
    site.go()
    site.ended("scan-c")
    done_once(line.event for line in site.lines() if line.scan == "scan-c")


def _remembered(site: Site) -> dict[str, str]:
    """The engine's workflows: id and status."""
    database = site.database
    reader = engine.sqlite_engine(engine.engine_file(database.url)) if database.is_sqlite else database.engine
    table = "workflow_status" if database.is_sqlite else f"{engine.SCHEMA}.workflow_status"
    with reader.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(text(f"SELECT workflow_uuid, status FROM {table}"))}
