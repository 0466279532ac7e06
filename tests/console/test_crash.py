"""A real console process is killed in the middle of its work, and begun again: nothing is lost, nothing is there twice."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from client.model import ScanIn, Scope, TokenIn
from console.clock import now
from console.nopolicies import NoPolicies
from console.settings import PREFIX
from console.store import scans, tables, tokens
from console.store.database import Database
from tests.console.made import FLEET, enrol, finding, gap, key, report, result

_ROOT = Path(__file__).resolve().parents[2]
_RESULTS = 200
_DEADLINE_SECONDS = 180


class Process:
    """`python -m console.serve`, which may be killed and begun again on the same port."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.port = 0
        self.address = ""
        self.begin()

    def begin(self) -> None:
        environment = {
            **os.environ,
            f"{PREFIX}DATABASE": self.url,
            f"{PREFIX}PORT": str(self.port),
            f"{PREFIX}SHUTDOWN_SECONDS": "5",
        }
        command = [sys.executable, "-m", "console.serve"]
        self.process = subprocess.Popen(
            command, env=environment, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://127.0.0.1:"), "the console did not start"
        self.port = int(self.address.rpartition(":")[2])

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def process(empty_url: str) -> Iterator[Process]:
    running = Process(empty_url)
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGKILL)


def prepare(url: str) -> tuple[str, list[str]]:
    """A fleet's token, and scans of as many instances."""
    database = Database(url)
    ids = [f"i-{number}" for number in range(_RESULTS)]
    enrol(database, *ids)
    with database.write() as connection:
        started, _ = scans.start(connection, ScanIn(instances=tuple(map(key, ids))), NoPolicies(), "test", now())
        new = tokens.make(connection, TokenIn(name="fleet", scopes=(Scope.FLEET,), fleet=FLEET), "test")
    database.close()
    return new.secret, [scan.id for scan in started]


def push(address: str, secret: str, waiting: queue.Queue[str], done: list[str]) -> None:
    """As a fleet does it: again until it is answered."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    while not waiting.empty():
        try:
            scan = waiting.get_nowait()
        except queue.Empty:
            return
        found = [finding("a"), finding("b"), finding("c")]
        body = result(scan, report(found, [gap()])).model_dump_json()
        while time.monotonic() < deadline:
            try:
                answer = httpx.post(f"{address}/v1/fleets/{FLEET}/results", content=body, headers=headers, timeout=30)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            assert answer.status_code in {200, 503}, answer.text
            if answer.status_code == 200:
                done.append(scan)
                break
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_results_arrive_once_although_the_console_dies(process: Process, how: signal.Signals) -> None:
    secret, ordered = prepare(process.url)
    waiting: queue.Queue[str] = queue.Queue()
    for scan in ordered:
        waiting.put(scan)
    done: list[str] = []
    threads = [threading.Thread(target=push, args=(process.address, secret, waiting, done)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for point in (40, 90, 150):
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while len(done) < point:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        code = process.end(how)
        assert code in ({-signal.SIGKILL} if how is signal.SIGKILL else {0, -signal.SIGTERM})
        process.begin()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(ordered)
    database = Database(process.url)
    with database.read() as connection:
        states = connection.execute(sa.select(tables.scan.c.state, sa.func.count()).group_by(tables.scan.c.state)).all()
        findings = connection.execute(sa.select(tables.finding.c.instance, tables.finding.c.state)).all()
        gaps = connection.execute(sa.select(sa.func.count()).select_from(tables.gap)).scalar()
        reports = connection.execute(sa.select(sa.func.count()).select_from(tables.report)).scalar()
    database.close()
    assert [tuple(row) for row in states] == [("done", _RESULTS)]
    assert (len(findings), {row.state for row in findings}) == (3 * _RESULTS, {"open"})
    assert (gaps, reports) == (_RESULTS, _RESULTS)


@pytest.mark.slow
def test_a_waiting_fleet_does_not_hold_back_the_end(process: Process) -> None:
    secret, _ = prepare(process.url)
    answers: list[httpx.Response] = []
    url = f"{process.address}/v1/fleets/{FLEET}/orders?after=100000&wait_seconds=60"
    thread = threading.Thread(
        target=lambda: answers.append(httpx.get(url, headers={"Authorization": f"Bearer {secret}"}, timeout=90))
    )
    thread.start()
    time.sleep(1)
    started = time.monotonic()
    assert process.end(signal.SIGTERM) in {0, -signal.SIGTERM}
    thread.join()
    assert time.monotonic() - started < 5
    assert [answer.status_code for answer in answers] == [200]
