from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from client.digest import digest
from client.model import AccountIn, Compare, Compared, ScanState, Sighting
from console.clock import now
from console.problems import Refused
from console.store import accounts, estate, instances, orders, scans, tables
from console.store.database import Database
from core.estate import Disk, Instance, InstanceState, Place
from tests.console.made import ACCOUNT, FLEET, PLACE, enrol, instance, key, ordered

LATER = timedelta(seconds=10)


@contextmanager
def writes(database: Database) -> Iterator[Counter[str]]:
    """Which tables are written to, and how many rows."""
    counted: Counter[str] = Counter()

    def count(_: Any, __: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        word, *rest = statement.replace('"', "").split()
        if word in {"INSERT", "UPDATE", "DELETE"}:
            counted[rest[1] if word in {"INSERT", "DELETE"} else rest[0]] += len(parameters) if executemany else 1

    sa.event.listen(database.engine, "before_cursor_execute", count)
    try:
        yield counted
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", count)


def compare(
    database: Database,
    known: dict[str, Instance],
    listed: datetime | None = None,
    *,
    complete: bool = True,
    **others: Any,
) -> Compared:
    digests = {id_: digest(one) for id_, one in known.items()}
    listing = Compare(place=PLACE, listed=listed or now(), complete=complete, digests=digests, **others)
    return estate.compare(database, FLEET, listing, now())[0]


def sight(database: Database, *seen: Instance, when: datetime | None = None) -> None:
    estate.sight(database, FLEET, Sighting(instances=seen, seen=when or now()), now())


def closed(database: Database) -> set[str]:
    with database.read() as connection:
        return set(
            connection.execute(sa.select(tables.instance.c.id).where(tables.instance.c.closed.is_not(None))).scalars()
        )


def test_only_what_differs_is_wanted(database: Database) -> None:
    enrol(database, "i-1", "i-2")
    known = {"i-1": instance("i-1"), "i-2": replace(instance("i-2"), name="renamed"), "i-3": instance("i-3")}
    assert compare(database, known) == Compared(wanted=("i-2", "i-3"), closed=0)
    sight(database, known["i-2"], known["i-3"])
    assert compare(database, known) == Compared(wanted=(), closed=0)
    with database.read() as connection:
        assert instances.get(connection, key("i-2")).instance == known["i-2"]


def test_unchanged_instances_are_not_written(database: Database) -> None:
    ids = [f"i-{number}" for number in range(300)]
    enrol(database, *ids)
    known = {id_: instance(id_) for id_ in ids}
    with writes(database) as counted:
        assert compare(database, known) == Compared(wanted=(), closed=0)
    assert counted == {"place": 1}


@pytest.mark.slow
def test_fifty_thousand_unchanged_instances_are_not_written(database: Database) -> None:
    places = [Place("aws", f"{number:012}", "eu-west-1") for number in range(50)]
    for place in places:
        ids = [f"i-{number}" for number in range(1000)]
        enrol(database, *ids, account=AccountIn(cloud="aws", account=place.account))
    known = {f"i-{number}": number for number in range(1000)}
    digests = {place: {id_: digest(instance(id_, place)) for id_ in known} for place in places}
    with writes(database) as counted:
        for place in places:
            listing = Compare(place=place, listed=now(), complete=True, digests=digests[place])
            assert estate.compare(database, FLEET, listing, now())[0] == Compared(wanted=(), closed=0)
    assert counted == {"place": 50}


def test_vanished_ones_are_closed_only_by_a_whole_listing(database: Database) -> None:
    enrol(database, "i-1", "i-2")
    listed = now() + LATER
    known = {"i-1": instance("i-1")}
    later = now() + 2 * LATER
    listing = Compare(place=PLACE, listed=listed, complete=False, digests={"i-1": digest(known["i-1"])}, problem="slow")
    assert estate.compare(database, FLEET, listing, later)[0].closed == 0
    whole = listing.model_copy(update={"complete": True, "problem": ""})
    assert estate.compare(database, FLEET, whole, later)[0].closed == 1
    assert closed(database) == {"i-2"}
    assert estate.compare(database, FLEET, whole, later)[0].closed == 0


def test_one_that_was_seen_after_the_listing_began_stays(database: Database) -> None:
    listed = now()
    enrol(database, "i-1", seen=listed + timedelta(milliseconds=1))
    assert compare(database, {}, listed) == Compared(wanted=(), closed=0)
    assert closed(database) == set()


def test_an_old_listing_that_comes_late_closes_nothing(database: Database) -> None:
    long_ago = now() - timedelta(hours=1)
    enrol(database, "i-1", seen=long_ago)
    known = {"i-1": instance("i-1")}
    assert compare(database, known, now()).closed == 0
    assert compare(database, {}, now() - timedelta(minutes=1)).closed == 0
    assert closed(database) == set()


def test_one_that_is_there_again_is_opened(database: Database) -> None:
    enrol(database, "i-1", seen=now() - LATER)
    assert compare(database, {}).closed == 1
    assert compare(database, {"i-1": instance("i-1")}).wanted == ("i-1",)
    sight(database, instance("i-1"))
    assert closed(database) == set()
    assert compare(database, {"i-1": instance("i-1")}).wanted == ()


def test_a_terminated_one_is_closed_and_not_asked_for_again(database: Database) -> None:
    enrol(database, "i-1", seen=now() - LATER)
    gone = replace(instance("i-1"), state=InstanceState.TERMINATED)
    assert compare(database, {"i-1": gone}).wanted == ("i-1",)
    sight(database, gone)
    assert closed(database) == {"i-1"}
    assert compare(database, {"i-1": gone}) == Compared(wanted=(), closed=0)


def test_an_older_sighting_that_comes_late_is_left_aside(database: Database) -> None:
    enrol(database, "i-1")
    sight(database, replace(instance("i-1"), name="old"), when=now() - timedelta(hours=1))
    with database.read() as connection:
        assert instances.get(connection, key()).instance == instance("i-1")


def test_one_that_two_write_at_once_is_as_the_later_saw_it(database: Database) -> None:
    time = now()
    enrol(database, "i-1", seen=time)
    with database.write() as connection:  # as if it had not been there when the other one looked
        estate._upsert(connection, [estate._row(instance("i-1"), time - LATER)])
    with database.read() as connection:
        seen = instances.get(connection, key())
    assert (seen.first_seen, seen.last_seen) == (time, time)


def test_the_scans_of_one_that_vanished_end_or_are_stopped(database: Database) -> None:
    enrol(database, "i-1", "i-2", seen=now() - LATER)
    known_to_fleet = ordered(database, "i-1")
    after = orders.fetch(database, FLEET, 0, now())[-1].number
    not_fetched = ordered(database, "i-2")
    assert compare(database, {}).closed == 2
    with database.read() as connection:
        assert scans.get(connection, not_fetched).state is ScanState.GONE
        assert scans.get(connection, known_to_fleet).state is ScanState.ORDERED
    assert [(one.kind, one.scan) for one in orders.fetch(database, FLEET, after, now())] == [("stop", known_to_fleet)]


def test_last_seen_moves_with_whole_listings(database: Database) -> None:
    long_ago = now() - timedelta(hours=1)
    enrol(database, "i-1", seen=long_ago)
    listed = now()
    compare(database, {"i-1": instance("i-1")}, listed)
    with database.read() as connection:
        assert instances.get(connection, key()).last_seen == listed
    assert compare(database, {}).closed == 1
    with database.read() as connection:
        assert instances.get(connection, key()).last_seen >= listed


@pytest.mark.parametrize(
    ("place", "status"),
    [
        pytest.param(Place("aws", "999999999999", "eu-west-1"), 404, id="not-enrolled"),
        pytest.param(Place("aws", "210987654321", "eu-west-1"), 403, id="another-fleets"),
        pytest.param(Place("aws", "123456789012\x00", "eu-west-1"), 422, id="nul"),
        pytest.param(Place("aws", "123456789012", "eu\n"), 422, id="line-break"),
        pytest.param(Place("aws", "1" * 100, "eu-west-1"), 422, id="long"),
    ],
)
def test_a_fleet_speaks_of_its_own_accounts_alone(database: Database, place: Place, status: int) -> None:
    enrol(database, "i-1")
    enrol(database, account=AccountIn(cloud="aws", account="210987654321", fleet="another"))
    with pytest.raises(Refused) as caught:
        estate.compare(database, FLEET, Compare(place=place, listed=now(), complete=True, digests={}), now())
    assert caught.value.status == status
    with pytest.raises(Refused) as caught:
        estate.sight(database, FLEET, Sighting(instances=(instance("i-1"), instance("i-2", place)), seen=now()), now())
    assert caught.value.status == status
    with database.read() as connection:
        assert len(instances.listed(connection, after="", state="all", text="", limit=10).items) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"id": "i\x00"}, id="id-with-nul"),
        pytest.param({"id": ""}, id="no-id"),
        pytest.param({"id": "i" * 600}, id="long-id"),
        pytest.param({"image": "ami\n"}, id="image"),
        pytest.param({"launched": datetime(2027, 1, 1)}, id="time-without-offset"),  # noqa: DTZ001  on purpose
    ],
)
def test_names_that_are_none_are_refused(database: Database, wrong: dict[str, Any]) -> None:
    enrol(database, "i-1")
    with pytest.raises(Refused) as caught:
        sight(database, replace(instance("i-2"), **wrong))
    assert caught.value.status == 422


