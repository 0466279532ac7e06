"""Scans for the tests of the fleet: three effects and a store, each written to a journal, with places to hold at.

A worker runs it by `--work tests.scanner.fleet.effects`. Settings are environment variables, since it is another process.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sqlalchemy import Boolean, Column, MetaData, String, Table, select, update

from core.errors import Throttled
from scanner.fleet import engine
from scanner.fleet.database import Database
from scanner.fleet.slots import Fence

STEPS: Final = 3
JOURNAL: Final = Path(os.environ.get("FLEET_JOURNAL", "/nonexistent"))
HOLD: Final = os.environ.get("FLEET_HOLD", "")  # the place to wait at, until the file `go` lies beside the journal
CHILD: Final = "FLEET_CHILD" in os.environ
FAIL: Final = os.environ.get("FLEET_FAIL", "")  # a step raises, and the workflow lets it: "raised", or not: "caught"
CLOCK_OFFSET: Final = float(os.environ.get("FLEET_CLOCK_OFFSET", "0"))

metadata: Final = MetaData()
todo: Final = Table(
    "todo",
    metadata,
    Column("id", String, primary_key=True),
    Column("slot", String),
    Column("ended", Boolean, nullable=False, default=False),
)

if CLOCK_OFFSET:
    _real_time = time.time
    time.time = lambda: _real_time() + CLOCK_OFFSET


class _State:
    database: Database
    fence: Fence


def journal(event: str, scan_id: str) -> None:
    """`seconds pid event scan`, in one write, so that lines of several processes do not mix."""
    line = f"{time.monotonic():.4f} {os.getpid()} {event} {scan_id}\n"
    fd = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())
    os.close(fd)


def hold(place: str, scan_id: str) -> None:
    if place == HOLD:
        journal(f"hold-{place}", scan_id)
        while not (JOURNAL.parent / "go").exists():
            time.sleep(0.01)


@engine.step
def effect(scan_id: str, number: int) -> int:
    journal(f"begin-{number}", scan_id)
    if FAIL:
        raise Throttled("slow-down", after=1.0)
    if CHILD:
        child = subprocess.Popen(["sh", "-c", "sleep 600 & wait"])
        journal(f"child-{child.pid}", scan_id)
    hold(f"in-{number}", scan_id)
    _State.fence.check()
    journal(f"done-{number}", scan_id)
    hold(f"after-{number}", scan_id)
    return number


@engine.step
def store(scan_id: str) -> None:
    journal("begin-store", scan_id)
    hold("in-store", scan_id)
    with _State.database.write() as connection:
        _State.fence.guard(connection)
        connection.execute(update(todo).where(todo.c.id == scan_id).values(ended=True))
    journal("done-store", scan_id)


@engine.durable
def scan(scan_id: str) -> None:
    total = 0
    try:
        for number in range(STEPS):
            try:
                total += effect(scan_id, number)
            except engine.StepFailed as error:
                journal(f"failed-{error.kind}-{error}", scan_id)
                if FAIL == "raised":
                    raise
                total += number
            hold(f"between-{number}", scan_id)
    finally:
        journal("finally", scan_id)  # where a real scan gives up what it holds: not when its worker ends
    assert total == sum(range(STEPS))
    store(scan_id)


class Todo:
    def __init__(self, database: Database, fence: Fence) -> None:
        self._database = database
        self._slot = fence.slot.name

    def claimed(self, fence: Fence) -> Sequence[str]:
        with self._database.write() as connection:
            fence.guard(connection)
            taken = connection.execute(update(todo).where(todo.c.slot.is_(None)).values(slot=self._slot)).rowcount
            found = (
                connection.execute(select(todo.c.id).where(todo.c.slot == self._slot, ~todo.c.ended)).scalars().all()
            )
        if taken:
            journal("claimed", "-")
            hold("claimed", "-")
        return found

    def ended(self, fence: Fence, scan_id: str, status: engine.Status) -> None:
        journal(f"ended-{status}", scan_id)
        with self._database.write() as connection:
            fence.guard(connection)
            connection.execute(update(todo).where(todo.c.id == scan_id).values(ended=True))


def work(database: Database, fence: Fence) -> Todo:
    _State.database, _State.fence = database, fence
    return Todo(database, fence)
