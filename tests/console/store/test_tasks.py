"""What fleets are asked to do once: handed out until it is answered, to its fleet alone, and forgotten in the end."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from client.model import AccountIn, CheckedLine, CheckIn, ClearIn, FleetIn, SweepIn, SweptLine, TaskAnswer, TaskOut
from console.clock import now
from console.problems import Refused
from console.store import accounts, fleets, tables, tasks
from console.store.database import Database

ACCOUNT = "aws://123456789012"
GIVEN = TaskAnswer(
    installation="kumomori-1",
    swept=(SweptLine(place="aws://1/r", kind="snapshot", id="snap-\x00\u202e", size_bytes=5, problem="no"),),
    checked=(CheckedLine(place="aws://1/r", permission="ec2:X", ok=None, detail="why", advice="add it"),),
    more=3,
    bases=1,
    bases_bytes=1 << 40,
)


@pytest.fixture
def known(database: Database) -> Database:
    """Two fleets, and an account of the first."""
    with database.write() as connection:
        for name in ("east", "west"):
            fleets.register(connection, FleetIn(name=name), "test", now())
        accounts.put(connection, AccountIn(cloud="aws", account="123456789012", fleet="east"), "test", now())
    return database


def sweep(database: Database, wanted: SweepIn | None = None, *, dry_run: bool = True) -> list[TaskOut]:
    with database.write() as connection:
        return tasks.sweep(connection, wanted or SweepIn(), "me", now(), dry_run=dry_run)


def check(database: Database, account: str = ACCOUNT) -> TaskOut:
    with database.write() as connection:
        return tasks.check(connection, CheckIn(account=account), "me", now())


def test_what_is_kept_in_an_account_that_was_removed(known: Database) -> None:
    with known.write() as connection, pytest.raises(Refused) as refused:
        tasks.clear(connection, ClearIn(account=ACCOUNT), "me", now())
    assert refused.value.status == 409
    with known.write() as connection:
        accounts.delete(connection, "aws", "123456789012", "me", now())
        both = tasks.clear(connection, ClearIn(account=ACCOUNT), "me", now())
        (east,) = tasks.clear(connection, ClearIn(account=ACCOUNT, fleet="east"), "me", now())
        (more,) = tasks.clear(connection, ClearIn(account=ACCOUNT, fleet="east", evidence=True), "me", now())
        assert tasks.clear(connection, ClearIn(account=ACCOUNT, fleet="none"), "me", now()) == []
    assert [one.fleet for one in both] == ["east", "west"]
    assert east == both[0]
    assert more.id != east.id
    (got,) = tasks.fetch(known, "west", now())
    assert (got.kind, got.account, got.evidence) == ("clear", ACCOUNT, False)


def answer(database: Database, fleet: str, task: str, said: TaskAnswer = GIVEN) -> None:
    with database.write() as connection:
        tasks.answer(connection, fleet, task, said, now())


def get(database: Database, task: str) -> TaskOut:
    with database.read() as connection:
        return tasks.get(connection, task)


def test_asked_fetched_answered(known: Database) -> None:
    east, west = sweep(known)
    assert (east.fleet, west.fleet, east.by, east.dry_run, east.account) == ("east", "west", "me", True, None)
    assert get(known, east.id) == east
    (got,) = tasks.fetch(known, "east", now())
    assert (got.id, got.kind, got.dry_run, got.account) == (east.id, "sweep", True, None)
    begun = get(known, east.id).fetched
    assert begun is not None
    assert tasks.fetch(known, "east", now()) == (got,), "until it is answered"
    assert get(known, east.id).fetched == begun
    answer(known, "east", east.id)
    answer(known, "east", east.id, TaskAnswer(problem="another"))
    done = get(known, east.id)
    assert done.answer == GIVEN, "the first is kept"
    assert done.answered is not None
    assert tasks.fetch(known, "east", now()) == ()
    assert [one.id for one in tasks.fetch(known, "west", now())] == [west.id]
    with known.read() as connection:
        told = connection.execute(sa.select(tables.event.c.what, tables.event.c.who, tables.event.c.subject)).all()
    assert [tuple(one) for one in told if one.what == "sweep.asked"] == [
        ("sweep.asked", "me", "east"),
        ("sweep.asked", "me", "west"),
    ]


def test_one_at_a_time_in_their_order(known: Database) -> None:
    asked = [
        sweep(known, SweepIn(fleet="east"))[0],
        check(known),
        sweep(known, SweepIn(fleet="east"), dry_run=False)[0],
    ]
    for one in asked:
        assert [got.id for got in tasks.fetch(known, "east", now())] == [one.id]
        assert [get(known, later.id).fetched is None for later in asked[asked.index(one) + 1 :]] == [True] * (
            len(asked) - 1 - asked.index(one)
        )
        answer(known, "east", one.id)


def test_one_that_is_under_way_is_given_instead_of_another(known: Database) -> None:
    first = check(known)
    assert check(known).id == first.id
    assert sweep(known, SweepIn(account=ACCOUNT))[0].id != sweep(known, SweepIn(fleet="east"))[0].id
    assert sweep(known, SweepIn(fleet="east"))[0].id != sweep(known, SweepIn(fleet="east"), dry_run=False)[0].id
    answer(known, "east", first.id)
    assert check(known).id != first.id


def test_what_nobody_fetches_in_time_is_not_done_and_forgotten_later(known: Database) -> None:
    task = check(known)
    just, late = task.expires - timedelta(seconds=1), task.expires + timedelta(seconds=1)
    assert [one.id for one in tasks.fetch(known, "east", just)] == [task.id]
    assert tasks.fetch(known, "east", late) == ()
    answer(known, "east", task.id)  # it took long
    assert get(known, task.id).answer == GIVEN
    tasks.prune(known, task.asked + tasks.KEPT - timedelta(seconds=1))
    assert get(known, task.id).answered is not None
    tasks.prune(known, task.asked + tasks.KEPT + timedelta(seconds=1))
    with pytest.raises(Refused) as caught:
        get(known, task.id)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        pytest.param(SweepIn(fleet="north"), 404, id="fleet"),
        pytest.param(SweepIn(account="aws://999999999999"), 404, id="account"),
        pytest.param(SweepIn(account=ACCOUNT, fleet="west"), 409, id="account of another"),
    ],
)
def test_sweeps_that_cannot_be(known: Database, wanted: SweepIn, status: int) -> None:
    with pytest.raises(Refused) as caught:
        sweep(known, wanted)
    assert caught.value.status == status


def test_nobody_to_ask(database: Database) -> None:
    with pytest.raises(Refused, match="no fleet has registered"):
        sweep(database)
    with pytest.raises(Refused, match="not known"):
        check(database)


@pytest.mark.parametrize("account", ["aws://", "aws", "aws://1/region", "://1", "aws://../x", "aws://1\n", "aws:// 1"])
def test_accounts_that_are_none(account: str) -> None:
    with pytest.raises(ValidationError):
        CheckIn(account=account)


def test_only_its_own_fleet_answers(known: Database) -> None:
    task = check(known)
    for fleet, name in (("west", task.id), ("east", "sweep-unknown")):
        with pytest.raises(Refused) as caught:
            answer(known, fleet, name)
        assert caught.value.status == 404
    assert get(known, task.id).answered is None


def test_no_more_than_a_fleet_can_do(known: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MOST_WAITING", 2)
    check(known)
    sweep(known, SweepIn(fleet="east"))
    with pytest.raises(Refused) as caught:
        sweep(known, SweepIn(fleet="east"), dry_run=False)
    assert caught.value.status == 429
    assert check(known).kind == "check", "what is under way is given all the same"
