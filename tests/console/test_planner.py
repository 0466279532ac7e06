from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.model import ScanKind, ScanOrder, ScanState, Why
from console.planner import HORIZON, LATEST_LOOK, Hold, LastScan, Machine, OpenScan, Plan, Rules, plan
from console.times import offset_seconds, opening
from core.estate import Instance, InstanceState, Place

NOW = datetime(2027, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAILY: dict[str, Any] = {"cron": "0 2 * * *", "time_zone": "UTC", "spread_seconds": 4 * 3600}
SETTINGS: dict[str, Any] = {
    "protection.mode": "agentless",
    "scan.schedule": DAILY,
    "scan.at_launch": True,
    "scan.settle_seconds": 300,
    "scan.timeout_seconds": 6 * 3600,
}


def rules(**said: Any) -> Rules:
    """`scan__window=…` is the setting `scan.window`."""
    return Rules("company", {**SETTINGS, **{name.replace("__", "."): value for name, value in said.items()}})


def machine(
    name: str = "i-1",
    *,
    cloud: str = "aws",
    launched: datetime | None = NOW - timedelta(days=9),
    image: str = "",
    state: InstanceState = InstanceState.RUNNING,
    excluded: str = "",
    **known: Any,
) -> Machine:
    place = Place(cloud, "1", "r")
    instance = Instance(place, name, image=image, launched=launched, state=state, excluded=excluded)
    return Machine(**{"key": str(instance), "instance": instance, "first_seen": NOW, "rules": rules(), **known})


def fresh(name: str = "i-1", image: str = "ami-1", **known: Any) -> Machine:
    return machine(name, launched=NOW - timedelta(seconds=20), image=image, **known)


def scanned(name: str = "i-1", ended: datetime = NOW - 4 * HOUR, **known: Any) -> Machine:
    known.setdefault("first_seen", NOW - timedelta(days=5))
    return machine(name, last=LastScan("before", ScanState.DONE, ended - HOUR, ended), last_scanned=ended, **known)


def waiting(one: Machine, order: ScanOrder, state: ScanState = ScanState.ORDERED, **known: Any) -> Machine:
    """`one`, and what was ordered of it."""
    scan = OpenScan(
        order.scan, order.why, state, order.not_before, NOW, order.not_after, settings=order.settings, **known
    )
    return replace(one, open=(scan,))


def planned(*machines: Machine, now: datetime = NOW, **known: Any) -> Plan:
    return plan(machines, **{"images": {}, "holds": (), "spent_usd": {}, "version": 3, **known}, now=now)


def orders(found: Plan) -> list[ScanOrder]:
    return [one for fleet in found.orders.values() for one in fleet]


def only(found: Plan) -> ScanOrder:
    (order,) = orders(found)
    return order


def quiet(found: Plan) -> bool:
    return not (found.orders or found.replacements or found.stops or found.pauses or found.resumes)


class TestLaunch:
    def test_the_image_is_scanned_first_and_once_for_all_clones(self) -> None:
        found = planned(*(fresh(f"i-{number}") for number in range(50)))
        order = only(found)
        assert (order.kind, order.machine, order.image) == (ScanKind.IMAGE, "aws://1/r/ami-1", "ami-1")
        assert (order.why, order.not_before) == (Why.LAUNCH, NOW)
        assert all(state.look == NOW + timedelta(seconds=1) for state in found.states)

    def test_the_instance_waits_until_that_has_ended(self) -> None:
        order = only(planned(fresh()))
        runs = {order.machine: LastScan(order.scan, ScanState.RUNNING, NOW, None)}
        assert quiet(planned(fresh(), images=runs, now=NOW + HOUR))
        done = {order.machine: LastScan(order.scan, ScanState.DONE, NOW, NOW + HOUR / 60)}
        second = only(planned(fresh(), images=done, now=NOW + HOUR / 30))
        assert second.kind is ScanKind.INSTANCE
        assert second.not_before == NOW - timedelta(seconds=20) + timedelta(seconds=300)

    @pytest.mark.parametrize("state", [ScanState.FAILED, ScanState.GONE, ScanState.STOPPED, ScanState.MISSED])
    def test_an_image_that_cannot_be_scanned_holds_nobody_up(self, state: ScanState) -> None:
        images = {"aws://1/r/ami-1": LastScan("image-1", state, NOW, NOW + HOUR / 60)}
        assert only(planned(fresh(), images=images, now=NOW + HOUR / 30)).kind is ScanKind.INSTANCE

    def test_an_image_that_takes_too_long_holds_nobody_up(self) -> None:
        images = {"aws://1/r/ami-1": LastScan("image-1", ScanState.RUNNING, NOW, None)}
        assert quiet(planned(fresh(), images=images, now=NOW + 5 * HOUR))
        assert only(planned(fresh(), images=images, now=NOW + 7 * HOUR)).kind is ScanKind.INSTANCE

    def test_an_image_that_failed_is_tried_again_for_later_clones(self) -> None:
        images = {"aws://1/r/ami-1": LastScan("image-1", ScanState.FAILED, NOW - 3 * HOUR, NOW - 2 * HOUR)}
        order = only(planned(fresh(), images=images))
        assert (order.kind, order.scan != "image-1") == (ScanKind.IMAGE, True)
        scanned_once = {"aws://1/r/ami-1": LastScan("image-1", ScanState.DONE, NOW - 3 * HOUR, NOW - 2 * HOUR)}
        assert only(planned(fresh(), images=scanned_once)).kind is ScanKind.INSTANCE

    @pytest.mark.parametrize(
        "one", [fresh(image=""), fresh(cloud="file"), fresh(image="x" * 600), fresh(image="ami\0")]
    )
    def test_without_an_image_the_instance_itself_is_scanned(self, one: Machine) -> None:
        order = only(planned(one))
        assert (order.kind, order.why) == (ScanKind.INSTANCE, Why.LAUNCH)

    def test_not_at_launch(self) -> None:
        order = only(planned(fresh(rules=rules(scan__at_launch=False))))
        assert (order.kind, order.why) == (ScanKind.INSTANCE, Why.SCHEDULE)
        assert order.not_before >= NOW.replace(hour=2) + timedelta(days=1)

    def test_those_that_were_there_before_are_not_stormed(self) -> None:
        found = planned(*(machine(f"i-{number}", image="ami-1") for number in range(1_000)))
        times = Counter(int((order.not_before - NOW) / HOUR) for order in orders(found))
        assert all(order.why is Why.SCHEDULE and order.kind is ScanKind.INSTANCE for order in orders(found))
        assert sorted(times) == [0, 1, 2, 3]
        assert all(200 < count < 300 for count in times.values())

    def test_a_policy_that_comes_late_storms_nobody(self) -> None:
        late = NOW + timedelta(days=9)
        found = orders(planned(*(machine(f"i-{number}") for number in range(500)), now=late))
        assert len({order.not_before for order in found}) > 450
        assert all(late <= order.not_before < late + 4 * HOUR for order in found)


class TestSchedule:
    def test_it_is_due_after_the_last_scan_at_its_own_moment(self) -> None:
        order = only(planned(scanned()))
        late = timedelta(seconds=offset_seconds(order.machine, 4 * 3600))
        assert order.not_before == datetime(2027, 1, 16, 2, tzinfo=UTC) + late
        assert order.not_after is None
        assert order.settings == SETTINGS
        assert order.policy_version == 3

    def test_nothing_is_ordered_for_longer_than_a_day_ahead(self) -> None:
        weekly = rules(scan__schedule={**DAILY, "cron": "0 2 * * sun"})
        found = planned(scanned(rules=weekly))
        assert quiet(found)
        (state,) = found.states
        assert state.next_scan is not None
        assert state.next_scan.weekday() == 6
        assert state.look == state.next_scan - HORIZON
        assert only(planned(scanned(rules=weekly), now=state.look)).not_before == state.next_scan

    def test_who_is_overdue_is_scanned_once(self) -> None:
        order = only(planned(scanned(ended=NOW - timedelta(days=3))))
        assert NOW <= order.not_before < NOW + 4 * HOUR

    def test_it_waits_for_its_window_and_is_missed_at_the_end(self) -> None:
        window = {"start": "22:00", "end": "23:30", "time_zone": "Europe/Berlin", "days": ["fri", "sat", "sun"]}
        found = planned(scanned(ended=NOW - 20 * HOUR, rules=rules(scan__window=window)))
        order = only(found)
        assert order.not_before == datetime(2027, 1, 15, 21, tzinfo=UTC)
        assert order.not_after == datetime(2027, 1, 15, 22, 30, tzinfo=UTC)

    def test_what_was_missed_is_planned_for_the_next_window(self) -> None:
        window = {"start": "02:00", "end": "06:30"}
        ended = datetime(2027, 1, 15, 6, 30, tzinfo=UTC)
        missed = machine(last=LastScan("x", ScanState.MISSED, ended, ended), rules=rules(scan__window=window))
        order = only(planned(missed))
        assert datetime(2027, 1, 16, 2, tzinfo=UTC) <= order.not_before < datetime(2027, 1, 16, 6, 30, tzinfo=UTC)

    @pytest.mark.parametrize("mode", ["none", "light_agent", "full_agent"])
    def test_modes_without_snapshots_get_none(self, mode: str) -> None:
        said = rules(protection__mode=mode, protection__why="the owner\x00 moves out")
        found = planned(machine(rules=said))
        assert quiet(found)
        assert found.states[0].mode == mode
        assert found.states[0].unprotected == ("not protected: the owner\\x00 moves out" if mode == "none" else "")

    @pytest.mark.parametrize(
        ("one", "unprotected"),
        [
            (machine(rules=Rules()), "no policy holds"),
            (machine(rules=Rules(problem="`a`, `b` stand beside each other")), "`a`, `b` stand beside each other"),
            (machine(excluded="the tag skip"), "left out by the tag skip"),
            (machine(fleet=None), "no fleet serves its account"),
            (machine(closed=True), ""),
            (machine(state=InstanceState.TERMINATED), ""),
        ],
    )
    def test_machines_without_scans_say_why(self, one: Machine, unprotected: str) -> None:
        found = planned(one)
        assert quiet(found)
        assert found.states[0].unprotected == unprotected
        assert found.states[0].next_scan is None

    def test_too_old_is_said_when_it_is(self) -> None:
        old = scanned(ended=NOW - 49 * HOUR, rules=rules(scan__max_age_seconds=2 * 86_400))
        said = planned(old).states[0].unprotected
        assert said == "last scanned 2027-01-13 11:00Z: scan.max_age_seconds is 172,800"
        young = scanned(ended=NOW - 47 * HOUR, rules=rules(scan__max_age_seconds=2 * 86_400))
        state = planned(young).states[0]
        assert state.unprotected == ""
        assert state.look <= NOW + HOUR + timedelta(seconds=1)

    def test_a_profile_that_begins_is_looked_at_then(self) -> None:
        begins = replace(rules(), changes=NOW + timedelta(minutes=7))
        assert planned(scanned(rules=begins)).states[0].look == NOW + timedelta(minutes=7)


class TestMoney:
    @pytest.mark.parametrize(
        ("said", "spent", "left"),
        [
            ({}, 5.0, None),
            ({"limits__scan_usd": 0.5}, 5.0, 0.5),
            ({"limits__month_usd": 8.0}, 5.0, 3.0),
            ({"limits__month_usd": 8.0, "limits__scan_usd": 0.5}, 5.0, 0.5),
            ({"limits__month_usd": 8.0, "limits__scan_usd": 0.5}, 7.75, 0.25),
        ],
    )
    def test_what_a_scan_may_cost(self, said: dict[str, float], spent: float, left: float | None) -> None:
        found = planned(scanned(rules=rules(**said)), spent_usd={("aws", "1"): spent, ("aws", "2"): 1e6})
        assert only(found).usd_left == left

    def test_nothing_is_ordered_when_the_month_is_used_up(self) -> None:
        found = planned(fresh(rules=rules(limits__month_usd=8.0)), spent_usd={("aws", "1"): 8.5})
        assert quiet(found)
        assert found.states[0].unprotected == "limits.month_usd of its account is used up"


class TestChanges:
    def test_settings_are_changed_in_place_or_ordered_anew(self) -> None:
        one = scanned()
        order = only(planned(one))
        changed = waiting(replace(one, rules=rules(scan__depth="full")), order)
        found = planned(changed, version=4)
        (replacement,) = found.replacements
        assert replacement.same.scan == order.scan != replacement.new.scan
        assert replacement.same.settings["scan.depth"] == "full"
        assert replacement.same.not_before == replacement.new.not_before == order.not_before
        assert not (found.stops or found.orders)

    def test_another_schedule_is_another_scan(self) -> None:
        one = scanned()
        order = only(planned(one))
        changed = waiting(replace(one, rules=rules(scan__schedule={**DAILY, "cron": "0 20 * * *"})), order)
        found = planned(changed)
        assert [stop.scan for stop in found.stops] == [order.scan]
        assert only(found).scan != order.scan
        assert only(found).not_before.day == 15

    def test_a_schedule_a_week_later_takes_the_order_back(self) -> None:
        one = scanned()
        order = only(planned(one))
        weekly = rules(scan__schedule={**DAILY, "cron": "0 2 * * thu"})
        found = planned(waiting(replace(one, rules=weekly), order))
        assert [stop.scan for stop in found.stops] == [order.scan]
        assert not found.orders
        (state,) = found.states
        assert state.next_scan is not None
        assert state.look == NOW + LATEST_LOOK < state.next_scan - HORIZON

    def test_what_runs_goes_on(self) -> None:
        one = scanned()
        changed = waiting(replace(one, rules=rules(scan__depth="full")), only(planned(one)), ScanState.RUNNING)
        assert quiet(planned(changed))

    @pytest.mark.parametrize("state", [ScanState.ORDERED, ScanState.WAITING, ScanState.RUNNING, ScanState.PAUSED])
    @pytest.mark.parametrize("said", [Rules(), rules(protection__mode="none"), rules(protection__mode="light_agent")])
    def test_without_protection_it_is_stopped(self, state: ScanState, said: Rules) -> None:
        order = only(planned(scanned()))
        found = planned(waiting(scanned(rules=said), order, state))
        assert [(stop.scan, stop.state) for stop in found.stops] == [(order.scan, ScanState.STOPPED)]

    def test_what_was_asked_for_by_hand_is_left_alone_unless_the_machine_is_gone(self) -> None:
        manual = OpenScan("m", Why.MANUAL, ScanState.WAITING, NOW, NOW)
        assert quiet(planned(machine(open=(manual,), rules=rules(protection__mode="none"))))
        assert quiet(planned(machine(open=(manual,)), holds=[Hold("all")]))
        assert [stop.state for stop in planned(machine(open=(manual,), closed=True)).stops] == [ScanState.GONE]

    def test_of_two_open_scans_one_stays(self) -> None:
        one = scanned()
        order = only(planned(one))
        manual = OpenScan("m", Why.MANUAL, ScanState.WAITING, NOW, NOW)
        both = replace(one, open=(*waiting(one, order).open, manual))
        assert [stop.scan for stop in planned(both).stops] == [order.scan]

    def test_another_fleet_gets_what_the_first_has_not_begun(self) -> None:
        one = scanned()
        order = only(planned(one))
        found = planned(waiting(replace(one, fleet="second"), order, ScanState.WAITING))
        assert [stop.scan for stop in found.stops] == [order.scan]
        assert list(found.orders) == ["second"]
        assert only(found).not_before == order.not_before


class TestHolds:
    @pytest.mark.parametrize("scope", ["all", "aws://1", "aws://1/r/i-1"])
    def test_the_held_get_no_orders_and_wait(self, scope: str) -> None:
        until = NOW + timedelta(minutes=9)
        assert quiet(planned(scanned(), holds=[Hold(scope)]))
        assert quiet(planned(fresh(), holds=[Hold(scope, until)]))
        waits = waiting(scanned(), only(planned(scanned())))
        found = planned(waits, holds=[Hold(scope, until)])
        assert found.pauses == [waits.open[0].id]
        assert found.states[0].look == until

    @pytest.mark.parametrize("hold", [Hold("aws://2"), Hold("aws://1/r/i-2"), Hold("all", NOW), Hold("aws://1/r")])
    def test_others_are_not_held(self, hold: Hold) -> None:
        assert len(orders(planned(scanned(), holds=[hold]))) == 1

    @pytest.mark.parametrize("scope", ["all", "aws://1"])
    def test_the_scan_of_an_image_is_held_with_its_account(self, scope: str) -> None:
        """Once for all of its instances, also of one that waits for it, and released once."""
        image = LastScan("image-1", ScanState.WAITING, NOW, None)
        names = ("i-1", "i-2")
        found = planned(*map(fresh, names), images={"aws://1/r/ami-1": image}, holds=[Hold(scope)])
        assert (found.pauses, found.resumes) == (["image-1"], [])
        held = {"aws://1/r/ami-1": replace(image, state=ScanState.PAUSED, held=True)}
        assert quiet(planned(*map(fresh, names), images=held, holds=[Hold(scope)]))
        found = planned(*map(fresh, names), images=held)
        assert (found.pauses, found.resumes) == ([], ["image-1"])

    @pytest.mark.parametrize(
        ("state", "hold"),
        [
            (ScanState.RUNNING, Hold("all")),
            (ScanState.DONE, Hold("all")),
            (ScanState.PAUSED, Hold("all")),  # by hand
            (ScanState.WAITING, Hold("aws://1/r/i-1")),  # other machines are made of it
            (ScanState.WAITING, Hold("aws://2")),
        ],
    )
    def test_scans_of_images_that_no_hold_is_about(self, state: ScanState, hold: Hold) -> None:
        found = planned(fresh(), images={"aws://1/r/ami-1": LastScan("image-1", state, NOW, None)}, holds=[hold])
        assert (found.pauses, found.resumes) == ([], [])

    def test_what_is_held_is_told_once_and_released_once(self) -> None:
        held = waiting(scanned(), only(planned(scanned())), ScanState.PAUSED, held=True)
        assert quiet(planned(held, holds=[Hold("all")]))
        assert planned(held).resumes == [held.open[0].id]

    def test_what_somebody_paused_is_not_resumed(self) -> None:
        paused = waiting(scanned(), only(planned(scanned())), ScanState.PAUSED)
        assert quiet(planned(paused))

    def test_what_runs_is_not_paused(self) -> None:
        runs = waiting(scanned(), only(planned(scanned())), ScanState.RUNNING)
        assert quiet(planned(runs, holds=[Hold("all")]))


WINDOWS = [
    None,
    {"start": "22:00", "end": "04:00", "time_zone": "Europe/Berlin"},
    {"start": "01:30", "end": "02:30", "time_zone": "America/New_York", "days": ["sat", "sun"]},
    {"start": "00:00", "end": "23:59", "time_zone": "Asia/Tokyo"},
]
MODES = ["agentless", "both", "none", "light_agent", "full_agent"]


@st.composite
def estates(draw: st.DrawFn) -> tuple[list[Machine], datetime]:
    now = NOW + timedelta(seconds=draw(st.integers(0, 400 * 86_400)))
    machines = []
    for number in range(draw(st.integers(1, 8))):
        seen = now - timedelta(seconds=draw(st.integers(0, 10 * 86_400)))
        launched = draw(st.sampled_from([None, seen - timedelta(seconds=30), seen - timedelta(days=30)]))
        schedule = {
            "cron": draw(st.sampled_from(["0 2 * * *", "*/30 * * * *", "30 2 * * sun", "0 0 1 * *"])),
            "time_zone": draw(st.sampled_from(["UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York"])),
            "spread_seconds": draw(st.sampled_from([0, 600, 14_400, 172_800])),
        }
        said = rules(
            protection__mode=draw(st.sampled_from(MODES)),
            protection__why="moves out",
            scan__schedule=schedule,
            scan__window=draw(st.sampled_from(WINDOWS)),
            scan__at_launch=draw(st.booleans()),
            scan__max_age_seconds=draw(st.sampled_from([None, 86_400, 8 * 86_400])),
        )
        last = None
        if draw(st.booleans()):
            ended = seen + (now - seen) * draw(st.integers(0, 100)) / 100
            last = LastScan(f"last-{number}", draw(st.sampled_from([ScanState.DONE, ScanState.MISSED])), seen, ended)
        one = machine(
            f"i-{number}",
            launched=launched,
            image=draw(st.sampled_from(["", "ami-1", "ami-2"])),
            first_seen=seen,
            rules=said,
            last=last,
            last_scanned=last.ended if last is not None and last.state is ScanState.DONE else None,
        )
        machines.append(one)
    return machines, now


def carried_out(machines: list[Machine], found: Plan, now: datetime) -> tuple[list[Machine], dict[str, LastScan]]:
    """What is known after all of `found` was written down."""
    given = {order.machine: order for order in orders(found)}
    images = {
        order.machine: LastScan(order.scan, ScanState.ORDERED, now, None)
        for order in orders(found)
        if order.kind is ScanKind.IMAGE
    }
    return [waiting(one, given[one.key]) if one.key in given else one for one in machines], images


@settings(max_examples=300, deadline=None)
@given(estates(), st.randoms(use_true_random=False), st.booleans())
def test_what_always_holds(estate: tuple[list[Machine], datetime], shuffle: random.Random, hold: bool) -> None:
    machines, now = estate
    holds = [Hold(machines[0].key)] if hold else []
    found = planned(*machines, now=now, holds=holds)
    shuffled = list(machines)
    shuffle.shuffle(shuffled)
    assert planned(*shuffled, now=now, holds=holds) == found
    given = Counter(order.machine for order in orders(found))
    assert all(count == 1 for count in given.values())
    assert len({order.scan for order in orders(found)}) == len(orders(found))
    states = {state.key: state for state in found.states}
    assert set(states) == {one.key for one in machines}
    for one in machines:
        state = states[one.key]
        protected = one.rules.settings["protection.mode"] in {"agentless", "both"}
        new = one.last is None and one.instance.launched == one.first_seen - timedelta(seconds=30)
        young = now - one.first_seen < HORIZON
        waits = bool(new and young and one.image and one.rules.settings["scan.at_launch"])
        held = hold and one is machines[0]
        soon = state.next_scan is not None and state.next_scan <= now + HORIZON
        assert given[one.key] == (protected and not waits and not held and soon)
        assert (state.next_scan is not None) == protected
        if protected and not soon and not held:
            assert now <= state.look <= (state.next_scan or now) - HORIZON
    for order in orders(found):
        if order.kind is ScanKind.INSTANCE:
            opens = opening(order.settings["scan.window"], max(order.not_before, now))
            assert opens.start == max(order.not_before, now)
            assert order.not_after == opens.end
    later, images = carried_out(machines, found, now)
    again = planned(*later, now=now, images=images, holds=holds)
    assert quiet(again)
