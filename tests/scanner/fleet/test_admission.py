"""Scans wait, are claimed, end or wait again: on both databases, by several workers at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from client.model import ResultIn, ScanKind, ScanOrder, ScanState, Why
from core.estate import Instance, Place
from scanner.fleet import admission, kept, slots
from scanner.fleet.admission import MOST_FAILURES, Asked, Serving
from scanner.fleet.database import Database
from scanner.fleet.migrations import upgrade
from scanner.fleet.slots import Fence, Fenced
from scanner.fleet.tables import outbox, scan, slot
from scanner.fleet.turn import Limits

HERE = Place("aws", "111122223333", "eu-central-1")


def an_order(scan_id: str, machine: str = "", place: Place = HERE, due_seconds: float = -5, **fields: Any) -> ScanOrder:
    instance = Instance(place, machine or f"i-{scan_id}")
    given: dict[str, Any] = {
        "scan": scan_id,
        "kind": ScanKind.INSTANCE,
        "place": place,
        "machine": str(instance),
        "instance": instance,
        "why": Why.SCHEDULE,
        "not_before": datetime.now(UTC) + timedelta(seconds=due_seconds),
        "policy_version": 3,
    }
    return ScanOrder(**(given | fields))


class Site:
    """A database with two slots that are held."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        upgrade(self.database)
        self.fences = [self._fence(name) for name in ("slot-1", "slot-2")]

    def _fence(self, name: str) -> Fence:
        slot = slots.claim(self.database, f"holder of {name}", [name], 3600)
        assert slot is not None
        return Fence(self.database, slot)

    def order(self, *orders: ScanOrder) -> None:
        with self.database.write() as connection:
            for one in orders:
                assert admission.write_down(self.database, connection, one)

    def claim(self, number: int = 0, **serving: Any) -> str | None:
        return admission.claim(self.database, self.fences[number], Serving(**({"capacity": 100} | serving)))

    def do(self, what: Any, *args: Any, **more: Any) -> Any:
        with self.database.write() as connection:
            return what(self.database, connection, *args, **more)

    def row(self, scan_id: str) -> Any:
        with self.database.read() as connection:
            return connection.execute(select(scan).where(scan.c.id == scan_id)).one()

    def result(self, scan_id: str) -> ResultIn:
        with self.database.read() as connection:
            found = connection.execute(select(outbox.c.result).where(outbox.c.scan == scan_id)).scalar_one()
        return ResultIn.model_validate_json(found)

    def pass_time(self, seconds: float) -> None:
        with self.database.write() as connection:
            before = int(kept.read(connection, kept.CLOCK_OFFSET_MS, "0"))
            kept.write(connection, kept.CLOCK_OFFSET_MS, str(before + int(seconds * 1000)))


@pytest.fixture
def site(url: str) -> Iterator[Site]:
    made = Site(url)
    yield made
    made.database.close()


def test_in_their_order(site: Site) -> None:
    site.order(
        an_order("late", due_seconds=-1),
        an_order("early", due_seconds=-9),
        an_order("launched", why=Why.LAUNCH, due_seconds=-1),
        an_order("asked", why=Why.MANUAL, due_seconds=-1),
        an_order("tomorrow", due_seconds=86_400),
    )
    assert [site.claim() for _ in range(5)] == ["asked-1", "launched-1", "early-1", "late-1", None]
    assert not admission.is_due(site.database)
    site.pass_time(86_500)
    assert admission.is_due(site.database)
    assert site.claim() == "tomorrow-1"


def test_a_flood_of_one_account_starves_no_other(site: Site) -> None:
    """Accounts take turns, also where one scan runs at a time; but priority comes first."""
    places = [HERE, Place("aws", "222222222222", "eu-central-1"), Place("azure", "111122223333", "x")]
    site.order(*(an_order(f"flood-{number}", due_seconds=-100 - number) for number in range(30)))
    site.order(*(an_order(f"b-{number}", place=places[1], due_seconds=-9 + number) for number in range(3)))
    site.order(*(an_order(f"c-{number}", place=places[2], due_seconds=-9 + number) for number in range(2)))
    site.order(an_order("asked", why=Why.MANUAL))
    begun = []
    for _ in range(10):
        token = site.claim(capacity=1)
        assert token
        begun.append(admission.scan_of(token)[0])
        site.do(admission.end, begun[-1], ScanState.DONE)
    assert begun == [
        "asked", "b-0", "c-0", "flood-29", "b-1", "c-1", "flood-28", "b-2", "flood-27", "flood-26",
    ]  # fmt: skip


def test_an_order_is_written_down_once(site: Site) -> None:
    site.order(an_order("one"))
    assert site.do(admission.write_down, an_order("one", machine="another")) is False
    site.claim()
    site.do(admission.end, "one", ScanState.DONE)
    assert site.do(admission.write_down, an_order("one")) is False
    assert site.claim() is None


