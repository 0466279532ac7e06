"""Who holds a slot: one at a time, with an epoch that grows, by the database's time; and what a stale holder is refused."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from core.errors import ConfigError, Unavailable
from scanner.fleet import slots
from scanner.fleet.database import Database
from scanner.fleet.slots import Fence, Fenced, Slot, claim, release, renew, wait_for
from scanner.fleet.tables import metadata
from scanner.fleet.tables import slot as table

HOUR = 3600.0
ROUNDS = 200


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url)
    metadata.create_all(made.engine)
    yield made
    made.close()


def taken(database: Database, holder: str = "me", *, names: tuple[str, ...] = ("slot-1",), lease: float = 60) -> Slot:
    found = claim(database, holder, names, lease)
    assert found is not None
    return found


def expire(database: Database, name: str = "slot-1") -> None:
    with database.write() as connection:
        connection.execute(update(table).where(table.c.name == name).values(lease_ends_ms=0))


def test_a_held_slot_is_not_given_twice(database: Database) -> None:
    first = taken(database, "a", names=("slot-1", "slot-2"))
    second = taken(database, "b", names=("slot-1", "slot-2"))
    assert {first.name, second.name} == {"slot-1", "slot-2"}
    assert claim(database, "c", ["slot-1", "slot-2"], 60) is None
    assert (first.epoch, second.epoch) == (1, 1)


def test_an_expired_one_is_taken_over_with_the_next_epoch(database: Database) -> None:
    first = taken(database, "a")
    expire(database)
    second = taken(database, "b")
    assert (second.name, second.epoch) == (first.name, first.epoch + 1)
    assert not renew(database, first)
    assert not release(database, first)  # it would give away another's slot
    assert renew(database, second)


def test_the_same_holder_with_an_older_epoch_is_stale_too(database: Database) -> None:
    first = taken(database, "a")
    expire(database)
    second = taken(database, "a")
    assert not renew(database, first)
    assert renew(database, second)


def test_those_whose_holder_died_come_before_those_given_back(database: Database) -> None:
    names = ("slot-1", "slot-2", "slot-3")
    all_three = [taken(database, "a", names=names) for _ in names]
    release(database, all_three[0])
    expire(database, "slot-3")
    assert taken(database, "b", names=names).name == "slot-3"
    assert taken(database, "c", names=names).name == "slot-1"


def test_those_with_unfinished_scans_come_first(database: Database) -> None:
    names = ["slot-1", "slot-2"]
    release(database, taken(database, names=("slot-1",)))
    found = claim(database, "b", names, 60, unfinished=table.c.name == "slot-2")
    assert found is not None
    assert found.name == "slot-2"


def test_two_workers_told_the_same_slot(database: Database) -> None:
    held = taken(database, "a", lease=1.5)
    with (
        Fence(database, held),
        pytest.raises(ConfigError, match=r"slot-1 is held by another worker .*a slot of its own"),
    ):
        wait_for(database, "b", "slot-1", 1.5, pause_seconds=0.05)


def test_a_dead_holders_slot_is_waited_for(database: Database) -> None:
    taken(database, "a", lease=0.5)
    assert wait_for(database, "b", "slot-1", 60, pause_seconds=0.05).epoch == 2


# the clock of the machine is set


YEARS_MS = 9 * 365 * 86_400_000


def jump(database: Database, name: str = "slot-1", ms: int = YEARS_MS) -> None:
    """As if the clock had been ahead by so much when the slot was last heard of."""
    with database.write() as connection:
        moved = {"lease_ends_ms": table.c.lease_ends_ms + ms, "heartbeat_ms": table.c.heartbeat_ms + ms}
        connection.execute(update(table).where(table.c.name == name).values(**moved))


@pytest.mark.parametrize("ms", [3_600_000, YEARS_MS])
def test_a_dead_holder_whose_clock_was_ahead(database: Database, ms: int) -> None:
    taken(database, "dead", lease=30)
    jump(database, ms=ms)
    now = 1000.0
    silence = slots.Silence(lambda: now)
    assert claim(database, "b", ["slot-1"], 30, silence=silence) is None
    now += 29
    assert claim(database, "b", ["slot-1"], 30, silence=silence) is None, "its lease may still be good"
    now += 2
    found = claim(database, "b", ["slot-1"], 30, silence=silence)
    assert found is not None
    assert found.epoch == 2


def test_a_living_holder_whose_clock_was_ahead(database: Database) -> None:
    held = taken(database, "alive", lease=30)
    jump(database)
    now = 1000.0
    silence = slots.Silence(lambda: now)
    for _ in range(10):
        assert claim(database, "b", ["slot-1"], 30, silence=silence) is None
        now += 20
        time.sleep(0.002)  # a heartbeat is known by its millisecond
        assert renew(database, held)


def test_a_dead_duty_is_waited_for_by_no_clock_that_is_set(database: Database) -> None:
    taken(database, "dead", lease=0.5)
    jump(database)
    assert wait_for(database, "b", "slot-1", 60, pause_seconds=0.05).epoch == 2


# the fence


def test_the_fence_knows_by_its_own_clock(database: Database) -> None:
    now = slots.boot_seconds()
    fence = Fence(database, taken(database, lease=30), clock=lambda: now)
    fence.check()
    now += 31  # stopped, or the machine slept
    with pytest.raises(Fenced, match="not renewed for 30 seconds"):
        fence.check()
    now -= 31
    with pytest.raises(Fenced):  # lost once is lost
        fence.check()


def test_no_ordinary_border_swallows_it(database: Database) -> None:
    fence = Fence(database, taken(database, lease=30), clock=lambda: 1e12)
    with pytest.raises(Fenced):
        try:
            fence.check()
        except Exception:  # noqa: BLE001
            pytest.fail("swallowed")


def test_nothing_of_a_stale_holder_is_committed(database: Database) -> None:
    stale = Fence(database, taken(database, "a"))  # by its own clock all is well
    expire(database)
    current = Fence(database, taken(database, "b"))
    with pytest.raises(Fenced, match="another worker has taken it over"), database.write() as connection:
        connection.execute(update(table).values(worker="stale"))
        stale.guard(connection)
    with database.write() as connection:
        connection.execute(update(table).values(worker="current"))
        current.guard(connection)
    with database.read() as connection:
        assert connection.execute(select(table.c.worker)).scalar_one() == "current"
    with pytest.raises(Fenced):  # from now on without asking
        stale.check()


def test_a_slot_is_not_taken_over_inside_a_guarded_transaction(database: Database) -> None:
    """On PostgreSQL the row is locked; on SQLite there is one writer."""
    fence = Fence(database, taken(database, "a"))
    expire(database)
    other = Database(database.url.render_as_string(hide_password=False))
    if database.is_sqlite:
        with other.read() as connection:
            connection.execute(text("PRAGMA busy_timeout=100"))
        with database.write() as connection:
            fence.guard(connection)
            with pytest.raises(Unavailable):
                claim(other, "b", ["slot-1"], 60)
    else:
        with database.write() as connection:
            fence.guard(connection)
            assert claim(other, "b", ["slot-1"], 60) is None
    assert claim(other, "b", ["slot-1"], 60) is not None
    other.close()


@pytest.mark.slow
def test_it_renews_by_itself_and_stops(database: Database) -> None:
    with Fence(database, taken(database, lease=1)) as fence:
        time.sleep(2.5)
        fence.check()
        assert claim(database, "b", ["slot-1"], 60) is None


def test_it_tells_when_it_is_lost(database: Database) -> None:
    told: list[str] = []
    with Fence(database, taken(database, lease=0.6), lost=told.append):
        expire(database)
        taken(database, "b")
        deadline = time.monotonic() + 10
        while not told and time.monotonic() < deadline:
            time.sleep(0.02)
    assert "slot-1" in told[0]


@pytest.mark.parametrize("offset", [HOUR, -HOUR], ids=["an-hour-ahead", "an-hour-behind"])
def test_a_workers_wrong_clock_moves_no_lease(postgres: object, offset: float, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("postgres")
    url = server.database()
    right, wrong = Database(url), Database(url, clock=lambda: time.time() + offset)
    metadata.create_all(right.engine)
    held = taken(right, "right")
    assert claim(wrong, "wrong", ["slot-1"], 60) is None  # nothing is stolen
    release(right, held)
    taken(wrong, "wrong", lease=60)
    assert claim(right, "right", ["slot-1"], 60) is None  # and nothing is kept for too short
    with right.read() as connection:
        ends = connection.execute(select(table.c.lease_ends_ms)).scalar_one()
        assert abs(ends - right.now_ms(connection) - 60_000) < 30_000  # or too long
    right.close()
    wrong.close()
    server.drop(url)


@pytest.mark.slow
def test_of_two_that_race_exactly_one_wins(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    racers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.scanner.fleet.racer", url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[3],
            text=True,
        )
        for name in "ab"
    ]

    def both(word: str) -> list[int]:
        for one in racers:
            assert one.stdin is not None
            one.stdin.write(f"{word}\n")
            one.stdin.flush()
        return [int(one.stdout.readline()) for one in racers if one.stdout is not None]

    try:
        winners = []
        for number in range(1, ROUNDS + 1):
            epochs = both("claim")
            assert sorted(epochs) == [0, number]
            winners.append(epochs.index(number))
            assert sum(both("release")) == 1
        assert set(winners) == {0, 1}  # it was a race
    finally:
        for one in racers:
            one.communicate()
