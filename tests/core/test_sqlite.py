from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.sqlite import write_ahead


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[Path, sqlite3.Connection]]:
    """A new file that another connection is writing to, so that nobody may change its journal mode."""
    file = tmp_path / "new.sqlite"
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    yield file, connection
    connection.close()


def mode(file: Path) -> str:
    connection = sqlite3.connect(file)
    try:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    finally:
        connection.close()


def test_waits_for_others(busy: tuple[Path, sqlite3.Connection]) -> None:
    file, other = busy
    released = threading.Timer(0.5, other.execute, ["COMMIT"])
    released.start()
    connection = sqlite3.connect(file, timeout=0)
    began = time.monotonic()
    write_ahead(connection, 60)
    connection.close()
    assert time.monotonic() - began > 0.3
    released.join()
    assert mode(file) == "wal"


def test_not_for_ever(busy: tuple[Path, sqlite3.Connection]) -> None:
    connection = sqlite3.connect(busy[0], timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        write_ahead(connection, 0.1)
    connection.close()


def test_another_reason_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "plain.sqlite"
    sqlite3.connect(file).execute("CREATE TABLE one (id)").connection.close()
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    began = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        write_ahead(connection, 60)
    connection.close()
    assert time.monotonic() - began < 30