@pytest.mark.parametrize(
    ("serving", "taken"),
    [
        ({"clouds": ("file",)}, {"c-1"}),
        ({"regions": ("us-east-1",)}, {"b-1", "c-1"}),
        ({"clouds": ("aws",), "regions": ("eu-central-1",)}, {"a-1"}),
        ({"limits": Limits(total=2)}, {"a-1", "c-1"}),  # accounts take turns
        ({"capacity": 1}, {"a-1"}),
        ({}, {"a-1", "b-1", "c-1"}),
    ],
)
def test_what_a_worker_takes(site: Site, serving: dict[str, Any], taken: set[str]) -> None:
    elsewhere = Place("aws", HERE.account, "us-east-1")
    site.order(
        an_order("a", due_seconds=-30),
        an_order("b", place=elsewhere, due_seconds=-20),
        an_order("c", place=Place("file", "site", "here")),
    )
    found = {site.claim(**serving) for _ in range(4)}
    assert found - {None} == taken


def test_limits_of_the_policy(site: Site) -> None:
    settings = {"limits.scans_per_account": 2, "limits.scans_per_host": 1}
    site.order(*(an_order(f"s{number}", placement=f"host-{number // 2}", settings=settings) for number in range(6)))
    assert {site.claim(), site.claim()} == {"s0-1", "s2-1"}
    assert site.claim() is None
    site.do(admission.end, "s0", ScanState.DONE)
    assert site.claim() == "s1-1"


@pytest.mark.parametrize("limit", [True, -1, "5", None, 2.5])
def test_limits_that_are_none(site: Site, limit: Any) -> None:
    site.order(an_order("one", settings={"limits.scans_per_account": limit}))
    assert site.claim() == "one-1"


@pytest.mark.parametrize("name", ["scans_per_account", "scans_per_host"])
def test_a_limit_of_0_is_said_and_not_waited_for(site: Site, name: str) -> None:
    """Of a policy that was applied before such a limit was refused."""
    site.order(an_order("one", settings={f"limits.{name}": 0}), an_order("two"))
    assert site.claim() == "two-1"
    with site.database.read() as connection:
        row = connection.execute(select(scan).where(scan.c.id == "one")).one()
        assert connection.execute(select(outbox.c.scan)).scalars().all() == ["one"], "the console is told"
    assert (row.state, row.detail) == (ScanState.FAILED, f"limits.{name} is 0: no scan could ever start")


def test_words_that_no_database_takes(site: Site) -> None:
    """Whoever names machines may write anything; the order goes on as it came."""
    place = Place("file", "site", "r\x00" * 60)
    order = an_order("one", machine="m\x00\x1b" * 20, place=place, placement="h\x00" * 5000)
    site.order(order)
    assert site.claim() == "one-1"
    with site.database.read() as connection:
        assert admission.order_of(connection, "one") == order


def test_a_window_that_closed(site: Site) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=60)
    site.order(an_order("shut", not_after=soon))
    site.pass_time(61)
    assert site.claim() is None
    assert (site.row("shut").state, site.result("shut").state) == (ScanState.MISSED, ScanState.MISSED)
    assert site.result("shut").policy_version == 3


