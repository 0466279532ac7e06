from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cli import connection
from core.errors import ConfigError
from tests.cli.commands import Kumomori
from tests.client.server import Answer, serving

TOKEN = "kumomori_very-secret-token"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No console of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "DATA", tmp_path / "state")
    for name in ("KUMOMORI_CONSOLE", "KUMOMORI_TOKEN_FILE", "KUMOMORI_CA"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_not_said_is_as_up_wrote_it_down(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kumomori up"):
        connection.find("", None)
    connection.save(tmp_path / "state/client.json", "http://127.0.0.1:1", "user")
    assert connection.find("", None) == connection.Connection("http://127.0.0.1:1", "user")
    connection.save(tmp_path / "var/kumomori/client.json", "http://127.0.0.1:2", "folder")
    assert connection.find("", None).token == "folder"
    (tmp_path / "token").write_text("  other \n")
    assert connection.find("", tmp_path / "token") == connection.Connection("http://127.0.0.1:2", "other")
    assert connection.find("https://a", tmp_path / "token") == connection.Connection("https://a", "other")
    assert connection.find("http://127.0.0.1:2/", None).token == "folder"
    with pytest.raises(ConfigError, match="--token-file"):
        connection.find("https://elsewhere.example", None)
    assert TOKEN not in repr(connection.Connection("https://a", TOKEN))


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "state/client.json"
    old = os.umask(0)
    try:
        connection.save(path, "http://127.0.0.1:1", TOKEN)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for mode in (0o640, 0o604, 0o602, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="others") as caught:
            connection.find("", None)
        assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'{"console": 1, "token": "x"}', b'{"token": "x"}', b"\xff" * 10, b"[" * 10_000, b" " * 20_000],
)
def test_what_up_did_not_write(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "client.json"
    path.write_bytes(raw)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        connection.read_saved(path)


@pytest.mark.parametrize("raw", [b"", b"\n", b"two words", b"x" * 20_000])
def test_files_that_hold_no_token(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "token").write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        connection.read_token(tmp_path / "token")
    assert "two words" not in str(caught.value)


COMMANDS = [
    "up", "worker", "sweep", "estate", "findings", "findings accept", "findings reopen", "gaps", "scans",
    "scan start", "scan show", "scan stop", "scan pause", "scan resume", "schedule list", "schedule hold", "schedule release",
    "cloud add aws", "cloud add file", "cloud list", "cloud remove", "cloud check", "policy apply", "policy sync", "policy history",
    "token create", "token list", "token revoke",
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS)
def test_help_tells_exit_codes_and_takes_no_token(kumomori: Kumomori, words: str) -> None:
    result = kumomori(*words.split(), "--help")
    assert (result.code, result.err) == (0, b"")
    assert b"Exits 0" in result.out
    assert b"--token " not in result.out
    if words != "up":
        assert b"--token-file" in result.out


def test_what_the_console_says_is_printable(kumomori: Kumomori, tmp_path: Path) -> None:
    evil = "\x1b[31m\u202egpj\u009b"
    instance = {"place": {"cloud": "aws", "account": "1", "region": "r"}, "id": f"i-1{evil}", "name": evil}
    seen = "2027-01-01T00:00:00Z"
    row = {
        "key": f"aws://1/r/i-1{evil}",
        "instance": instance,
        "first_seen": seen,
        "last_seen": seen,
        "unprotected": evil,
    }
    answers = json.dumps({"items": [row]}).encode()
    (tmp_path / "token").write_text(TOKEN)
    with serving(Answer(200, answers)) as server:
        words = ("estate", "--console", server.url, "--token-file", tmp_path / "token")
        for more in ((), ("--format", "jsonl")):
            result = kumomori(*words, *more)
            assert result.code == 0, result
            text = result.out.decode()
            assert not {"\x1b", "\u202e", "\u009b"} & set(text)
        assert result.rows[0]["instance"]["name"] == evil, "nothing of it is lost"
    with serving(Answer(409, json.dumps({"error": evil}).encode())) as server:
        result = kumomori("scan", "stop", "s-1", "--console", server.url, "--token-file", tmp_path / "token")
        assert "\\x1b" in result.refused()


def test_what_is_no_document_is_refused_in_one_line(kumomori: Kumomori, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with serving() as server:
        here = ("--console", server.url, "--token-file", tmp_path / "token")
        for words in (
            ("token", "create", "NOT A NAME", "--scope", "read"),
            ("token", "create", "ci", "--scope", "read", "--expires", "soon"),
            ("cloud", "add", "aws", "12345"),
            ("cloud", "remove", "nonsense"),
            ("schedule", "hold", "aws://1", "--until", "never"),
            ("policy", "apply", "missing"),
        ):
            line = kumomori(*words, *here).refused()
            assert TOKEN not in line
        assert [asked.verb for asked in server.asked if asked.verb != "GET"] == []


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    heavy = "{'boto3', 'botocore', 'httpx', 'pydantic', 'fastapi', 'uvicorn', 'sqlalchemy', 'alembic', 'dbos', 'cryptography'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, cli.main; print(sorted({heavy} & set(sys.modules)))"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"[]\n"
