"""`kumomori up`, whatever was lost, revoked or filled up since the last time."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cli import up
from cli.connection import FILE, save
from client.model import Scope
from console.store import tokens
from console.store.database import Database


@pytest.mark.parametrize("lost", ["deleted", "empty", "no-json", "open-to-all", "another-secret"])
def test_it_starts_whatever_became_of_its_files(tmp_path: Path, lost: str) -> None:
    """Also when the first admin's token was revoked, so that its own is the last one."""
    address = f"sqlite:///{tmp_path}/console.db"
    first, mine = up._tokens(address, tmp_path)
    assert first is not None
    path = tmp_path / FILE
    save(path, "http://127.0.0.1:1", mine)
    assert up._tokens(address, tmp_path) == (None, mine)
    database = Database(address)
    with database.write() as connection:
        tokens.delete(connection, tokens.FIRST, "test")
    match lost:
        case "deleted":
            path.unlink()
        case "empty" | "no-json":
            path.write_text("" if lost == "empty" else "{")
        case "open-to-all":
            path.chmod(0o644)
        case _:
            save(path, "http://127.0.0.1:1", "kumomori_" + "A" * 43)
    (tmp_path / "fleet.token").write_text("")
    again, other = up._tokens(address, tmp_path)
    assert again is None
    with database.read() as connection:
        caller = tokens.find(connection, other)
        assert caller is not None and caller.may(Scope.ADMIN)
        assert tokens.find(connection, mine) is None or other == mine
        assert len(tokens.everything(connection)) == 2
    assert (tmp_path / "fleet.token").stat().st_mode & 0o077 == 0
    database.close()


def test_a_log_is_emptied_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path, there: Path) -> None:
        there.write_text("some of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    monkeypatch.setattr(up, "_MOST_LOG_BYTES", 10)
    log = tmp_path / "console.log"
    log.write_text("x" * 11)
    up._Child("console", "x", {}, log, 0).trim()
    assert [(one.name, one.stat().st_size) for one in tmp_path.iterdir()] == [("console.log", 0)]
