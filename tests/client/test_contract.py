"""The client and the real application have the same routes, and each asks for the scope that the other does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from client.api import ROUTES, Console
from client.model import AccountIn, Scope, TokenIn
from console.app import ROUTERS, create_app
from console.serve import Running
from console.settings import from_environment
from console.store.database import Database
from console.store.migrate import upgrade
from console.store.tokens import first_admin
from core.errors import AccessDenied, ConfigError, Conflict, Gone


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and admin's token of a console."""
    url = f"sqlite:///{tmp_path}/console.db"
    database = Database(url)
    upgrade(database)
    token = first_admin(database)
    database.close()
    assert token is not None
    with Running(from_environment({"KUMOMORI_CONSOLE_DATABASE": url, "KUMOMORI_CONSOLE_PORT": "0"})) as running:
        yield running.address, token


def test_every_route_has_a_method_and_every_method_a_route(tmp_path: Path) -> None:
    app: FastAPI = create_app(from_environment({"KUMOMORI_CONSOLE_DATABASE": f"sqlite:///{tmp_path}/console.db"}))
    theirs = {(verb.upper(), path) for path, verbs in app.openapi()["paths"].items() for verb in verbs}
    assert ROUTERS
    ours = {(route.verb, route.path) for route in ROUTES.values()}
    left_out = {("GET", "/v1/openapi.json")}  # for people and generators
    assert {(verb, _plain(path)) for verb, path in theirs - left_out} == {(verb, _plain(path)) for verb, path in ours}


def _plain(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


def test_a_token_without_the_scope_is_refused_by_its_name(served: tuple[str, str]) -> None:
    url, admin = served
    with Console(url, admin) as console:
        secret = console.create_token(TokenIn(name="reader", scopes=(Scope.READ,))).secret
        with pytest.raises(Conflict):
            console.create_token(TokenIn(name="reader", scopes=(Scope.READ,)))
    account = AccountIn(cloud="aws", account="123456789012")
    with Console(url, secret) as reader:
        assert list(reader.instances()) == []
        assert reader.health().status == "ok"
        assert "kumomori" in reader.metrics()
        with pytest.raises(AccessDenied, match="admin") as denied:
            reader.add_account(account)
        assert denied.value.permission == "admin"
        with pytest.raises(Gone):
            reader.scan("no-such-scan")
    with Console(url, admin) as console:
        assert console.add_account(account).account == "123456789012"
        assert [one.account for one in console.accounts()] == ["123456789012"]
        console.remove_account("aws", "123456789012")
        console.revoke_token("reader")
    with Console(url, secret) as reader, pytest.raises(AccessDenied, match="unknown"):
        reader.accounts()
    with Console(url, "") as nobody:
        assert nobody.health().status == "ok"
        with pytest.raises((AccessDenied, ConfigError)):
            nobody.accounts()
