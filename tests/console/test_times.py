from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.times import Clockwork, offset_seconds, opening

ZONES = ["UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York", "Australia/Lord_Howe"]
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("zone", "cron", "after", "due"),
    [
        ("UTC", "0 2 * * *", "2027-01-01T02:00Z", "2027-01-02T02:00Z"),
        ("Asia/Tokyo", "0 2 * * *", "2027-03-13T00:00Z", "2027-03-13T17:00Z"),
        ("Europe/Berlin", "0 3 * * *", "2027-03-26T12:00Z", "2027-03-27T02:00Z"),
        ("Europe/Berlin", "0 3 * * *", "2027-03-27T12:00Z", "2027-03-28T01:00Z"),  # one hour less
        ("Europe/Berlin", "30 2 * * *", "2027-03-27T12:00Z", "2027-03-28T01:00Z"),  # there is no 02:30 on this day
        ("Europe/Berlin", "30 2 * * *", "2027-03-28T01:00Z", "2027-03-29T00:30Z"),
        ("Europe/Berlin", "30 2 * * *", "2027-10-30T12:00Z", "2027-10-31T00:30Z"),  # twice 02:30: the first
        ("Europe/Berlin", "30 2 * * *", "2027-10-31T00:30Z", "2027-11-01T01:30Z"),  # and once
        ("America/New_York", "0 2 * * *", "2027-03-13T12:00Z", "2027-03-14T07:00Z"),
        ("America/New_York", "30 1 * * *", "2027-11-07T00:00Z", "2027-11-07T05:30Z"),
        ("America/New_York", "30 1 * * *", "2027-11-07T05:30Z", "2027-11-08T06:30Z"),
        ("UTC", "0 0 29 2 *", "2027-01-01T00:00Z", "2028-02-29T00:00Z"),
    ],
)
def test_a_schedule_is_due_as_cron_is(zone: str, cron: str, after: str, due: str) -> None:
    assert Clockwork().due_after({"cron": cron, "time_zone": zone}, "k", at(after)) == at(due)


@pytest.mark.parametrize(
    ("zone", "window", "moment", "start", "end"),
    [
        ("Asia/Tokyo", ("22:00", "04:00"), "2027-01-01T12:00Z", "2027-01-01T13:00Z", "2027-01-01T19:00Z"),
        ("Asia/Tokyo", ("22:00", "04:00"), "2027-01-01T14:00Z", "2027-01-01T14:00Z", "2027-01-01T19:00Z"),
        ("Asia/Tokyo", ("22:00", "04:00"), "2027-01-01T19:00Z", "2027-01-02T13:00Z", "2027-01-02T19:00Z"),
        # spring: the clock goes from 02:00 to 03:00
        ("Europe/Berlin", ("01:00", "04:00"), "2027-03-27T12:00Z", "2027-03-28T00:00Z", "2027-03-28T02:00Z"),
        ("Europe/Berlin", ("02:30", "04:00"), "2027-03-27T12:00Z", "2027-03-28T01:00Z", "2027-03-28T02:00Z"),
        ("Europe/Berlin", ("01:00", "02:30"), "2027-03-27T12:00Z", "2027-03-28T00:00Z", "2027-03-28T01:00Z"),
        ("Europe/Berlin", ("02:10", "02:50"), "2027-03-27T12:00Z", "2027-03-29T00:10Z", "2027-03-29T00:50Z"),
        ("America/New_York", ("02:30", "05:00"), "2027-03-14T00:00Z", "2027-03-14T07:00Z", "2027-03-14T09:00Z"),
        # autumn: 02:00 to 03:00 comes twice
        ("Europe/Berlin", ("01:00", "04:00"), "2027-10-30T12:00Z", "2027-10-30T23:00Z", "2027-10-31T03:00Z"),
        ("Europe/Berlin", ("02:30", "04:00"), "2027-10-30T12:00Z", "2027-10-31T01:30Z", "2027-10-31T03:00Z"),
        ("Europe/Berlin", ("01:00", "02:30"), "2027-10-30T12:00Z", "2027-10-30T23:00Z", "2027-10-31T00:30Z"),
        ("Europe/Berlin", ("02:10", "02:50"), "2027-10-30T12:00Z", "2027-10-31T00:10Z", "2027-10-31T00:50Z"),
        ("America/New_York", ("22:00", "01:30"), "2027-11-06T12:00Z", "2027-11-07T02:00Z", "2027-11-07T05:30Z"),
    ],
)
def test_a_window_is_what_the_clock_on_the_wall_says(
    zone: str, window: tuple[str, str], moment: str, start: str, end: str
) -> None:
    found = opening({"start": window[0], "end": window[1], "time_zone": zone}, at(moment))
    assert (found.start, found.end) == (at(start), at(end))


