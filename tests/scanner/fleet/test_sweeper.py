"""What the sweeper takes and what it leaves, from every state of ledger, tags and cloud."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from client.model import ScanState
from core.errors import CloudError
from core.estate import Resource, Snapshot, SnapshotState
from scanner.fleet import admission, bases, kept
from scanner.fleet.clouds import Spent
from scanner.fleet.ledger import LISTED_SECONDS, FleetLedger
from scanner.fleet.sweeper import Swept, sweep_clouds
from scanner.fleet.tables import base, resource, scan, slot
from tests.scanner.fleet.test_admission import HERE, Site, an_order

GIB = 1 << 30


class Cloud:
    """A connector of which only the sweeper's half is there."""

    def __init__(self) -> None:
        self.there: dict[str, Resource] = {}
        self.fails: set[str] = set()
        self.away = False

    def enter(self, _: object, blocks_per_second: float | None = None) -> Any:
        if self.away:
            raise CloudError("the role is refused")
        return self

    def spent(self, _: object) -> Spent:
        return Spent()

    def delete(self, one: Resource) -> None:
        if one.id in self.fails:
            raise CloudError("not now")
        for other in list(self.there.values()):
            if other.id == one.id or (not one.id and other.token == one.token and other.of == one.of):
                del self.there[other.id]

    def owned(self) -> Iterator[Resource]:
        yield from list(self.there.values())


class Yard(Site):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.cloud = Cloud()
        self.installation = kept.installation(self.database)
        self.ledger = FleetLedger(self.database, self.fences[0], self.installation)

    def make(self, id_: str, token: str, of: str = "vol-1", *, noted: bool = True) -> Resource:
        """Intended, made in the cloud, and noted."""
        expires = datetime.now(UTC) + timedelta(days=1)
        made = Resource(HERE, "snapshot", id_, token, self.installation, expires.replace(microsecond=0), of)
        self.ledger.intend(replace(made, id=""), GIB)
        self.cloud.there[id_] = made
        if noted:
            self.ledger.made(made)
        return made

    def begin(self, scan_id: str, **fields: Any) -> str:
        self.order(an_order(scan_id, **fields))
        token = self.claim()
        assert token is not None
        return token

    def end(self, scan_id: str) -> None:
        self.do(admission.end, scan_id, ScanState.DONE)

    def keep(self, token: str, *made: Resource, manifest: int = 1000, **fields: Any) -> bases.GivenUp:
        scan_id, _ = admission.scan_of(token)
        snapshots = [Snapshot(HERE, one.id, one.of, size_bytes=GIB, state=SnapshotState.READY) for one in made]
        order = an_order(scan_id, machine="i-1", **fields)
        found = self.do(bases.keep, order, token, token + bases.SUFFIX, snapshots, manifest)
        assert isinstance(found, bases.GivenUp)
        return found

    def sweep(self, **how: Any) -> list[Swept]:
        return list(sweep_clouds(self.database, None, self.cloud, **how))

    def entries(self) -> list[tuple[str, str]]:
        with self.database.read() as connection:
            return [(row.id, row.token) for row in connection.execute(select(resource).order_by(resource.c.number))]


@pytest.fixture
def yard(url: str) -> Iterator[Yard]:
    made = Yard(url)
    yield made
    made.database.close()


def test_the_ledger_says_the_same_twice(yard: Yard) -> None:
    token = yard.begin("a")
    for _ in range(2):
        yard.make("snap-1", token)
    yard.ledger.made(replace(yard.cloud.there["snap-1"], id="snap-2"))  # a second one of the same disk
    assert yard.entries() == [("snap-1", token), ("snap-2", token)]
    for _ in range(2):
        yard.ledger.gone(yard.cloud.there["snap-1"])
    assert yard.entries() == [("snap-2", token)]


def test_what_lives_is_left_alone(yard: Yard) -> None:
    token = yard.begin("a")
    yard.make("snap-1", token)
    yard.make("snap-2", token, "vol-2", noted=False)
    assert yard.sweep() == []
    assert set(yard.cloud.there) == {"snap-1", "snap-2"}
    yard.end("a")
    assert [one.resource and one.resource.id for one in yard.sweep(dry_run=True)] != []
    assert set(yard.cloud.there) == {"snap-1", "snap-2"}
    yard.sweep()
    assert yard.cloud.there == {}
    assert yard.entries() == []


def test_an_intention_is_looked_for_until_the_cloud_must_have_listed_it(yard: Yard) -> None:
    token = yard.begin("a")
    yard.make("snap-1", token, noted=False)
    del yard.cloud.there["snap-1"]
    yard.pass_time(86_000)  # a long scan
    yard.end("a")
    yard.sweep()
    assert yard.entries() == [("", token)]
    yard.pass_time(LISTED_SECONDS + 1)
    yard.sweep()
    assert yard.entries() == []