def test_many_workers_claim_each_once(site: Site) -> None:
    site.order(*(an_order(f"s{number}") for number in range(30)))
    found: list[str] = []

    def run(number: int) -> None:
        while (token := site.claim(number, limits=Limits(total=20))) is not None:
            found.append(token)

    threads = [threading.Thread(target=run, args=(number % 2,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 20
    held = [set(admission.held(site.database, fence)) for fence in site.fences]
    assert held[0] | held[1] == set(found)
    assert not held[0] & held[1]


def test_a_slot_that_was_lost_takes_nothing(site: Site) -> None:
    site.order(an_order("one"))
    slots.release(site.database, site.fences[0].slot)
    with pytest.raises(Fenced):
        site.claim()
    assert site.row("one").state == ScanState.WAITING


def test_tried_again_later_each_time_then_failed(site: Site) -> None:
    site.order(an_order("one"))
    pauses = []
    for attempt in range(1, MOST_FAILURES + 1):
        assert site.claim() == f"one-{attempt}"
        assert site.claim(1) is None
        before = site.row("one").not_before_ms
        with site.database.read() as connection:
            now = kept.now_ms(site.database, connection)
        site.do(admission.again, "one", "throttled \x1b[31m", after_seconds=5)
        if attempt < MOST_FAILURES:
            pauses.append(site.row("one").not_before_ms - now)
            assert site.row("one").not_before_ms > before
            assert site.claim() is None
            site.pass_time(3600)
    assert pauses[-1] > pauses[0] >= 5000
    result = site.result("one")
    assert (result.state, result.attempt) == (ScanState.FAILED, MOST_FAILURES)
    assert "tried 5 times" in result.detail
    assert "\x1b" not in result.detail


def test_no_second_try_after_the_window(site: Site) -> None:
    site.order(an_order("one", not_after=datetime.now(UTC) + timedelta(seconds=10)))
    site.claim()
    site.do(admission.again, "one", "throttled")
    assert site.result("one").state is ScanState.FAILED


def test_stop_pause_resume(site: Site) -> None:
    site.order(*(an_order(name) for name in ("waiting", "running", "paused")))
    site.do(admission.stop, "waiting")
    assert site.result("waiting").state is ScanState.STOPPED
    site.do(admission.pause, "paused")
    assert site.claim() == "running-1"
    assert site.claim() is None
    assert admission.progress(site.database, site.fences[0], "running-1", "scan") == Asked()
    site.do(admission.pause, "running")
    assert admission.progress(site.database, site.fences[0], "running-1", "scan") == Asked(pause=True)
    site.do(admission.put_back, "running")
    assert site.row("running").state == ScanState.PAUSED
    for name in ("running", "paused"):
        site.do(admission.pause, name, on=False)
    assert {site.claim(), site.claim()} == {"running-2", "paused-1"}, (
        "another attempt, and its failures are not counted"
    )
    site.do(admission.stop, "running")
    assert admission.progress(site.database, site.fences[0], "running-2", "scan") == Asked(stop=True)
    assert admission.progress(site.database, site.fences[0], "running-1", "scan") == Asked(stop=True), (
        "of an earlier attempt"
    )
    for name in ("unknown", "waiting"):
        site.do(admission.stop, name)
        site.do(admission.pause, name)
    assert site.row("waiting").state == ScanState.STOPPED


def test_a_result_is_told_once(site: Site) -> None:
    site.order(an_order("one"))
    site.claim()
    site.do(admission.end, "one", ScanState.DONE, usd=1.5)
    site.do(admission.end, "one", ScanState.FAILED, "too late")
    site.do(admission.again, "one", "too late")
    result = site.result("one")
    assert (result.state, result.usd, result.detail) == (ScanState.DONE, 1.5, "")
    assert result.started is not None
    assert result.ended >= result.started


@pytest.mark.parametrize(
    ("token", "scan_id", "attempt"),
    [
        ("a-b-3", "a-b", 3),
        ("a", "a", 0),
        ("", "", 0),
        ("a-", "a-", 0),
        ("a-٣", "a-٣", 0),
        ("a-" + "9" * 40, "a-" + "9" * 40, 0),
    ],
)
def test_tokens(token: str, scan_id: str, attempt: int) -> None:
    assert admission.scan_of(token) == (scan_id, attempt)
    if attempt:
        assert admission.token(scan_id, attempt) == token


@pytest.mark.parametrize("hours", [3, 9 * 365 * 24])
def test_a_clock_that_was_ahead_when_a_scan_failed(site: Site, hours: int) -> None:
    """It was to be tried again in half a minute, not in years; what was ordered for later stays so."""
    site.order(an_order("one"), an_order("later", due_seconds=80_000))
    site.pass_time(hours * 3600)
    assert site.claim(capacity=1) == "one-1"
    site.do(admission.again, "one", "throttled")
    site.pass_time(-hours * 3600)
    assert site.claim() is None
    site.do(admission.rescue)
    assert site.claim() == "one-2"
    assert site.claim() is None


def test_a_slot_that_died_while_the_clock_was_ahead(site: Site) -> None:
    site.order(an_order("one"))
    assert site.claim() == "one-1"
    with site.database.write() as connection:
        ahead = {"lease_ends_ms": slot.c.lease_ends_ms + 10**11, "heartbeat_ms": slot.c.heartbeat_ms + 10**11}
        connection.execute(update(slot).where(slot.c.name == "slot-1").values(**ahead))
    assert site.do(admission.rescue) == 1
    assert site.row("one").state == ScanState.WAITING


def test_a_flood_of_higher_priority_starves_nobody(site: Site) -> None:
    """Machines that come all day: of those on a schedule, each has its turn; those who are asked for do not wait for all of them."""
    site.order(*(an_order(f"old-{number}", due_seconds=-7200) for number in range(10)))
    begun = []
    for number in range(20):
        site.order(an_order(f"new-{number}", why=Why.LAUNCH))
        token = site.claim(capacity=1)
        assert token is not None
        begun.append(token)
        site.do(admission.end, admission.scan_of(token)[0], ScanState.STOPPED)
    assert sum(one.startswith("old") for one in begun) == 5
    assert [one.startswith("old") for one in begun[:8]].count(True) == 2


def test_what_is_merely_due_waits_for_what_is_more_urgent(site: Site) -> None:
    site.order(*(an_order(f"old-{number}", due_seconds=-1800) for number in range(3)))
    site.order(*(an_order(f"new-{number}", why=Why.MANUAL) for number in range(8)))
    begun = [site.claim() for _ in range(11)]
    assert all(str(one).startswith("new") for one in begun[:8]), begun
    assert all(str(one).startswith("old") for one in begun[8:]), begun
