"""The supervisor with real processes: what dies comes back, nothing is left behind, no secret is in a process list."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from scanner.fleet.tables import slot
from tests.scanner.fleet.console import FakeConsole, served
from tests.scanner.fleet.duties import Desk, until

pytestmark = pytest.mark.slow
SLOTS = {"link", "watch", "sweep", "slot-1", "slot-2"}


class Running:
    """A supervisor in a process of its own, and its descendants."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.log = desk.settings.data.parent / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scanner.fleet.supervisor"],
                env={**os.environ, **desk.settings.environment(), "AWS_EC2_METADATA_DISABLED": "true"},
                stderr=log,
            )

    def children(self) -> dict[int, str]:
        """Their command lines, by process."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_bytes().rpartition(b") ")[2].split()[1])
                command = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if parent == self.process.pid and command:
                found[int(stat.parent.name)] = command
        return found

    def held(self) -> set[str]:
        now = time.time() * 1000
        with self.desk.database.read() as connection:
            rows = connection.execute(select(slot)).all()
        return {row.name for row in rows if row.holder is not None and row.lease_ends_ms > now}

    def holders(self) -> dict[str, tuple[str, int]]:
        """By slot, who has it and by which epoch."""
        with self.desk.database.read() as connection:
            return {row.name: (str(row.holder), row.epoch) for row in connection.execute(select(slot)).all()}

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Running, FakeConsole]]:
    console = FakeConsole()
    with served(console) as address:
        desk = Desk(f"sqlite:///{tmp_path}/fleet.sqlite", tmp_path, address, grace_seconds=2, lease_seconds=3)
        made = Running(desk)
        try:
            until(lambda: made.held() == SLOTS, 60)
            yield made, console
        finally:
            made.end()
            desk.database.close()


def alive(pids: set[int]) -> set[int]:
    """Those that run; a zombie does not."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]
        except OSError:
            continue
        if state != b"Z":
            found.add(pid)
    return found


def test_what_dies_is_started_again(running: tuple[Running, FakeConsole]) -> None:
    made, console = running
    before = made.children()
    assert len(before) == 5
    (link,) = (pid for pid, command in before.items() if "duty link" in command)
    os.kill(link, signal.SIGKILL)
    console.order_scan("s-1", not_before=console.now().replace(year=2100))
    until(lambda: "s-1" in made.desk.scans(), 30)
    assert len(made.children()) == 5
    assert "link ended by signal 9" in made.log.read_text()
    worker = next(pid for pid, command in before.items() if "worker" in command)
    os.kill(worker, signal.SIGKILL)
    until(lambda: worker not in made.children() and len(made.children()) == 5, 30)
    until(lambda: made.held() == SLOTS, 30)


def test_nothing_is_left_when_it_is_told_to_end(running: tuple[Running, FakeConsole]) -> None:
    made, _ = running
    pids = set(made.children())
    made.process.terminate()
    assert made.process.wait(15) == 0
    assert not alive(pids)
    assert not made.held()  # the next one need not wait


def test_nothing_is_left_when_it_is_killed(running: tuple[Running, FakeConsole]) -> None:
    made, _ = running
    pids = set(made.children())
    made.process.kill()
    made.process.wait()
    until(lambda: not alive(pids), 5)


def test_two_on_one_data_folder(running: tuple[Running, FakeConsole]) -> None:
    """Each slot and duty has one holder; what one of the two leaves when it is killed, the other goes on with."""
    made, console = running
    second = Running(made.desk)
    try:
        until(lambda: len(second.children()) == 5, 30)
        time.sleep(4)  # longer than a lease: they have all asked
        before = made.holders()
        made.process.kill()
        made.process.wait()
        ends = time.monotonic() + 4
        until(lambda: time.monotonic() > ends and second.held() == SLOTS, 60)
        assert all(epoch >= before[name][1] for name, (_, epoch) in second.holders().items())
        console.order_scan("s-1", not_before=console.now().replace(year=2100))
        until(lambda: "s-1" in made.desk.scans(), 30)
    finally:
        second.end()


def test_no_secret_is_in_a_process_list(running: tuple[Running, FakeConsole]) -> None:
    made, console = running
    for command in made.children().values():
        assert "sqlite" not in command
        assert console.token not in command


def test_what_cannot_start(tmp_path: Path) -> None:
    environment = {**os.environ, "KUMOMORI_FLEET_DATABASE": "mysql://u:s3cret@h/d", "KUMOMORI_FLEET_SLOT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "scanner.fleet.supervisor"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "KUMOMORI_FLEET_SLOT: there is no such setting" in done.stderr
    assert "s3cret" not in done.stderr