def test_hostile_names_and_tags_survive(database: Database) -> None:
    enrol(database)
    hostile = replace(instance("i-1"), name="a\x00\u202e%_", tags={"\x00": "\x1b[31m"})
    sight(database, hostile)
    with database.read() as connection:
        assert instances.get(connection, key()).instance == hostile
        for text, found in (("%", 1), ("_", 1), ("%%", 0), ("I-1", 1), ("\\x00", 1)):
            assert len(instances.listed(connection, after="", state="open", text=text, limit=10).items) == found


def test_pages_of_instances(database: Database) -> None:
    ids = sorted(f"i-{number}" for number in range(7))
    enrol(database, *ids)
    found, after = [], ""
    with database.read() as connection:
        while True:
            page = instances.listed(connection, after=after, state="all", text="", limit=3)
            found += [one.instance.id for one in page.items]
            if page.next is None:
                break
            after = page.next
    assert found == ids


def test_an_account_that_is_deleted_takes_its_instances_along(database: Database) -> None:
    enrol(database, "i-1")
    scan = ordered(database)
    with database.write() as connection:
        assert accounts.delete(connection, ACCOUNT.cloud, ACCOUNT.account, "me", now()) == {FLEET}
        assert accounts.everything(connection) == []
        assert scans.get(connection, scan).state is ScanState.GONE
    assert closed(database) == {"i-1"}


