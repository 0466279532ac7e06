"""The first token of a console that was not started by `kumomori up`."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.model import Scope
from console import first
from console.store import tokens
from console.store.database import Database


def test_the_first_token_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"sqlite:///{tmp_path / 'console.db'}"
    environment = {"KUMOMORI_CONSOLE_DATABASE": address}
    assert first.main(environment) == 0
    secret = capsys.readouterr().out.strip()
    database = Database(address)
    with database.read() as connection:
        caller = tokens.find(connection, secret)
    database.close()
    assert caller is not None
    assert caller.may(Scope.ADMIN)
    assert first.main(environment) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "there are tokens already" in said.err


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="no-database"),
        pytest.param({"KUMOMORI_CONSOLE_DATABASE": "mysql://root:hunter2@host/db"}, id="no-such-database"),
        pytest.param({"KUMOMORI_CONSOLE_DATABSE": "sqlite:///x"}, id="misspelt"),
    ],
)
def test_without_a_database(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert first.main(environment) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "hunter2" not in said.err
