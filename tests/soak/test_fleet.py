"""Every place at which a worker may die and every fault of a cloud, on both databases: `make soak` keeps the lines printed here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from client.model import ScanState
from tests.postgres import server
from tests.scanner.fleet import leaks
from tests.scanner.fleet.fleet import Fleet, emulated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@contextmanager
def fleets(kind: str, folder: Path) -> Iterator[Any]:
    """A function that makes a new fleet."""
    with ExitStack() as stack:
        aws = stack.enter_context(emulated(folder))
        postgres = stack.enter_context(server()) if kind == "postgres" else None
        numbers = iter(range(10_000))

        @contextmanager
        def fleet() -> Iterator[Fleet]:
            place = folder / str(next(numbers))
            place.mkdir()
            url = postgres.database() if postgres else f"sqlite:///{place}/fleet.sqlite"
            made = Fleet(url, place, aws, work="tests.scanner.fleet.killed")
            try:
                yield made
            finally:
                made.close()
                if postgres:
                    postgres.drop(url)

        yield fleet


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_nothing_leaks(kind: str, tmp_path: Path) -> None:
    broken = []
    with fleets(kind, tmp_path) as new:
        cases: list[tuple[str, dict[str, Any]]] = [(kill, {"kill": kill}) for kill in leaks.KILLS]
        cases += [(str(dict(fault)), {"fault": fault}) for fault in leaks.FAULTS]
        lately = [kill for kill in leaks.KILLS if "Snapshots" in kill or "snapshot" in kill]
        cases += [(f"{kill}, listed late", {"kill": kill, "late": True}) for kill in lately]
        for name, how in cases:
            with new() as fleet:
                try:
                    found = leaks.run(fleet, **how)
                except AssertionError as error:
                    found = str(error)
            if found:
                broken.append(f"{name}: {found}")
            print(f"{kind}: {name}: {found or 'nothing left'}", flush=True)
    print(
        f"\nfleet on {kind}: {len(leaks.KILLS)} places to die, {len(leaks.FAULTS)} faults of the cloud, {len(lately)} places to die with "
        f"late listing; {len(broken)} failures",
        flush=True,
    )
    assert not broken, "\n".join(line[:2000] for line in broken)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_scan_that_takes_its_worker_down_each_time(kind: str, tmp_path: Path) -> None:
    """It fails in the end, the scan after it is done, and the sweeper takes what it left."""
    with fleets(kind, tmp_path) as new, new() as fleet:
        fleet.remote.do("calm")
        fleet.order("bad")
        died = 0
        ends = time.monotonic() + 900
        while "bad" not in fleet.results():
            assert time.monotonic() < ends, fleet.log()
            worker = fleet.worker(lease=1.0, FLEET_KILL="scan:begin", FLEET_KILL_ALWAYS="1")
            while worker.poll() is None and "bad" not in fleet.results():
                time.sleep(0.1)
            died += worker.poll() is not None
            worker.kill()
            worker.wait()
        fleet.order("good")
        fleet.worker(lease=1.0)
        fleet.ended("good")
        left = fleet.ours()
        assert len(left) == 1, "what was made stays in the ledger"
        assert not [one for one in fleet.sweep() if one.error]
        assert fleet.results()["bad"].state is ScanState.FAILED
        assert fleet.ours() == set()
    print(
        f"\nfleet on {kind}: a scan that took {died} workers down has failed, and nothing is left; 0 failures",
        flush=True,
    )
