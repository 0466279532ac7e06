"""Whether limits hold while many workers claim scans, and how near to the ideal packing the time comes.

The ideal is a bound from below: no order of scans can be faster than the total, the fullest account and the fullest host allow.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import func, select

from bench.measure import ROOT
from bench.page import Section
from client.model import ScanKind, ScanOrder, ScanState, Why
from core.estate import Instance, Place
from scanner.fleet import admission
from scanner.fleet.database import Database
from scanner.fleet.migrations import upgrade
from scanner.fleet.tables import scan

SHARES: Final = (28, 22, 17, 14, 11, 8)  # percent of the machines in each account: no estate is even
_PATIENCE_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """`hosts` take turns. Limits are scans at once."""

    machines: int = 500
    hosts: int = 60
    workers: int = 8
    capacity: int = 2
    scan_seconds: float = 4.0
    per_account: int = 5
    per_host: int = 2
    total: int = 12

    def accounts(self) -> list[str]:
        """Of each machine, one after the other."""
        ends = [round(self.machines * sum(SHARES[: number + 1]) / 100) for number in range(len(SHARES))]
        return [f"{number:012}" for number, end in enumerate(ends) for _ in range(end - ([0, *ends][number]))]

    def ideal_seconds(self) -> float:
        account = max(Counter(self.accounts()).values())
        host = -(-self.machines // self.hosts)
        rounds = (-(-self.machines // self.total), -(-account // self.per_account), -(-host // self.per_host))
        return max(rounds) * self.scan_seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """What ran at once at most, in total and of one account and host: `most` by samples, `written` from when each began and ended."""

    seconds: float
    ideal_seconds: float
    most: tuple[int, int, int]
    written: tuple[int, int, int]
    samples: int
    ended: int

    @property
    def ratio(self) -> float:
        return self.seconds / self.ideal_seconds


def simulate(url: str, crowd: Crowd) -> Outcome:
    """Order all at once, let the workers run until all have ended."""
    database = Database(url)
    upgrade(database)
    _order(database, crowd)
    environment = {
        **os.environ,
        "FLEET_SCAN_SECONDS": str(crowd.scan_seconds),
        "FLEET_TOTAL": str(crowd.total),
        "FLEET_CAPACITY": str(crowd.capacity),
    }
    words = [
        sys.executable,
        "-m",
        "scanner.fleet.worker",
        "--database",
        url,
        "--poll",
        "0.1",
        "--work",
        "bench.fleet_work",
    ]
    with ExitStack() as stack:
        for number in range(crowd.workers):
            process = subprocess.Popen([*words, "--slot", f"slot-{number}"], cwd=ROOT, env=environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
        most, samples = _watched(database, crowd)
    with database.read() as connection:
        rows = connection.execute(select(scan)).all()
    database.close()
    exact = _most_at_once(rows)
    first, last = min(row.started_ms for row in rows), max(row.ended_ms for row in rows)
    return Outcome(
        (last - first) / 1000,
        crowd.ideal_seconds(),
        most,
        exact,
        samples,
        sum(row.state == ScanState.DONE for row in rows),
    )


def _order(database: Database, crowd: Crowd) -> None:
    due = datetime.now(UTC) - timedelta(seconds=60)
    settings = {"limits.scans_per_account": crowd.per_account, "limits.scans_per_host": crowd.per_host}
    with database.write() as connection:
        for number, account in enumerate(crowd.accounts()):
            machine = Instance(Place("aws", account, "eu-central-1"), f"i-{number:05}")
            order = ScanOrder(
                scan=f"scan-{number:05}",
                kind=ScanKind.INSTANCE,
                place=machine.place,
                machine=str(machine),
                instance=machine,
                placement=f"host-{number % crowd.hosts}",
                why=Why.SCHEDULE,
                not_before=due + timedelta(seconds=(number * 7919) % 50),  # as schedules spread them
                settings=settings,
            )
            admission.write_down(database, connection, order)


def _watched(database: Database, crowd: Crowd) -> tuple[tuple[int, int, int], int]:
    """Look at what runs until nothing is left; the most of each, and how often it was looked."""
    most, samples, ends = (0, 0, 0), 0, time.monotonic() + _PATIENCE_SECONDS
    open_ = select(func.count()).where(scan.c.ended_ms.is_(None))
    running = select(scan.c.account, scan.c.placement).where(scan.c.state == ScanState.RUNNING)
    while time.monotonic() < ends:
        with database.read() as connection:
            rows = connection.execute(running).all()
            left = connection.execute(open_).scalar_one()
        found = (len(rows), _most(row.account for row in rows), _most(row.placement for row in rows))
        most = tuple(max(pair) for pair in zip(most, found, strict=True))  # type: ignore[assignment]
        samples += 1
        if not left:
            return most, samples
        time.sleep(0.05)
    raise TimeoutError(f"{crowd.machines} scans did not end")


def _most(names: Iterable[str]) -> int:
    return max(Counter(names).values(), default=0)


def _most_at_once(rows: Sequence[Any]) -> tuple[int, int, int]:
    """From when each began and ended; one that ends in the millisecond in which another begins ended before."""
    moments = sorted(
        [(row.started_ms, 1, row) for row in rows] + [(row.ended_ms, -1, row) for row in rows], key=lambda one: one[:2]
    )
    running: Counter[str] = Counter()
    most = {"all": 0, "account": 0, "host": 0}
    for _, change, row in moments:
        for kind, name in (("all", "all"), ("account", f"account {row.account}"), ("host", row.placement)):
            running[name] += change
            most[kind] = max(most[kind], running[name])
    return most["all"], most["account"], most["host"]


def fleet(url: str, crowd: Crowd) -> Section:
    found = simulate(url, crowd)
    return Section(
        f"{crowd.machines} machines, {crowd.workers} worker processes",
        f"Scans that take {crowd.scan_seconds:g} s each, all due at once, in {len(SHARES)} accounts of uneven size on {crowd.hosts} hosts; "
        "real workers on PostgreSQL.",
        ("most at once", "in samples", "in the database's records", "limit"),
        tuple(
            (name, str(sampled), str(written), str(limit))
            for name, sampled, written, limit in zip(
                ("in total", "of one account", "of one host"),
                found.most,
                found.written,
                (crowd.total, crowd.per_account, crowd.per_host),
                strict=True,
            )
        ),
        (
            f"{found.seconds:.1f} s for all; the ideal packing takes {found.ideal_seconds:.1f} s at least: ratio {found.ratio:.2f}.",
            f"Looked at {found.samples:,} times while it ran; the records say when each scan began and ended.",
        ),
    )
