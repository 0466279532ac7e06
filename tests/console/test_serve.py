from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from client.model import Health, Scope, TokenIn
from console import serve
from console.api import routes
from console.clock import now
from console.context import MOST_LARGE
from console.guesses import Guesses
from console.serve import Running, main
from console.settings import PREFIX, Settings, from_environment
from console.store import tables, tokens
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


def _cut_off(sent: bytes, address: tuple[str, int], seconds: float = 10) -> tuple[bytes, float]:
    """What a connection answers that sends `sent` and then a byte now and then, and after how long it is closed."""
    began = time.monotonic()
    answered = b""
    with socket.create_connection(address, timeout=0.2) as client:
        client.sendall(sent)
        while time.monotonic() - began < seconds:
            try:
                part = client.recv(65536)
                answered += part
                if not part:
                    break
                continue
            except TimeoutError:
                pass
            except ConnectionError:
                break
            with suppress(ConnectionError):
                client.sendall(b"x")
    return answered, time.monotonic() - began


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /health HT", id="half-a-line"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: x\r\nA: ", id="half-a-head"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /he", id="half-the-second"),
        pytest.param(b"PUT /v1/policies HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", id="body-without-token"),
    ],
)
def test_who_sends_no_whole_request_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(serve, "_HEAD_SECONDS", 0.5)
    with Running(settings(tmp_path)) as running:
        address = ("127.0.0.1", int(running.address.rpartition(":")[2]))
        assert _cut_off(sent, address)[1] < 5


@pytest.mark.slow
def test_who_waits_for_orders_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_HEAD_SECONDS", 0.3)
    with Running(settings(tmp_path)) as running:
        with running.console.database.write() as connection:
            fleet = TokenIn(name="fleet", scopes=(Scope.FLEET,), fleet="default")
            secret = tokens.make(connection, fleet, "test").secret
        with httpx.Client(base_url=running.address, headers={"Authorization": f"Bearer {secret}"}) as client:
            for _ in range(2):
                assert client.get("/v1/fleets/default/orders", params={"wait_seconds": 1.5}).status_code == 200


@pytest.mark.slow
def test_slow_bodies_do_not_keep_out_those_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few large bodies are read at once: whoever may ask for a dry run must not hold those places for good."""
    monkeypatch.setattr(routes, "_BODY_SECONDS", 0.5)
    with Running(settings(tmp_path)) as running:
        with running.console.database.write() as connection:
            secret = tokens.make(connection, TokenIn(name="reader", scopes=(Scope.READ,)), "test").secret
        address = ("127.0.0.1", int(running.address.rpartition(":")[2]))
        head = f"POST /v1/policies/dry-run HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
        slow = f"{head}Content-Type: application/json\r\nContent-Length: 2000000\r\n\r\n".encode()
        threads = [threading.Thread(target=_cut_off, args=(slow, address, 4)) for _ in range(MOST_LARGE)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        chunks = iter([b'{"documents": {}}'])
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        answer = httpx.post(f"{running.address}/v1/policies/dry-run", content=chunks, headers=headers, timeout=3)
        assert answer.status_code == 200
        assert b"503" in _cut_off(slow, address, 3)[0]
        for thread in threads:
            thread.join()


def test_a_planner_that_stopped_is_said(tmp_path: Path) -> None:
    """Policies of a newer version, for one: else nobody would hear of it until machines are overdue."""
    with Running(settings(tmp_path)) as running:

        def health(status: str) -> Health:
            running.console.wake.ring("plan")
            ends = time.monotonic() + 20
            while (
                found := Health.model_validate_json(httpx.get(f"{running.address}/health").content)
            ).status != status:
                assert time.monotonic() < ends, found
                time.sleep(0.05)
            return found

        assert health("ok").problems == ()
        table = tables.policy_version
        row = {
            "version": 1,
            "etag": "1",
            "who": "x",
            "when": now(),
            "message": "",
            "documents": gzip.compress(b'{"a": "b"}'),
        }
        with running.console.database.write() as connection:
            connection.execute(table.insert(), row)
        assert health("degraded").problems == ("no scans are planned at the moment: the console's log says why",)
        with running.console.database.write() as connection:
            connection.execute(table.delete())
        health("ok")
