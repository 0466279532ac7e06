"""A console on loopback, and Pulumi engines that have a token for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from client.api import Console
from client.model import Scope, TokenIn
from console.serve import Running
from console.settings import Settings
from console.store import tokens
from tests.infra.engine import Engine

Secret = Callable[..., str]
Stack = Callable[..., Engine]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    settings = {"database": f"sqlite:///{tmp_path}/console.sqlite", "port": 0}
    with Running(Settings.model_validate(settings)) as running:
        yield running


@pytest.fixture
def secret(running: Running) -> Secret:
    """`secret("ann", Scope.POLICY)`: a token of that name; without scopes, an admin's."""

    def make(name: str, *scopes: Scope) -> str:
        with running.console.database.write() as connection:
            wanted = TokenIn(name=name, scopes=scopes or (Scope.ADMIN,))
            return tokens.make(connection, wanted, "test").secret

    return make


@pytest.fixture
def api(running: Running, secret: Secret) -> Iterator[Console]:
    """As somebody with a console at hand: `hand` in the list of versions."""
    with Console(running.address, secret("hand")) as console:
        yield console


@pytest.fixture
def stack(running: Running, secret: Secret, tmp_path: Path) -> Iterator[Stack]:
    """`stack("project")`: an engine whose token is called as the project is."""
    with ExitStack() as all_of_them:

        def start(project: str = "acme", *scopes: Scope) -> Engine:
            config = {"kumomori:console": running.address, "kumomori:token": secret(project, *scopes)}
            return all_of_them.enter_context(Engine(tmp_path, config, project=project))

        yield start