def test_an_attempt_that_failed_and_the_one_after_it(yard: Yard) -> None:
    first = yard.begin("a")
    yard.make("snap-1", first)
    yard.do(admission.again, "a", "throttled")
    yard.pass_time(3600)
    second = yard.claim()
    assert second == "a-2"
    yard.make("snap-2", second)
    yard.sweep()
    assert set(yard.cloud.there) == {"snap-2"}


def test_what_comes_to_light_when_all_is_forgotten(yard: Yard) -> None:
    """Listed an hour later, with an empty ledger: the token tells that its scan has ended."""
    token = yard.begin("a")
    late = yard.make("snap-1", token)
    del yard.cloud.there["snap-1"]
    yard.end("a")
    yard.pass_time(LISTED_SECONDS + 1)
    yard.sweep()
    assert yard.entries() == []
    yard.cloud.there["snap-1"] = late
    assert [one.resource for one in yard.sweep()] == [late]
    assert yard.cloud.there == {}


def test_a_database_that_was_lost(yard: Yard) -> None:
    """What nobody knows of goes when it has expired, a base of then, too."""
    token = yard.begin("a")
    yard.make("snap-1", token)
    with yard.database.write() as connection:
        for table in (resource, base, scan):
            connection.execute(delete(table))
    assert yard.sweep(also=[HERE]) == []
    yard.pass_time(86_400 + 10)
    yard.sweep(also=[HERE])
    assert yard.cloud.there == {}


def test_bases_stay_until_the_next_is_stored(yard: Yard) -> None:
    first = yard.begin("a")
    one = yard.make("snap-1", first)
    assert yard.keep(first, one) == bases.GivenUp()
    yard.end("a")
    assert yard.sweep() == []
    with yard.database.read() as connection:
        count, usd_month = bases.total(connection)
        assert (count, round(usd_month, 6)) == (1, 0.025)
        chosen = bases.choose(yard.database, connection, an_order("b", machine="i-1"))
        assert chosen is not None
        assert [snapshot.id for snapshot in chosen.snapshots] == ["snap-1"]
    second = yard.begin("b")
    two = yard.make("snap-2", second)
    for _ in range(2):  # the step may run again
        given_up = yard.keep(second, two)
    yard.end("b")
    yard.sweep()
    assert set(yard.cloud.there) == {"snap-2"}
    assert given_up == bases.GivenUp()


def test_what_a_base_replaces_is_told(yard: Yard) -> None:
    first, settings = yard.begin("a"), {"base_snapshots.keep": 2}
    yard.keep(first, yard.make("snap-1", first), settings=settings)
    yard.end("a")
    second = yard.begin("b")
    assert yard.keep(second, yard.make("snap-2", second), settings=settings).objects == ()
    yard.end("b")
    third = yard.begin("c")
    given_up = yard.keep(third, yard.make("snap-3", third), settings=settings)
    assert given_up.objects == (first + bases.SUFFIX,)
    assert [one.id for one in given_up.resources] == ["snap-1"]


def test_bases_that_grow_too_old(yard: Yard) -> None:
    token = yard.begin("a")
    yard.keep(token, yard.make("snap-1", token), settings={"base_snapshots.max_age_seconds": 3600})
    yard.end("a")
    yard.pass_time(3601)
    with yard.database.read() as connection:
        assert bases.choose(yard.database, connection, an_order("b", machine="i-1")) is None
    yard.sweep()
    assert yard.cloud.there == {}


def test_what_cannot_be_deleted_is_tried_again(yard: Yard) -> None:
    token = yard.begin("a")
    yard.make("snap-1", token)
    yard.end("a")
    yard.cloud.fails = {"snap-1"}
    assert [str(one.error) for one in yard.sweep()] == ["not now"]
    yard.cloud.fails = set()
    yard.cloud.away = True
    assert [(one.resource, str(one.error)) for one in yard.sweep()] == [(None, "the role is refused")]
    yard.cloud.away = False
    assert [one.error for one in yard.sweep()] == [None]
    assert (yard.cloud.there, yard.entries()) == ({}, [])


def test_a_base_of_a_machine_that_is_gone(yard: Yard) -> None:
    token = yard.begin("a")
    yard.keep(token, yard.make("snap-1", token))
    yard.end("a")
    with yard.database.write() as connection:
        machine = an_order("x", machine="i-1").machine
        assert len(bases.forget(connection, machine).resources) == 1
    yard.sweep()
    assert yard.cloud.there == {}


def test_a_scan_in_a_slot_that_nobody_has(yard: Yard) -> None:
    """A fleet was made smaller: another worker takes it, and what the first one made goes."""
    token = yard.begin("a")
    yard.make("snap-1", token)
    yard.sweep()
    assert yard.row("a").state == ScanState.RUNNING
    with yard.database.write() as connection:
        connection.execute(update(slot).where(slot.c.name == "slot-1").values(lease_ends_ms=0, heartbeat_ms=0))
    yard.sweep()
    assert yard.row("a").state == ScanState.WAITING
    assert yard.cloud.there == {}
    yard.pass_time(3600)
    assert yard.claim(1) == "a-2"
