"""An account that is removed from the console is entered by the sweeper until nothing of ours is left there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from client.model import AccountIn, Pull
from core.errors import ConfigError
from core.estate import Place
from scanner.fleet import kept, leaving, orders
from scanner.fleet.clouds import AccountClouds
from scanner.fleet.ledger import LISTED_SECONDS
from scanner.fleet.tables import base, scan
from tests.scanner.fleet.test_admission import HERE
from tests.scanner.fleet.test_sweeper import Yard

ACCOUNT = AccountIn(cloud="aws", account=HERE.account, role="KumomoriScanner", external_id="x")
OTHER = AccountIn(cloud="aws", account="1" + HERE.account[:-1])


@pytest.fixture
def yard(url: str) -> Iterator[Yard]:
    made = Yard(url)
    tell(made, ACCOUNT, OTHER)
    yield made
    made.database.close()


def tell(yard: Yard, *accounts: AccountIn) -> None:
    pull = Pull(now=datetime.now(UTC), orders=(), accounts=accounts)
    orders.take(yard.database, yard.fences[0], pull, 0)


def go(yard: Yard, seconds: float) -> None:
    """As if what there is was told, and had ended, so long ago."""
    with yard.database.write() as connection:
        found = kept.read(connection, leaving.LEFT, "[]")
        earlier = [(one.since_ms, one.since_ms - int(seconds * 1000)) for one in leaving.left(connection)]
        for now, then in earlier:
            found = found.replace(str(now), str(then))
        kept.write(connection, leaving.LEFT, found)
        connection.execute(scan.update().values(ended_ms=scan.c.ended_ms - int(seconds * 1000)))


def left(yard: Yard) -> list[tuple[str, bool]]:
    with yard.database.read() as connection:
        return [(one.account.account, one.cleared) for one in leaving.left(connection)]


def kept_base(yard: Yard) -> None:
    token = yard.begin("a")
    yard.keep(token, yard.make("snap-1", token))
    yard.end("a")
    with yard.database.write() as connection:
        connection.execute(base.update().values(machine=f"{HERE}/i-1"))


def test_its_bases_go_and_then_it_is_cleared(yard: Yard) -> None:
    kept_base(yard)
    tell(yard, OTHER)
    assert left(yard) == [(HERE.account, False)]
    yard.sweep()
    assert set(yard.cloud.there) == {"snap-1"}, "it may have been a mistake"
    go(yard, leaving.GRACE_SECONDS + 1)
    yard.cloud.fails.add("snap-1")
    yard.sweep()
    assert left(yard) == [(HERE.account, False)], "as long as something is there it is entered"
    yard.cloud.fails.clear()
    assert [one.error for one in yard.sweep()] == [None]
    assert yard.cloud.there == {}
    yard.sweep()
    assert left(yard) == [(HERE.account, True)]
    yard.cloud.away = True
    assert yard.sweep() == [], "what is cleared is not entered any more"


def test_what_is_added_again_keeps_its_bases(yard: Yard) -> None:
    kept_base(yard)
    tell(yard, OTHER)
    tell(yard, ACCOUNT, OTHER)
    assert left(yard) == []
    go(yard, leaving.GRACE_SECONDS + 1)
    yard.sweep()
    assert set(yard.cloud.there) == {"snap-1"}


def test_a_scan_that_still_runs_there_is_waited_for(yard: Yard) -> None:
    yard.begin("a")
    tell(yard, OTHER)
    go(yard, leaving.GRACE_SECONDS + 1)
    yard.sweep()
    assert left(yard) == [(HERE.account, False)]
    yard.end("a")
    yard.sweep()
    assert left(yard) == [(HERE.account, False)], "what it made may be listed late"
    go(yard, LISTED_SECONDS + 1)
    yard.sweep()
    assert left(yard) == [(HERE.account, True)]


def test_only_the_sweeper_enters(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[Any] = []

    def enter(_: Any, place: Place, role: Any, *__: Any, **___: Any) -> Any:
        entered.append((place, role))
        raise ConfigError("far enough")

    monkeypatch.setattr("scanner.fleet.clouds.enter", enter)
    tell(yard, OTHER)
    with pytest.raises(ConfigError, match="not one of this fleet"):
        AccountClouds(yard.database, yard.installation).enter(HERE)
    assert entered == []
    with pytest.raises(ConfigError, match="far enough"):
        AccountClouds(yard.database, yard.installation, sweeping=True).enter(HERE)
    ((place, role),) = entered
    assert (place, role.name, role.external_id) == (HERE, "KumomoriScanner", "x")


def test_bases_of_another_account_stay(yard: Yard) -> None:
    kept_base(yard)
    tell(yard, ACCOUNT)
    go(yard, leaving.GRACE_SECONDS + 1)
    yard.sweep()
    assert set(yard.cloud.there) == {"snap-1"}
