"""A folder of manifests belongs to one database: another one is refused before it takes anything away."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.errors import ConfigError
from scanner.fleet.bases import SUFFIX
from scanner.fleet.binding import MARK, bind
from scanner.fleet.database import Database
from scanner.fleet.migrations import upgrade
from scanner.fleet.slots import release
from scanner.fleet.sweeping import sweep_once
from tests.scanner.fleet.duties import Desk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "objects"


def a_desk(tmp_path: Path, name: str) -> Desk:
    """A fleet with a database of its own; the folder of data is the same for all of them."""
    return Desk(f"sqlite:///{tmp_path}/{name}.sqlite", tmp_path, "http://127.0.0.1:9")


def sweep(desk: Desk) -> None:
    fence = desk.fence("sweep")
    sweep_once(desk.settings, desk.database, fence, desk.said("sweep"))
    release(desk.database, fence.slot)


def test_another_database_deletes_nothing(tmp_path: Path, folder: Path) -> None:
    first, second = a_desk(tmp_path, "first"), a_desk(tmp_path, "second")
    sweep(first)
    manifest = folder / f"scan-1{SUFFIX}"
    manifest.write_bytes(b"sealed")
    with pytest.raises(
        ConfigError, match=r"another fleet's database.*its own folder.*gone for good, delete .*objects/"
    ):
        sweep(second)
    assert manifest.exists()
    sweep(first)  # its own, of which no base is there
    assert not manifest.exists()
    for desk in (first, second):
        desk.database.close()


def test_a_fleet_does_not_start_with_another_ones_folder(tmp_path: Path, folder: Path) -> None:
    first, second = a_desk(tmp_path, "first"), a_desk(tmp_path, "second")
    bind(first.database, folder)
    done = subprocess.run(
        [sys.executable, "-m", "scanner.fleet.supervisor"],
        env=second.settings.environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, b"another fleet's database" in done.stderr) == (2, True), done.stderr
    for desk in (first, second):
        desk.database.close()


def a_database(tmp_path: Path, name: str) -> Database:
    made = Database(f"sqlite:///{tmp_path}/{name}.sqlite")
    upgrade(made)
    return made


@pytest.mark.parametrize(
    ("happens", "is_refused"),
    [
        pytest.param(lambda mark: None, True, id="nothing"),
        pytest.param(lambda mark: mark.unlink(), False, id="given-away-or-lost"),
        pytest.param(lambda mark: mark.write_bytes(b""), True, id="empty"),
        pytest.param(lambda mark: mark.write_bytes(b"\xff" * 1_000_000), True, id="damaged"),
        pytest.param(lambda mark: (mark.unlink(), mark.mkdir()), True, id="a-folder"),
    ],
)
def test_a_database_that_was_lost(
    tmp_path: Path, folder: Path, happens: Callable[[Path], object], is_refused: bool
) -> None:
    old, new = a_database(tmp_path, "old"), a_database(tmp_path, "new")
    folder.mkdir(parents=True)
    (folder / "x").touch()  # an old folder
    bind(old, folder)
    bind(old, folder)
    happens(folder / MARK)
    if is_refused:
        with pytest.raises(ConfigError):
            bind(new, folder)
    else:
        bind(new, folder)
        with pytest.raises(ConfigError):
            bind(old, folder)
    bind(new, tmp_path / "other")  # one database may have several: of its machines
    for one in (old, new):
        one.close()


def test_of_several_at_once_one_has_it(tmp_path: Path, folder: Path) -> None:
    databases = [a_database(tmp_path, f"db-{number}") for number in range(4)]

    def attempt(one: Database) -> bool:
        try:
            bind(one, folder)
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(attempt, databases * 2))
    assert sum(found[:4]) == 1
    assert found[:4] == found[4:]
    assert [path.name for path in folder.iterdir()] == [MARK]
    for one in databases:
        one.close()
