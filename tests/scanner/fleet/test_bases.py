"""Which bases are kept, and what is given up for them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from client.model import ScanOrder
from core.estate import Resource, Snapshot, SnapshotState
from scanner.fleet import bases
from scanner.fleet.bases import GivenUp
from scanner.fleet.ledger import FleetLedger
from scanner.fleet.tables import base, resource
from tests.scanner.fleet.test_admission import HERE, Site, an_order


@pytest.fixture
def site(url: str) -> Iterator[Site]:
    made = Site(url)
    yield made
    made.database.close()


def keep(site: Site, order: ScanOrder, attempt: int, snapshot: str) -> GivenUp:
    """As a scan does: its snapshot is in the ledger, then it is kept as the base."""
    token = f"{order.scan}-{attempt}"
    ledger = FleetLedger(site.database, site.fences[0], "ours")
    expires = datetime.now(UTC) + timedelta(days=1)
    made = Resource(HERE, "snapshot", "", token, "ours", expires, of="vol-1")
    ledger.intend(made)
    ledger.made(Resource(HERE, "snapshot", snapshot, token, "ours", expires, of="vol-1"))
    with site.database.write() as connection:
        found = Snapshot(HERE, snapshot, "vol-1", state=SnapshotState.READY, size_bytes=1 << 30, token=token)
        return bases.keep(site.database, connection, order, token, f"{token}.manifest", [found], 10)


def machine_order(name: str, settings: dict[str, Any]) -> ScanOrder:
    return an_order(name, "i-1", settings=settings)


def rows(site: Site) -> tuple[list[str], dict[str, str | None]]:
    """Names of kept manifests, and for each snapshot whose base it is."""
    with site.database.read() as connection:
        kept = list(connection.execute(select(base.c.object).order_by(base.c.object)).scalars())
        return kept, {row.id: row.kept_for for row in connection.execute(select(resource)).all()}


def test_a_newer_one_takes_the_place_of_the_older(site: Site) -> None:
    assert keep(site, machine_order("one", {}), 1, "snap-1") == GivenUp()
    given_up = keep(site, machine_order("two", {}), 1, "snap-2")
    assert ([one.id for one in given_up.resources], given_up.objects) == (["snap-1"], ("one-1.manifest",))
    assert rows(site) == (["two-1.manifest"], {"snap-1": None, "snap-2": "two"})


def test_a_second_attempt_takes_the_place_of_the_first(site: Site) -> None:
    order = machine_order("one", {})
    keep(site, order, 1, "snap-1")
    given_up = keep(site, order, 2, "snap-2")
    assert ([one.id for one in given_up.resources], given_up.objects) == (["snap-1"], ("one-1.manifest",))
    assert rows(site) == (["one-2.manifest"], {"snap-1": None, "snap-2": "one"})


@pytest.mark.parametrize(("most", "left"), [(0, []), (1, ["one-1.manifest"]), (None, ["one-1.manifest"])])
def test_a_policy_that_wants_none_any_more(site: Site, most: int | None, left: list[str]) -> None:
    keep(site, machine_order("one", {}), 1, "snap-1")
    later = machine_order("two", {} if most is None else {"base_snapshots.keep": most})
    with site.database.write() as connection:
        given_up = bases.unwanted(connection, later)
    assert [one.id for one in given_up.resources] == ([] if left else ["snap-1"])
    assert rows(site)[0] == left


def test_the_last_one_is_the_last_whatever_the_clock_says(site: Site) -> None:
    """Made while the clock was years ahead, an old base would be begun from for years."""
    both = {"base_snapshots.keep": 2}
    site.pass_time(9 * 365 * 86_400)
    keep(site, machine_order("one", both), 1, "snap-1")
    site.pass_time(-9 * 365 * 86_400)
    keep(site, machine_order("two", both), 1, "snap-2")
    keep(site, machine_order("three", both), 1, "snap-3")
    assert rows(site)[0] == ["three-1.manifest", "two-1.manifest"]
    with site.database.read() as connection:
        found = bases.choose(site.database, connection, machine_order("four", both))
    assert found is not None
    assert found.scan == "three"
