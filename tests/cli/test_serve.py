"""`kumomori console` and `kumomori health`: what a container starts, and what asks whether it works."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.serve import Running
from console.settings import Settings
from scanner.fleet.database import Database
from scanner.fleet.migrations import upgrade
from scanner.fleet.slots import claim
from tests.cli.commands import KUMOMORI, Kumomori


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("KUMOMORI_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/var/fleet/fleet.db")
    upgrade(database)
    yield database
    database.close()


def test_a_console_that_answers(kumomori: Kumomori, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/console.db"
    monkeypatch.setenv("KUMOMORI_CONSOLE_DATABASE", url)
    with Running(Settings.model_validate({"database": url, "port": 0})) as running:
        monkeypatch.setenv("KUMOMORI_CONSOLE_PORT", running.address.rpartition(":")[2])
        monkeypatch.setenv("KUMOMORI_CONSOLE_HOST", "0.0.0.0")
        assert kumomori("health").out == b"console: works\n"
    ended = kumomori("health", "console")
    assert ended.code == 1
    assert b"does not answer" in ended.err


def test_a_port_that_answers_something_else(
    kumomori: Kumomori, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = os.fork()
        if process == 0:  # answers once, and says no word of HTTP
            connection, _ = server.accept()
            connection.sendall(b"\xff" * 100_000)
            os._exit(0)
        monkeypatch.setenv("KUMOMORI_CONSOLE_DATABASE", f"sqlite:///{tmp_path}/console.db")
        monkeypatch.setenv("KUMOMORI_CONSOLE_PORT", str(server.getsockname()[1]))
        assert kumomori("health").code == 1
        os.waitpid(process, 0)


@pytest.mark.parametrize(
    ("slot", "host", "seconds", "code"),
    [
        pytest.param("slot-1", "", 60.0, 0, id="mine"),
        pytest.param("slot-1", "elsewhere", 60.0, 1, id="another-machine"),
        pytest.param("slot-1", "", -1.0, 1, id="lease-ended"),
        pytest.param("link", "", 60.0, 1, id="a-duty-only"),
    ],
)
def test_a_worker(kumomori: Kumomori, fleet: Database, slot: str, host: str, seconds: float, code: int) -> None:
    claim(fleet, "1", [slot], seconds, worker=f"{host or socket.gethostname()}, process 7")
    done = kumomori("health")
    assert done.code == code
    assert (done.out or done.err).startswith(b"worker: ")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [pytest.param(["health"], 2, id="nothing-known"), pytest.param(["health", "worker"], 1, id="no-database")],
)
def test_nothing_runs(kumomori: Kumomori, arguments: list[str], code: int) -> None:
    assert kumomori(*arguments).code == code
    assert not list(Path().iterdir())  # asking makes nothing


def test_a_console_alone_and_its_first_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    environment = {
        **os.environ,
        "KUMOMORI_CONSOLE_DATABASE": f"sqlite:///{tmp_path}/console.db",
        "KUMOMORI_CONSOLE_PORT": "0",
    }
    seen = []
    for _ in range(2):  # the second time there is one, and it stays
        process = subprocess.Popen(
            [KUMOMORI, "console", "--first-token", token], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        assert re.fullmatch(rb"http://127\.0\.0\.1:\d+\n", process.stdout.readline())
        seen.append(token.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()
    assert seen[0] == seen[1] != ""
    assert token.stat().st_mode & 0o777 == 0o600
