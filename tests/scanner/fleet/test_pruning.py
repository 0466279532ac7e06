"""What is forgotten, and what is not: unsent results, scans that a base or a resource belongs to, what is not over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import insert, select, update

from client.model import ScanState
from scanner.fleet import admission
from scanner.fleet.pruning import KEPT_SECONDS, prune
from scanner.fleet.slots import Fenced
from scanner.fleet.tables import base, outbox, scan, slot
from tests.scanner.fleet.test_admission import Site, an_order

LONG_AGO = (KEPT_SECONDS + 60) * 1000


@pytest.fixture
def site(url: str) -> Iterator[Site]:
    made = Site(url)
    yield made
    made.database.close()


def ended(site: Site, *names: str, ago_ms: int = LONG_AGO, sent: bool = True) -> None:
    site.order(*(an_order(name) for name in names))
    with site.database.write() as connection:
        for name in names:
            admission.end(site.database, connection, name, ScanState.FAILED, "for the test")
        of = scan.c.id.in_(names)
        connection.execute(update(scan).where(of).values(ended_ms=scan.c.ended_ms - ago_ms))
        if sent:
            connection.execute(update(outbox).where(outbox.c.scan.in_(names)).values(sent_ms=1))


def left(site: Site) -> tuple[set[str], set[str]]:
    with site.database.read() as connection:
        return set(connection.execute(select(scan.c.id)).scalars()), set(
            connection.execute(select(outbox.c.scan)).scalars()
        )


def test_what_is_over_for_long_is_forgotten(site: Site) -> None:
    ended(site, "old", "older")
    ended(site, "young", ago_ms=KEPT_SECONDS * 1000 - 60_000)
    ended(site, "unsent", sent=False)
    ended(site, "base")
    site.order(an_order("waits"))
    with site.database.write() as connection:
        row = {"scan": "base", "machine": "m", "object": "o", "snapshots": "[]", "made_ms": 1}
        connection.execute(insert(base).values(**row, expires_ms=1 << 60, bytes=0, usd_month=0.0))
    assert prune(site.database, site.fences[0]) == 2
    assert left(site) == ({"young", "unsent", "base", "waits"}, {"young", "unsent", "base"})
    assert prune(site.database, site.fences[0]) == 0


def test_only_who_holds_the_slot_forgets(site: Site) -> None:
    ended(site, "old")
    with site.database.write() as connection:
        connection.execute(update(slot).values(epoch=slot.c.epoch + 1))
    with pytest.raises(Fenced):
        prune(site.database, site.fences[0])
    assert left(site)[0] == {"old"}
