"""What tests of duties begin with: a database with its tables, a slot, settings that point at a console."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from client.model import ResultIn, ScanState
from scanner.fleet import admission
from scanner.fleet.database import Database
from scanner.fleet.line import Said
from scanner.fleet.link import Link
from scanner.fleet.migrations import upgrade
from scanner.fleet.settings import Settings
from scanner.fleet.slots import Fence, claim
from scanner.fleet.tables import outbox, scan
from tests.scanner.fleet.console import TOKEN, scan_order

FLEET = "edge"


class Desk:
    """A fleet's database and settings; `clock` is how far its clock is off."""

    def __init__(self, url: str, folder: Path, console: str, **more: Any) -> None:
        self.clock = 0.0
        self.database = Database(url, clock=lambda: time.time() + self.clock)
        upgrade(self.database)
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN + "\n")
        given = {
            "database": url,
            "data": folder / "data",
            "console": console,
            "token_file": self.token_file,
            "fleet": FLEET,
            "poll_seconds": 0.02,
            "status_seconds": 0.1,
            "pull_seconds": 2,
            "lease_seconds": 5.0,
            **more,
        }
        (folder / "data").mkdir(exist_ok=True)
        self.settings = Settings.model_validate(given)
        self.lines: list[str] = []

    def fence(self, name: str = "link") -> Fence:
        slot = claim(self.database, "a-test", [name], 600)
        assert slot
        return Fence(self.database, slot)

    def said(self, name: str = "link") -> Said:
        return Said(name, say=self.lines.append)

    @contextmanager
    def linked(self) -> Iterator[Link]:
        """A link at work in threads of this process."""
        ended = threading.Event()
        link = Link(self.settings, self.database, self.fence(), ended, self.said())
        thread = threading.Thread(target=link.run, daemon=True)
        thread.start()
        try:
            yield link
        finally:
            ended.set()
            thread.join(10)
            assert not thread.is_alive()

    def process(self, duty: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "scanner.fleet.duty", duty],
            env={**os.environ, **self.settings.environment(), **environment},
            stderr=subprocess.PIPE,
        )

    # what is in the database

    def scans(self) -> dict[str, str]:
        with self.database.read() as connection:
            return {str(row.id): str(row.state) for row in connection.execute(select(scan.c.id, scan.c.state))}

    def row(self, name: str) -> Any:
        with self.database.read() as connection:
            return connection.execute(select(scan).where(scan.c.id == name)).one()

    def parcels(self) -> dict[str, Any]:
        with self.database.read() as connection:
            return {str(row.scan): row for row in connection.execute(select(outbox))}

    def unsent(self) -> list[str]:
        return [name for name, row in self.parcels().items() if row.sent_ms is None and row.refused is None]

    def finished(self, *names: str) -> None:
        """Scans that ended, with their results in the outbox."""
        with self.database.write() as connection:
            for name in names:
                admission.write_down(self.database, connection, scan_order(name))
                admission.end(self.database, connection, name, ScanState.DONE)

    def running(self, name: str) -> None:
        with self.database.write() as connection:
            connection.execute(update(scan).where(scan.c.id == name).values(state=ScanState.RUNNING, step="scan"))


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stderr
    process.stderr.close()


def until(ready: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.02)
    return found


def once(results: dict[str, list[ResultIn]]) -> set[str]:
    """Names of results, all repetitions of each the same."""
    assert all(one == some[0] for some in results.values() for one in some)
    return set(results)
