"""A console that answers on a loopback port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from client.model import Scope, TokenIn
from console.serve import Running
from console.settings import Settings
from console.store import tokens
from console.store.database import Database

AsWho = Callable[..., httpx.Client]


@pytest.fixture
def running(empty_url: str) -> Iterator[Running]:
    with Running(Settings.model_validate({"database": empty_url, "port": 0, "look_seconds": 0.3})) as running:
        yield running


@pytest.fixture
def database(running: Running) -> Database:
    return running.console.database


@pytest.fixture
def as_who(running: Running) -> Iterator[AsWho]:
    """`as_who(Scope.READ)`, `as_who(Scope.FLEET, fleet="default")`, `as_who()` for nobody: a client with such a token."""
    with ExitStack() as stack:
        made = 0

        def client(*scopes: Scope, fleet: str | None = None) -> httpx.Client:
            nonlocal made
            headers = {}
            if scopes:
                made += 1
                with running.console.database.write() as connection:
                    new = tokens.make(connection, TokenIn(name=f"token-{made}", scopes=scopes, fleet=fleet), "test")
                headers = {"Authorization": f"Bearer {new.secret}"}
            return stack.enter_context(httpx.Client(base_url=running.address, headers=headers, timeout=30))

        yield client


@pytest.fixture
def admin(as_who: AsWho) -> httpx.Client:
    return as_who(Scope.ADMIN)


@pytest.fixture
def fleet(as_who: AsWho) -> httpx.Client:
    return as_who(Scope.FLEET, fleet="default")
