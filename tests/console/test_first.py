"""The first token of a console that `kumomori up` did not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.model import Scope
from console.first import main
from console.store import tokens
from console.store.database import Database


def test_it_is_made_once(empty_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"KUMOMORI_CONSOLE_DATABASE": empty_url}
    path = tmp_path / "admin.token"
    assert main([str(path)], environment) == 0
    secret = path.read_text().strip()
    assert secret not in capsys.readouterr().out
    assert path.stat().st_mode & 0o777 == 0o600
    database = Database(empty_url)
    with database.read() as connection:
        caller = tokens.find(connection, secret)
    database.close()
    assert caller is not None
    assert caller.may(Scope.ADMIN)
    assert main(["-"], environment) == 2
    assert capsys.readouterr().out == ""
    assert main([str(tmp_path / "second")], environment) == 2
    assert "tokens already" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_it_is_printed_where_no_file_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"sqlite:///{tmp_path / 'console.db'}"
    assert main(["-"], {"KUMOMORI_CONSOLE_DATABASE": address}) == 0
    secret = capsys.readouterr().out.strip()
    database = Database(address)
    with database.read() as connection:
        assert tokens.find(connection, secret) is not None
    database.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param([], "FILE", id="no-file"),
        pytest.param(["--help"], "FILE", id="no-option"),
        pytest.param(["a", "b"], "FILE", id="two-files"),
        pytest.param(["no/such/folder/x"], "No such file", id="no-folder"),
        pytest.param(["there"], "File exists", id="another-file"),
    ],
)
def test_where_it_cannot_be(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").write_text("precious")
    assert main(words, {"KUMOMORI_CONSOLE_DATABASE": "sqlite:///console.db"}) == 2
    assert said in capsys.readouterr().err
    assert Path("there").read_text() == "precious"
    assert not Path("console.db").exists(), "no token is made that could not be written"


@pytest.mark.parametrize("address", ["", "mysql://root:s3cret@host/x"])
def test_an_address_of_no_database(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "x")], {"KUMOMORI_CONSOLE_DATABASE": address}) == 2
    assert "s3cret" not in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
