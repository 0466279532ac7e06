from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from client.digest import digest
from client.model import AccountIn, Compare, Hold, Order, PolicySet, ScanIn, ScanState, Sighting
from console.clock import now
from console.plan import BATCH, LEASE, Turns
from console.policies import Condition, StoredPolicies, apply
from console.store import accounts, estate, orders, results, scans, schedule, tables
from console.store.database import Database
from core.estate import Instance, InstanceState
from tests.console import made
from tests.console.policyset import SCHEDULE, policy_set

FIRST = Condition(none_match="*")
ANY = Condition(match="*")


class World:
    """A database, a planner, and a clock that goes when told."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.policies = StoredPolicies()
        self.turns = Turns(database, self.policies, "one")
        self.now = now()

    def apply(self, wanted: PolicySet, condition: Condition = ANY) -> None:
        apply(self.database, wanted, condition, "test", self.now)

    def see(self, *instances: Instance) -> None:
        estate.sight(self.database, made.FLEET, Sighting(instances=instances, seen=self.now), self.now)

    def plan(self) -> int:
        """Until there is nothing to do; how many instances were looked at."""
        count = 0
        while found := self.turns.turn(self.now).planned:
            count += found
        return count

    def go(self, **how_long: float) -> int:
        self.now += timedelta(**how_long)
        return self.plan()

    def scans(self, *states: ScanState) -> list[Any]:
        query = sa.select(tables.scan).order_by(tables.scan.c.ordered, tables.scan.c.id)
        with self.database.read() as connection:
            return list(connection.execute(query.where(tables.scan.c.state.in_(states)) if states else query))

    def fetched(self) -> list[Any]:
        """All that its fleet was ever given: it fetches what is new first."""
        orders.fetch(self.database, made.FLEET, 0, self.now)
        table = tables.order
        query = (
            sa.select(table).where(table.c.kind != "reconcile", table.c.fetched.is_not(None)).order_by(table.c.number)
        )
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        return [Order(number=row.number, kind=row.kind, scan=row.scan, order=row.document) for row in rows]

    def end(self, scan: str, state: ScanState = ScanState.DONE) -> None:
        done = made.result(scan, ended=self.now, started=self.now) if state is ScanState.DONE else None
        results.take(self.database, made.FLEET, done or made.ended(scan, state), self.now)

    def instance(self, key: str = made.key()) -> Any:
        with self.database.read() as connection:
            return connection.execute(sa.select(tables.instance).where(tables.instance.c.key == key)).one()


@pytest.fixture
def world(database: Database) -> World:
    made.enrol(database)
    found = World(database)
    found.apply(policy_set(), FIRST)
    return found


def listing(world: World, *names: str) -> Compare:
    digests = {name: digest(made.instance(name)) for name in names}
    return Compare(place=made.PLACE, listed=world.now, complete=True, digests=digests)


def fresh(world: World, name: str = "i-1", **others: Any) -> Instance:
    return made.instance(name, launched=world.now - timedelta(seconds=3), **others)


def test_a_launch_is_its_image_then_the_instance_then_the_schedule(world: World) -> None:
    world.see(fresh(world), fresh(world, "i-2"))
    world.plan()
    (image,) = world.scans()
    assert (image.kind, image.machine, image.why) == ("image", f"{made.PLACE}/ami-1", "launch")
    world.go(seconds=2)
    assert len(world.scans()) == 1
    world.end(image.id)
    world.go(seconds=5)
    first, second = world.scans(ScanState.ORDERED)
    assert {first.machine, second.machine} == {made.key("i-1"), made.key("i-2")}
    assert first.why == "launch"
    world.end(first.id)
    world.go(hours=1)
    (scheduled,) = [one for one in world.scans(ScanState.ORDERED) if one.machine == first.machine]
    assert scheduled.why == "schedule"
    assert timedelta() < scheduled.due - world.now <= timedelta(hours=25)
    row = world.instance(first.machine)
    assert (row.policy, row.mode, row.unprotected) == ("company", "agentless", "")
    assert row.next_scan == scheduled.due


@pytest.mark.parametrize("state", [ScanState.DONE, ScanState.FAILED, ScanState.MISSED])
def test_after_a_result_what_comes_next_is_planned_at_once(world: World, state: ScanState) -> None:
    world.see(made.instance("i-1"))
    world.plan()
    (first,) = world.scans(ScanState.ORDERED)
    world.now = first.due
    world.plan()
    world.end(first.id, state)
    assert world.plan() == 1
    (second,) = world.scans(ScanState.ORDERED)
    assert second.due > first.due


def test_what_is_quiet_costs_nothing(world: World) -> None:
    world.see(*(made.instance(f"i-{number}") for number in range(20)))
    assert world.plan() == 20
    before = world.scans()
    assert len(before) == 20
    assert world.plan() == 0
    assert not Turns(world.database, StoredPolicies(), "two").turn(world.now).ours
    assert world.scans() == before


def test_two_planners_order_once(world: World) -> None:
    world.see(*(made.instance(f"i-{number}") for number in range(50)))
    with world.database.write() as connection:
        connection.execute(tables.lease.delete())
    turns = [Turns(world.database, StoredPolicies(), name) for name in ("one", "two", "three")]
    threads = [threading.Thread(target=lambda one=one: [one.turn(world.now) for _ in range(3)]) for one in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(world.scans()) == 50


def test_who_plans_is_one_until_its_lease_ends(world: World) -> None:
    other = Turns(world.database, StoredPolicies(), "two")
    assert world.turns.turn(world.now).ours
    assert not other.turn(world.now).ours
    later = world.now + LEASE + timedelta(seconds=1)
    assert other.turn(later).ours
    assert not world.turns.turn(later).ours
    other.leave()
    assert world.turns.turn(later).ours


def test_a_row_that_cannot_be_planned_keeps_nobody_else_waiting(world: World) -> None:
    world.see(*(made.instance(f"i-{number}") for number in range(9)))
    odd = made.key("i-4")
    with world.database.write() as connection:
        connection.execute(tables.instance.update().where(tables.instance.c.key == odd).values(document={"id": 1}))
    assert world.plan() == 8
    assert {one.machine for one in world.scans()} == {made.key(f"i-{number}") for number in range(9)} - {odd}
    assert "its log says more" in world.instance(odd).unprotected
    world.see(made.instance("i-4", name="sane again"))
    world.plan()
    assert len(world.scans()) == 9
    assert world.instance(odd).unprotected == ""


def test_who_tells_without_end_keeps_nobody_else_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.plan.BATCH", 8)
    monkeypatch.setattr("console.plan._MOST_TOLD", 6, raising=False)
    world.see(*(made.instance(f"i-{number}") for number in range(20)))
    world.plan()
    with world.database.write() as connection:
        schedule.hold(connection, Hold(scope=made.key("i-19")), "test", world.now)
    for _ in range(3):
        world.see(*(made.instance(f"i-{number}", name=f"{number} {_}") for number in range(19)))
        world.turns.turn(world.now)
    assert world.instance(made.key("i-19")).look is not None


@pytest.mark.parametrize("how_far", [timedelta(days=3700), timedelta(days=40)])
def test_a_clock_that_was_wrong_for_a_while_stops_nothing(world: World, how_far: timedelta) -> None:
    """It jumps ahead, all is planned there, and it is put right: what was written meanwhile must not count for years."""
    world.see(made.instance("i-1"), made.instance("i-2"), made.instance("i-3"), made.instance("i-4"))
    world.plan()
    right = world.now
    first, second = (one.id for one in world.scans(ScanState.ORDERED)[:2])
    world.end(first)
    orders.fetch(world.database, made.FLEET, 0, world.now)
    world.now += how_far
    world.end(second)
    world.see(made.instance("i-5"), made.instance("i-2", name="another"))
    estate.compare(world.database, made.FLEET, listing(world, "i-1", "i-2", "i-3", "i-4", "i-5"), world.now)
    world.plan()
    world.now = right + timedelta(minutes=1)
    world.turns = Turns(world.database, world.policies, "started-again")  # the first was killed, its lease is not over
    for _ in range(3):
        world.go(hours=12)
    assert {one.machine for one in world.scans(ScanState.ORDERED) if one.due <= world.now + timedelta(hours=24)} >= {
        made.key(f"i-{number}") for number in (1, 2, 5)
    }
    world.see(made.instance("i-2", name="and another"))
    assert world.instance(made.key("i-2")).name == "and another"
    closed, _ = estate.compare(world.database, made.FLEET, listing(world, "i-1", "i-2"), world.now)
    assert closed.closed == 3


def test_findings_of_a_clock_that_was_wrong_are_fixed_some_day(world: World) -> None:
    world.see(made.instance())
    right = world.now
    world.now += timedelta(days=3700)
    with world.database.write() as connection:
        (scan,), _ = scans.start(connection, ScanIn(instances=(made.key(),)), world.policies, "test", world.now)
    sent = made.result(scan.id, made.report([made.finding("a")]), started=world.now, ended=world.now)
    results.take(world.database, made.FLEET, sent, world.now)
    world.now = right + timedelta(days=1)
    with world.database.write() as connection:
        (scan,), _ = scans.start(connection, ScanIn(instances=(made.key(),)), world.policies, "test", world.now)
    world.end(scan.id)
    with world.database.read() as connection:
        assert [row.state for row in connection.execute(sa.select(tables.finding))] == ["fixed"]
    assert world.instance().last_scanned == world.now


def test_a_planner_that_slept_through_its_lease_writes_nothing(world: World) -> None:
    assert world.turns.turn(world.now).ours
    other = Turns(world.database, StoredPolicies(), "two")
    assert other.turn(world.now + LEASE * 2).ours
    world.see(made.instance())
    assert not world.turns.turn(world.now).ours  # it believes that its lease still runs
    assert world.scans() == []


class TestPolicyChanges:
    def test_what_no_fleet_has_is_changed_in_place(self, world: World) -> None:
        world.see(made.instance())
        world.plan()
        (scan,) = world.scans()
        world.apply(policy_set(f"scan: {{schedule: {SCHEDULE}, depth: full}}"))
        world.plan()
        (same,) = world.scans()
        assert (same.id, same.state, same.policy_version) == (scan.id, "ordered", 2)
        (order,) = world.fetched()
        assert order.order.settings["scan.depth"] == "full"

    def test_what_a_fleet_has_is_stopped_and_ordered_anew(self, world: World) -> None:
        world.see(made.instance())
        world.plan()
        (scan,) = world.scans()
        world.fetched()
        world.apply(policy_set(f"scan: {{schedule: {SCHEDULE}, depth: full}}"))
        world.plan()
        first, stop, second = world.fetched()
        assert [one.kind for one in (first, stop, second)] == ["scan", "stop", "scan"]
        assert stop.scan == first.scan == scan.id
        assert second.order.settings["scan.depth"] == "full"
        assert second.order.not_before == first.order.not_before
        world.plan()
        world.go(minutes=1)
        assert len(world.fetched()) == 3

    def test_nothing_is_told_if_nothing_changes_for_it(self, world: World) -> None:
        world.see(made.instance())
        world.plan()
        world.fetched()
        world.apply(PolicySet(documents={**policy_set().documents, "more.yaml": "# nothing\n"}))
        assert world.plan() == 1
        assert len(world.fetched()) == 1

    def test_mode_none_stops_all(self, world: World) -> None:
        world.see(made.instance())
        world.plan()
        (scan,) = world.scans()
        world.fetched()
        world.apply(policy_set("protection: {mode: none, why: moves out}"))
        world.plan()
        assert [(one.kind, one.scan) for one in world.fetched()[1:]] == [("stop", scan.id)]
        row = world.instance()
        assert (row.mode, row.unprotected, row.next_scan) == ("none", "not protected: moves out", None)
        world.end(scan.id, ScanState.STOPPED)
        world.go(days=2)
        assert len(world.fetched()) == 2

    def test_without_policies_nothing_is_scheduled(self, database: Database) -> None:
        made.enrol(database)
        bare = World(database)
        bare.see(made.instance())
        bare.plan()
        assert bare.scans() == []
        assert bare.instance().unprotected == "no policy holds: none was applied yet"
        bare.apply(policy_set(), FIRST)
        bare.plan()
        assert len(bare.scans()) == 1

    def test_a_profile_begins_and_ends_by_itself(self, world: World) -> None:
        until = (world.now + timedelta(hours=1)).isoformat()
        profile = (
            "---\napiVersion: kumomori/v1\nkind: Profile\nmetadata: {name: deep, parent: company}\n"
            f'until: "{until}"\nsettings: {{scan: {{depth: full}}}}\n'
        )
        text = policy_set().documents["company.yaml"]
        world.apply(PolicySet(documents={"company.yaml": text + profile}))
        world.see(made.instance())
        world.plan()
        world.go(minutes=61)
        (order,) = world.fetched()
        assert order.order.settings["scan.depth"] == "changed"


class TestHolds:
    @pytest.mark.parametrize("scope", ["all", f"aws://{made.ACCOUNT.account}", made.key()])
    def test_held_is_paused_and_released_is_resumed(self, world: World, scope: str) -> None:
        world.see(made.instance())
        world.plan()
        (scan,) = world.scans()
        with world.database.write() as connection:
            schedule.hold(connection, Hold(scope=scope, why="they move"), "test", world.now)
        world.plan()
        world.see(made.instance("i-1"), made.instance("i-2"))
        world.plan()
        with world.database.write() as connection:
            assert all(
                one.held == (one.instance == made.key() or scope != made.key())
                for one in schedule.listed(connection, world.now, after="", limit=10).items
            )
            schedule.release(connection, scope, "test", world.now)
        world.plan()
        told = [(one.kind, one.scan) for one in world.fetched() if one.scan == scan.id]
        assert told == [("scan", scan.id), ("pause", scan.id), ("resume", scan.id)]
        assert len(world.scans(ScanState.ORDERED)) == 2

    def test_the_scan_of_an_image_is_held(self, world: World) -> None:
        world.see(made.instance(image="ami-1", launched=world.now))
        world.plan()
        (image,) = world.scans()
        with world.database.write() as connection:
            schedule.hold(connection, Hold(scope="all", until=world.now + timedelta(minutes=5)), "test", world.now)
        world.plan()
        world.plan()
        world.go(minutes=6)
        world.plan()
        told = [(one.kind, one.scan) for one in world.fetched() if one.scan == image.id]
        assert told == [("scan", image.id), ("pause", image.id), ("resume", image.id)]

    def test_a_hold_ends_by_itself(self, world: World) -> None:
        world.see(made.instance())
        world.plan()
        with world.database.write() as connection:
            schedule.hold(connection, Hold(scope="all", until=world.now + timedelta(minutes=5)), "test", world.now)
        world.plan()
        world.go(minutes=4)
        assert [one.kind for one in world.fetched()] == ["scan", "pause"]
        world.go(minutes=2)
        assert [one.kind for one in world.fetched()] == ["scan", "pause", "resume"]


def test_a_machine_that_vanished_has_no_scans(world: World) -> None:
    world.see(made.instance())
    world.plan()
    (scan,) = world.scans()
    world.fetched()
    world.see(made.instance(state=InstanceState.TERMINATED))
    world.plan()
    assert [(one.kind, one.scan) for one in world.fetched()[1:]] == [("stop", scan.id)]
    world.go(days=3)
    assert len(world.fetched()) == 2


def test_by_hand_comes_before_the_schedule(world: World) -> None:
    world.see(made.instance())
    world.plan()
    (scan,) = world.scans()
    with world.database.write() as connection:
        (manual,), _ = scans.start(connection, ScanIn(instances=(made.key(),)), world.policies, "test", world.now)
    world.go(hours=25)
    assert {one.id: one.state for one in world.scans()} == {scan.id: "stopped", manual.id: "ordered"}
    world.end(manual.id)
    world.go(minutes=6)
    assert len(world.scans(ScanState.ORDERED)) == 1


def test_another_fleet_takes_an_account_over(world: World) -> None:
    world.see(made.instance())
    world.plan()
    (scan,) = world.scans()
    world.fetched()
    moved = AccountIn(cloud="aws", account=made.ACCOUNT.account, fleet="second")
    with world.database.write() as connection:
        accounts.put(connection, moved, "test", world.now)
    for _ in range(3):
        world.go(minutes=6)
    first, second = sorted(world.scans(), key=lambda one: one.fleet)
    assert (first.id, first.fleet, second.fleet) == (scan.id, made.FLEET, "second")
    assert [one.kind for one in orders.fetch(world.database, "second", 0, world.now)].count("scan") == 1


def test_one_odd_row_does_not_end_the_planning_of_others(world: World) -> None:
    """A month's budget that is used up, an account that is not there: each is one machine's matter."""
    world.apply(policy_set(f"scan: {{schedule: {SCHEDULE}}}, limits: {{month_usd: 0.005}}"))
    world.see(made.instance())
    world.plan()
    (scan,) = world.scans()
    world.end(scan.id)  # costs 0.01
    world.go(days=1)
    same_month = world.now.month == (world.now - timedelta(days=1)).month
    assert len(world.scans()) == (1 if same_month else 2)
    if same_month:
        assert world.instance().unprotected == "limits.month_usd of its account is used up"


@pytest.mark.slow
def test_an_estate_of_many(world: World) -> None:
    """A change for all is worked off in small steps, and who is new comes first."""
    world.see(*(made.instance(f"i-{number:05}") for number in range(1_000)))
    world.see(*(made.instance(f"j-{number:05}") for number in range(500)))
    assert world.plan() == 1_500
    assert len(world.scans()) == 1_500
    world.apply(policy_set(f"scan: {{schedule: {SCHEDULE}, depth: full}}"))
    assert world.turns.turn(world.now).planned == BATCH
    world.see(fresh(world, "k-new", image=""))
    started = time.monotonic()
    world.turns.turn(world.now)
    assert [one.state for one in world.scans() if one.machine == made.key("k-new")] == ["ordered"]
    assert time.monotonic() - started < 60
    world.plan()
    assert {one.policy_version for one in world.scans()} == {2}
