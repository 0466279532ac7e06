from __future__ import annotations

import asyncio
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from client.model import Health
from console.clock import now
from console.guesses import Guesses
from console.serve import Running, main
from console.settings import PREFIX, Settings, from_environment
from console.store import tables
from console.wake import Wake
from core.errors import ConfigError
from tests.console.made import enrol, finding, scanned


def settings(folder: Path, **others: Any) -> Settings:
    return Settings.model_validate({"database": f"sqlite:///{folder}/console.sqlite", "port": 0, **others})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_it_answers_where_it_says(tmp_path: Path, host: str) -> None:
    with Running(settings(tmp_path, host=host)) as running:
        assert Health.model_validate_json(httpx.get(f"{running.address}/health").content).status == "ok"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.address}/health")


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="in use"):
        Running(settings(tmp_path, port=taken.getsockname()[1]))


def test_a_database_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql+psycopg://user:SECRET@127.0.0.1:1/x"
    with pytest.raises(ConfigError), Running(Settings.model_validate({"database": url, "port": 0})):
        pass
    assert main({f"{PREFIX}DATABASE": "sqlite:////no/such/folder/x"}) == 2
    assert main({f"{PREFIX}DATABASE": "mysql://user:SECRET@x/y"}) == 2
    assert "SECRET" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        pytest.param({}, "DATABASE", id="no-database"),
        pytest.param({"DATABASE": "sqlite:///x", "PORT": "SECRET"}, "PORT", id="no-port"),
        pytest.param({"DATABASE": "sqlite:///x", "PORT": "70000"}, "PORT", id="port"),
        pytest.param({"DATABASE": "sqlite:///x", "PROT": "1"}, "PROT", id="misspelt"),
        pytest.param({"DATABASE": "sqlite:///x", "CERTIFICATE": "/SECRET"}, "certificate", id="half-a-certificate"),
    ],
)
def test_settings_that_are_wrong(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        from_environment({f"{PREFIX}{name}": text for name, text in environment.items()})
    assert "SECRET" not in str(caught.value)


def test_settings_do_not_print_the_password() -> None:
    given = from_environment({f"{PREFIX}DATABASE": "postgresql://u:SECRET@h/d", f"{PREFIX}PORT": "0", "HOME": "/x"})
    assert "SECRET" not in repr(given)
    assert given.database.get_secret_value() == "postgresql://u:SECRET@h/d"


def test_who_listens_is_woken_from_any_thread() -> None:
    wake = Wake()

    async def wait() -> tuple[float, float]:
        with wake.listen("a") as bell:
            wake.ring("b")
            began = time.monotonic()
            await bell.wait(0.2)
            nothing = time.monotonic() - began
            threading.Timer(0.05, wake.ring, ["a"]).start()
            began = time.monotonic()
            await bell.wait(20)
            return nothing, time.monotonic() - began

    nothing, rung = asyncio.run(wait())
    assert nothing >= 0.15 and rung < 10
    wake.ring("a")  # nobody is there


def test_a_ring_before_the_wait_is_heard_and_a_close_ends_all() -> None:
    wake = Wake()

    async def wait() -> float:
        began = time.monotonic()
        with wake.listen("a") as bell:
            wake.ring("a")
            await asyncio.sleep(0)
            await bell.wait(20)
            threading.Timer(0.05, wake.close).start()
            await bell.wait(20)
            await bell.wait(20)
        return time.monotonic() - began

    assert asyncio.run(wait()) < 10


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        pytest.param("10.0.0.1", "10.0.0.2", False, id="ipv4"),
        pytest.param("2001:db8::1", "2001:db8::ffff", True, id="one-network"),
        pytest.param("2001:db8:0:1::1", "2001:db8:0:2::1", False, id="two-networks"),
        pytest.param("", "x", False, id="no-address"),
    ],
)
def test_wrong_tokens_count_for_each_address(one: str, other: str, together: bool) -> None:
    guesses = Guesses()
    for number in range(100):
        guesses.wrong(one, b"%d" % number)
    assert guesses.wait_seconds(one, b"x") > 60
    assert (guesses.wait_seconds(other, b"x") > 0) is together
    guesses.right(b"known")
    assert guesses.wait_seconds(one, b"known") == 0
    guesses.wrong(one, b"known")
    assert guesses.wait_seconds(one, b"known") > 0


def test_what_was_accepted_for_a_time_is_opened_by_itself(tmp_path: Path) -> None:
    with Running(settings(tmp_path)) as running:
        database = running.console.database
        enrol(database, "i-1")
        scanned(database, [finding("a")])
        with database.write() as connection:
            over = {"state": "accepted", "accepted_by": "me", "accepted_until": now() - timedelta(days=1)}
            connection.execute(tables.finding.update().values(over))
    with Running(settings(tmp_path)) as running:
        deadline = time.monotonic() + 20
        state = "accepted"
        while state != "open":
            assert time.monotonic() < deadline
            time.sleep(0.02)
            with running.console.database.read() as connection:
                state = str(connection.execute(sa.select(tables.finding.c.state)).scalar())
