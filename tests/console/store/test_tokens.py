from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from client.model import Scope, TokenIn
from console.clock import now
from console.problems import Refused
from console.store import tables, tokens
from console.store.database import Database


def make(database: Database, name: str = "one", *scopes: Scope, **others: object) -> str:
    wanted = TokenIn.model_validate({"name": name, "scopes": scopes or (Scope.READ,), **others})
    with database.write() as connection:
        return tokens.make(connection, wanted, "test").secret


def test_a_token_is_known_by_its_secret_alone(database: Database) -> None:
    secret = make(database, "one", Scope.READ, Scope.SCAN)
    assert tokens.plausible(secret)
    with database.read() as connection:
        caller = tokens.find(connection, secret)
        assert caller is not None
        assert (caller.name, caller.scopes) == ("one", frozenset({Scope.READ, Scope.SCAN}))
        assert tokens.find(connection, secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None
        kept = str(connection.execute(sa.select(tables.token)).all()) + str(
            connection.execute(sa.select(tables.event)).all()
        )
    assert secret not in kept and secret[9:] not in kept


def test_secrets_differ(database: Database) -> None:
    assert len({make(database, f"t{number}") for number in range(20)}) == 20


def test_it_expires(database: Database) -> None:
    secret = make(database, expires=now() + timedelta(hours=1))
    with database.write() as connection:
        assert tokens.find(connection, secret) is not None
        connection.execute(tables.token.update().values(expires=now()))
        assert tokens.find(connection, secret) is None


def test_use_is_marked_once_a_minute(database: Database) -> None:
    secret = make(database)
    with database.write() as connection:
        assert tokens.wants_marking(connection, secret)
        tokens.mark_used(connection, "one")
        first = tokens.everything(connection)[0].last_used
        assert first is not None
        assert not tokens.wants_marking(connection, secret)
        tokens.mark_used(connection, "one")
        assert tokens.everything(connection)[0].last_used == first
        connection.execute(tables.token.update().values(last_used=now() - timedelta(minutes=1)))
        assert tokens.wants_marking(connection, secret)


@pytest.mark.parametrize(
    ("others", "status"),
    [
        pytest.param({"name": "taken"}, 409, id="taken"),
        pytest.param({"scopes": ("fleet",)}, 422, id="fleet-without-name"),
        pytest.param({"scopes": ("read",), "fleet": "default"}, 422, id="name-without-fleet"),
        pytest.param({"expires": now() - timedelta(seconds=1)}, 422, id="expired"),
    ],
)
def test_tokens_that_cannot_be(database: Database, others: dict[str, object], status: int) -> None:
    make(database, "taken")
    with database.write() as connection, pytest.raises(Refused) as caught:
        tokens.make(connection, TokenIn.model_validate({"name": "one", "scopes": ("read",), **others}), "test")
    assert caught.value.status == status


def test_the_first_one_is_made_once(database: Database) -> None:
    made: list[str | None] = []
    threads = [threading.Thread(target=lambda: made.append(tokens.first_admin(database))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (secret,) = [one for one in made if one is not None]
    with database.read() as connection:
        caller = tokens.find(connection, secret)
    assert caller is not None
    assert all(caller.may(scope) for scope in Scope)
    assert tokens.first_admin(database) is None


def test_the_last_administrator_stays(database: Database) -> None:
    tokens.first_admin(database)
    make(database, "old", Scope.ADMIN)
    with database.write() as connection:
        connection.execute(tables.token.update().where(tables.token.c.name == "old").values(expires=now()))
        with pytest.raises(Refused) as caught:
            tokens.delete(connection, "admin", "test")
        assert caught.value.status == 409
        with pytest.raises(Refused) as caught:
            tokens.delete(connection, "nobody", "test")
        assert caught.value.status == 404
    make(database, "other", Scope.ADMIN)
    with database.write() as connection:
        tokens.delete(connection, "admin", "test")
        assert [one.name for one in tokens.everything(connection)] == ["old", "other"]
