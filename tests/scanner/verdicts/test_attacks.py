"""A damaged cache, a full disk and odd names must never end a scan, and never make a verdict."""

from __future__ import annotations

import io
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import ConfigError
from scanner.lookup import CLEAN
from scanner.verdicts import VerdictCache, store
from tests.scanner.verdicts.test_verdicts import FOUND, Folder, key


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "cache")


def change(folder: Folder, statement: str) -> None:
    with sqlite3.connect(folder.path / (folder.path / "current").read_text()) as connection:
        connection.execute("PRAGMA ignore_check_constraints=1")
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE verdict SET findings = CAST(findings AS TEXT)",
        "UPDATE verdict SET findings = 5",
        "UPDATE verdict SET used = 'never'",
        "UPDATE verdict SET sum = 5",
        "UPDATE verdict SET generation = x'00'",
        "UPDATE generation SET namespaces = x'ff'",
        "UPDATE generation SET namespaces = '5'",
        "UPDATE generation SET namespaces = '{\"a\": 5}'",
        "UPDATE generation SET digest = 5",
        "UPDATE scan SET time = 'yesterday'",
        "UPDATE scan SET time = 1e300",
        "UPDATE scan SET machine = x'ff'",
        "UPDATE scan SET machine = 5",
    ],
)
def test_values_of_another_type_are_damage(folder: Folder, statement: str) -> None:
    """SQLite keeps the type with each value: one bit turns a blob into a text."""
    folder.scan({1: FOUND})
    change(folder, statement)
    assert folder.known([1]) in ([None], [folder.known([1])[0]])
    with folder.open() as cache:
        stats = cache.stats()
        assert all(isinstance(name, str) for name, _ in stats.machines)
    folder.scan({2: ()})
    folder.scan({2: ()})
    assert folder.known([2]) == [CLEAN]


def test_a_schema_that_is_no_text(folder: Folder) -> None:
    """SQLite repeats it in its message, which Python then cannot decode."""
    folder.scan({1: ()})
    path = folder.path / (folder.path / "current").read_text()
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"CREATE TABLE verdict", b"CREATE TABL\xff verdict"))
    assert folder.known([1]) == [None]
    folder.scan({2: ()})
    assert folder.known([2]) == [CLEAN]


def test_names_that_are_no_text(folder: Folder) -> None:
    """A disk's path may hold any bytes; what `show` prints is what `revoke` takes."""
    name = os.fsdecode(b"/disks/\xff\x1b[2J")
    assert folder.scan({1: ()}, machine=name) == 1
    with folder.open() as cache:
        ((shown, _),) = cache.stats().machines
        assert cache.revoke(machine=shown) == 1
    assert folder.scan({1: ()}, machine=name) == 1
    with folder.open() as cache:
        assert cache.revoke(machine=name) == 1


class _Full(io.BytesIO):
    def write(self, _: object) -> int:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        super().close()
        raise OSError(28, "No space left on device")


def test_a_full_temporary_folder_only_ends_the_use_of_the_cache(folder: Folder) -> None:
    folder.scan({1: ()})
    with folder.open() as cache:
        session = folder.session(cache)
        session._spool.close()
        session._spool = _Full()  # type: ignore[assignment]
        session.record(key(2), FOUND)
        session.record(key(3), FOUND)
        assert session.commit() == 0
        session.close()
    assert len(folder.warnings) == 1
    assert "cannot be kept" in folder.warnings[0]
    assert folder.known([1, 2, 3]) == [CLEAN, None, None]


def test_a_parser_cannot_fill_the_temporary_folder(folder: Folder) -> None:
    with folder.open(most_bytes=1 << 20) as cache:
        session = folder.session(cache)
        for _ in range(2000):
            session.record(key(1), [("a", {"x": "y" * 4000})])
        session._spool.flush()
        assert os.fstat(session._spool.fileno()).st_size <= 2 << 20
        session.close()


def test_a_folder_that_everybody_may_write_is_refused(folder: Folder) -> None:
    folder.scan({1: ()})
    folder.path.chmod(0o777)
    with pytest.raises(ConfigError, match="everybody"):
        folder.open()
    folder.path.chmod(0o1777)
    with pytest.raises(ConfigError, match="everybody"):
        folder.open()


@pytest.mark.parametrize("name", ["current-0badcafe", "verdicts-0123456789abcdef.bloom-0badcafe"])
def test_what_a_killed_writer_left_is_removed(folder: Folder, name: str) -> None:
    folder.scan({1: ()})
    left = folder.path / name
    left.write_bytes(bytes(1000))
    folder.open().close()
    assert left.exists(), "its writer may be alive"
    os.utime(left, (1, time.time() - 7200))
    folder.open().close()
    assert not left.exists()
    assert folder.known([1]) == [CLEAN]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), id="endless"),
        pytest.param(lambda path: path.symlink_to("/nonexistent/x"), id="nowhere"),
        pytest.param(lambda path: path.write_bytes(b"verdicts-" + b"x" * (1 << 20)), id="long"),
        pytest.param(lambda path: path.write_text("verdicts-../../../etc/passwd"), id="elsewhere"),
        pytest.param(lambda path: path.write_bytes(b"verdicts-\0"), id="nul"),
    ],
)
@pytest.mark.timeout(60)
def test_current_is_something_else(folder: Folder, make: Callable[[Path], None]) -> None:
    folder.scan({1: ()})
    (folder.path / "current").unlink()
    make(folder.path / "current")
    assert folder.known([1]) in ([None], [CLEAN])
    with VerdictCache.open(folder.path, warn=folder.warnings.append) as cache:
        cache.stats()


@pytest.mark.parametrize("size", [0, 1, 63, 64, 100])
def test_a_short_bloom_filter(folder: Folder, size: int) -> None:
    folder.scan({1: ()})
    path = next(folder.path.glob("*.bloom"))
    os.truncate(path, size)
    assert folder.known([1]) in ([None], [CLEAN])
    folder.scan({1: ()})
    assert folder.known([1]) == [CLEAN]
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert store.VERDICT_BYTES
