"""Worker processes for the tests, and what their journal says."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import insert, select

from scanner.fleet.database import Database
from scanner.fleet.tables import metadata
from tests.scanner.fleet import effects

LEASE_SECONDS = 2.0
ROOT = Path(__file__).resolve().parents[3]
PATIENCE_SECONDS = 90  # on a machine with much else to do


@dataclass(frozen=True)
class Line:
    seconds: float
    pid: int
    event: str
    scan: str


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@dataclass
class Site:
    """One fleet's database, and a folder for its journal."""

    url: str
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Database(self.url)
        metadata.create_all(self.database.engine)
        effects.metadata.create_all(self.database.engine)

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def order(self, *ids: str) -> None:
        with self.database.write() as connection:
            connection.execute(insert(effects.todo), [{"id": one, "slot": None, "ended": False} for one in ids])

    def worker(
        self, *arguments: str, slot: str = "slot-1", hold: str = "", lease: float = LEASE_SECONDS, **env: str
    ) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "FLEET_JOURNAL": str(self.journal), "FLEET_HOLD": hold, **env}
        with (self.folder / "stderr").open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "scanner.fleet.worker", "--database", self.url, *(["--slot", slot] if slot else ["--slots", "4"]), "--lease", str(lease),
                 "--poll", "0.1", "--work", "tests.scanner.fleet.effects", *arguments],
                cwd=ROOT, env=environment, stderr=stderr,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def lines(self) -> list[Line]:
        if not self.journal.exists():
            return []
        rows = (line.split() for line in self.journal.read_text().splitlines())
        return [Line(float(seconds), int(pid), event, scan) for seconds, pid, event, scan in rows]

    def events(self, process: subprocess.Popen[bytes] | None = None) -> list[str]:
        return [line.event for line in self.lines() if process is None or line.pid == process.pid]

    def held(self, process: subprocess.Popen[bytes], place: str) -> None:
        """Wait until `process` waits at `place`."""
        eventually(
            lambda: process.poll() is not None or f"hold-{place}" in self.events(process),
            f"hold at {place}: {self.stderr()}",
        )
        assert process.poll() is None, self.stderr()

    def ended(self, *ids: str) -> None:
        """Wait until these scans are stored, and the journal says so: its line is written after the transaction."""

        def left() -> set[str]:
            with self.database.read() as connection:
                stored = connection.execute(
                    select(effects.todo.c.id).where(effects.todo.c.id.in_(ids), effects.todo.c.ended)
                ).scalars()
                told = {line.scan for line in self.lines() if line.event.startswith(("done-store", "ended-"))}
                return set(ids) - (set(stored) & told)

        eventually(lambda: not left(), f"end of {ids}: {self.events()} {self.stderr()}")

    def go(self) -> None:
        (self.folder / "go").touch()

    def stop_cleanly(self, process: subprocess.Popen[bytes]) -> None:
        """SIGSTOP outside any transaction: on SQLite one that is stopped inside holds up everybody, see ADR 0012."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            process.send_signal(signal.SIGSTOP)
            eventually(lambda: _state(process.pid) == "T", "stopped")
            if not self.database.is_sqlite or all(_is_free(file) for file in self._files()):
                return
            process.send_signal(signal.SIGCONT)
            assert time.monotonic() < deadline
            time.sleep(0.03)

    def _files(self) -> Iterable[Path]:
        path = Path(str(self.database.url.database))
        return [path, path.parent / "engine.sqlite"]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.database.close()


def _is_free(file: Path) -> bool:
    connection = sqlite3.connect(file, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    else:
        return True
    finally:
        connection.close()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def kill(process: subprocess.Popen[bytes]) -> float:
    """kill -9; returns when, by the monotonic clock."""
    process.kill()
    at = time.monotonic()
    process.wait()
    return at


def done_once(events: Iterable[str], *, twice: str = "") -> None:
    """Every step ended exactly once, except `twice`."""
    counted = Counter(event for event in events if event.startswith("done-"))
    expected = {f"done-{number}": 1 for number in range(effects.STEPS)} | {"done-store": 1}
    assert counted == expected | ({twice: 2} if twice else {})