def test_days_are_those_on_which_a_window_opens() -> None:
    window = {"days": ["sat"], "start": "22:00", "end": "04:00", "time_zone": "Europe/Berlin"}
    inside = opening(window, at("2027-01-10T01:00Z"))  # Sunday, 02:00
    assert (inside.start, inside.end) == (at("2027-01-10T01:00Z"), at("2027-01-10T03:00Z"))
    later = opening(window, at("2027-01-10T03:00Z"))
    assert later.start == at("2027-01-16T21:00Z")
    skipped = {"days": ["sun"], "start": "02:10", "end": "02:50", "time_zone": "Europe/Berlin"}
    assert opening(skipped, at("2027-03-22T00:00Z")).start == at("2027-04-04T00:10Z")


def test_without_a_window_any_time_is_good() -> None:
    now = at("2027-01-10T01:00Z")
    assert opening(None, now).start == now
    assert opening(None, now).end is None


MOMENTS = st.integers(0, 3 * 365 * 86_400).map(lambda seconds: at("2026-01-01T00:00Z") + timedelta(seconds=seconds))
# Around the changes of the clocks, where mistakes would be
CHANGES = st.tuples(
    st.sampled_from(["2027-03-28T01:00Z", "2027-10-31T01:00Z", "2027-03-14T07:00Z", "2027-11-07T06:00Z"]),
    st.integers(-10_000, 10_000),
).map(lambda pair: at(pair[0]) + timedelta(seconds=pair[1]))
CLOCKS = st.integers(0, 1439).map(lambda one: f"{one // 60:02}:{one % 60:02}")


def within(window: dict[str, object], moment: datetime) -> bool:
    """By the clock on the wall, without any reckoning with offsets."""
    wall = moment.astimezone(ZoneInfo(str(window["time_zone"])))
    start, end = (time.fromisoformat(str(window[name])) for name in ("start", "end"))
    days = window["days"]
    assert isinstance(days, list)
    today, yesterday = DAYS[wall.weekday()], DAYS[wall.weekday() - 1]
    clock = wall.time().replace(tzinfo=None)
    if start < end:
        return today in days and start <= clock < end
    return (today in days and clock >= start) or (yesterday in days and clock < end)


@settings(max_examples=500, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    days=st.lists(st.sampled_from(DAYS), min_size=1, unique=True),
    start=CLOCKS,
    end=CLOCKS,
    moment=st.one_of(MOMENTS, CHANGES),
)
def test_an_opening_is_inside_its_window(zone: str, days: list[str], start: str, end: str, moment: datetime) -> None:
    if start == end:
        return
    window: dict[str, object] = {"days": days, "start": start, "end": end, "time_zone": zone}
    found = opening(window, moment)
    assert found.end is not None
    assert moment <= found.start < found.end
    assert found.end - found.start <= timedelta(hours=25)
    for part in range(5):
        assert within(window, found.start + (found.end - found.start) * part / 5)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    cron=st.sampled_from(["0 2 * * *", "30 2 * * sun", "*/15 * * * *", "0 0 1 * *", "59 23 * * 1-5"]),
    spread=st.integers(0, 7 * 86_400),
    moments=st.lists(st.one_of(MOMENTS, CHANGES), min_size=1, max_size=8),
)
def test_what_is_remembered_changes_nothing(zone: str, cron: str, spread: int, moments: list[datetime]) -> None:
    schedule = {"cron": cron, "time_zone": zone, "spread_seconds": spread}
    shared = Clockwork()
    for moment in moments:
        due = shared.due_after(schedule, "k", moment)
        assert due > moment
        assert due == Clockwork().due_after(schedule, "k", moment)


@given(st.text(max_size=50), st.integers(0, 7 * 86_400))
def test_a_spread_stays_within_its_bounds(key: str, spread: int) -> None:
    assert 0 <= offset_seconds(key, spread) < max(spread, 1)


def test_machines_are_spread() -> None:
    found = [offset_seconds(f"aws://1/r/i-{number:017x}", 4 * 3600) for number in range(10_000)]
    hours = [sum(hour * 3600 <= one < (hour + 1) * 3600 for one in found) for hour in range(4)]
    assert len(set(found)) > 7_000
    assert all(2_300 < one < 2_700 for one in hours)