def test_an_account_that_changes_its_fleet_takes_its_scans_from_the_old_one(database: Database) -> None:
    enrol(database, "i-1")
    scan = ordered(database)
    with database.write() as connection:
        changed, told = accounts.put(connection, ACCOUNT.model_copy(update={"fleet": "another"}), "me", now())
        assert (changed.fleet, changed.instances, told) == ("another", 1, {"another"})
        assert scans.get(connection, scan).state is ScanState.STOPPED
    assert [one.kind for one in orders.fetch(database, "another", 0, now())] == ["reconcile"]


def test_accounts_say_when_they_were_listed_and_what_went_wrong(database: Database) -> None:
    enrol(database, "i-1")
    first, second = now() - LATER, now()
    for region, listed, complete, problem in (
        ("a", first, True, ""),
        ("b", second, True, ""),
        ("b", second, False, "denied"),
    ):
        place = Place(ACCOUNT.cloud, ACCOUNT.account, region)
        listing = Compare(place=place, listed=listed, complete=complete, digests={}, problem=problem)
        estate.compare(database, FLEET, listing, now())
    with database.read() as connection:
        (account,) = accounts.everything(connection)
    assert (account.reconciled, account.instances, account.problem) == (first, 1, "b: denied")


def test_an_instance_of_any_size_is_not_taken(database: Database) -> None:
    """A page of a thousand of them would be more than a console has memory."""
    enrol(database)
    tags = {str(number): "x" * 10_000 for number in range(100)}
    with pytest.raises(Refused) as caught:
        estate.sight(database, FLEET, Sighting(instances=(instance(tags=tags),), seen=now()), now())
    assert caught.value.status == 422


def test_the_largest_instance_of_a_cloud_is_taken(database: Database) -> None:
    enrol(database)
    disks = tuple(
        Disk(PLACE, f"vol-{number:017x}", "i-1", "/dev/xvdaa", key="arn:" + "k" * 100) for number in range(128)
    )
    tags = {f"{number:0>128}": "v" * 256 for number in range(50)}
    largest = instance(tags=tags, disks=disks, security_groups=tuple(f"sg-{number:017x}" for number in range(240)))
    assert estate.sight(database, FLEET, Sighting(instances=(largest,), seen=now()), now()).changed
