from __future__ import annotations

import threading
import time
from contextlib import suppress
from datetime import timedelta

import pytest
import sqlalchemy as sa

from client.model import ScanIn, ScanKind, ScanOrder, ScanState, Why
from console.clock import now
from console.nopolicies import NoPolicies
from console.problems import Refused
from console.store import orders, results, scans, tables
from console.store.database import Database
from tests.console.made import FLEET, PLACE, ended, enrol, instance, key, ordered, result


def wanted(scan: str, id_: str = "i-1") -> ScanOrder:
    return ScanOrder(
        scan=scan, kind=ScanKind.INSTANCE, place=PLACE, machine=key(id_), instance=instance(id_), why=Why.SCHEDULE, not_before=now()
    )  # fmt: skip


def state(database: Database, scan: str) -> ScanState:
    with database.read() as connection:
        return scans.get(connection, scan).state


@pytest.fixture(autouse=True)
def one_instance(database: Database) -> None:
    enrol(database, "i-1", "i-2")


def test_what_is_ordered_is_fetched_in_order(database: Database) -> None:
    with database.write() as connection:
        assert orders.order_scans(connection, FLEET, [wanted("a"), wanted("b")], now()) == ["a", "b"]
        assert orders.order_scans(connection, FLEET, [wanted("b"), wanted("c")], now()) == ["c"]
    got = orders.fetch(database, FLEET, 0, now())
    assert [(one.kind, one.scan) for one in got] == [("reconcile", None), ("scan", "a"), ("scan", "b"), ("scan", "c")]
    assert got[1].order is not None and got[1].order.instance == instance()
    assert [one.number for one in got] == [1, 2, 3, 4]
    assert orders.fetch(database, FLEET, 2, now()) == got[2:]  # again the same, if the answer was lost
    assert orders.fetch(database, FLEET, 4, now()) == ()
    assert orders.fetch(database, "another", 0, now()) == ()


def test_pages_of_orders(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "MOST_AT_ONCE", 2)
    with database.write() as connection:
        orders.order_scans(connection, FLEET, [wanted(name) for name in "abcde"], now())
    after = 0
    seen: list[str | None] = []
    while got := orders.fetch(database, FLEET, after, now()):
        assert len(got) <= 2
        seen += [one.scan for one in got]
        after = got[-1].number
    assert seen == [None, "a", "b", "c", "d", "e"]


def test_an_order_is_changed_until_it_is_fetched(database: Database) -> None:
    later = now() + timedelta(days=1)
    with database.write() as connection:
        orders.order_scans(connection, FLEET, [wanted("a")], now())
        assert orders.change(connection, wanted("a").model_copy(update={"not_before": later}), now())
    (got,) = orders.fetch(database, FLEET, 1, now())
    assert got.order is not None and got.order.not_before == later
    with database.write() as connection:
        assert not orders.change(connection, wanted("a"), now())
        assert scans.get(connection, "a").due == later
    assert orders.fetch(database, FLEET, 1, now()) == (got,)


def test_stop_before_and_after_a_fleet_has_it(database: Database) -> None:
    one, two = ordered(database, "i-1"), ordered(database, "i-2")
    with database.write() as connection:
        scans.tell(connection, one, "pause", "me", now())
        answer, told = scans.tell(connection, one, "stop", "me", now())
    assert (answer.state, told) == (ScanState.STOPPED, set())
    assert [order.scan for order in orders.fetch(database, FLEET, 0, now())] == [None, two]
    with database.write() as connection:
        answer, told = scans.tell(connection, two, "stop", "me", now())
        again, _ = scans.tell(connection, two, "stop", "me", now())
    assert (answer.state, told) == (ScanState.ORDERED, {FLEET})
    assert again == answer
    assert [(order.kind, order.scan) for order in orders.fetch(database, FLEET, 3, now())] == [("stop", two)]
    with database.write() as connection, pytest.raises(Refused) as caught:
        scans.tell(connection, one, "resume", "me", now())
    assert caught.value.status == 409


@pytest.mark.parametrize("end", ["commit", "undo"])
def test_a_number_is_never_seen_before_a_smaller_one(database: Database, end: str) -> None:
    """A transaction that took a number and is slow holds back whoever takes the next."""
    holding, done = threading.Event(), threading.Event()

    def slow() -> None:
        with suppress(ZeroDivisionError), database.write() as connection:
            orders.order_scans(connection, FLEET, [wanted("slow")], now())
            holding.set()
            time.sleep(0.5)
            1 // (end == "commit")

    def quick() -> None:
        holding.wait()
        with database.write() as connection:
            orders.order_scans(connection, FLEET, [wanted("quick")], now())
        done.set()

    threads = [threading.Thread(target=slow), threading.Thread(target=quick)]
    for thread in threads:
        thread.start()
    after = 1
    seen: list[str | None] = []
    while not done.is_set():
        for order in orders.fetch(database, FLEET, after, now()):
            seen.append(order.scan)
            after = order.number
    for thread in threads:
        thread.join()
    seen += [order.scan for order in orders.fetch(database, FLEET, after, now())]
    assert seen == (["slow", "quick"] if end == "commit" else ["quick"])


def test_many_write_and_one_fetches_and_nothing_is_missed(database: Database) -> None:
    writers, each = 4, 15
    errors: list[Exception] = []

    def write(writer: int) -> None:
        try:
            for number in range(each):
                with database.write() as connection:
                    orders.order_scans(connection, FLEET, [wanted(f"w{writer}-{number}")], now())
        except sa.exc.SQLAlchemyError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    after = 1
    seen: list[str | None] = []
    deadline = time.monotonic() + 60
    while len(seen) < writers * each and not errors and time.monotonic() < deadline:
        for order in orders.fetch(database, FLEET, after, now()):
            assert order.number > after
            after = order.number
            seen.append(order.scan)
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(map(str, seen)) == sorted(
        f"w{writer}-{number}" for writer in range(writers) for number in range(each)
    )


def test_fetched_or_withdrawn_but_never_both(database: Database) -> None:
    """A fleet that fetches and somebody who stops at the same moment: the scan ends at once, or the fleet is told."""
    for turn in range(15):
        with database.write() as connection:
            scan = f"t{turn}"
            orders.order_scans(connection, FLEET, [wanted(scan)], now())
            connection.execute(tables.scan.update().where(tables.scan.c.id != scan).values(state="done", ended=now()))
        got: list[str | None] = []
        ready = threading.Barrier(2)

        def fetch(ready: threading.Barrier = ready, got: list[str | None] = got) -> None:
            ready.wait()
            got += [order.scan for order in orders.fetch(database, FLEET, 0, now()) if order.kind == "scan"]

        thread = threading.Thread(target=fetch)
        thread.start()
        ready.wait()
        with database.write() as connection:
            scans.tell(connection, scan, "stop", "me", now())
        thread.join()
        kinds = [order.kind for order in orders.fetch(database, FLEET, 0, now()) if order.scan == scan]
        ends_at_once = state(database, scan) is ScanState.STOPPED
        assert (scan in got, kinds) == ((False, []) if ends_at_once else (True, ["scan", "stop"]))


def test_one_that_is_underway_is_given_instead_of_another(database: Database) -> None:
    assert ordered(database) == ordered(database)
    first = ordered(database)
    with database.write() as connection:
        scans.tell(connection, first, "stop", "me", now())
    assert ordered(database) != first


@pytest.mark.parametrize(
    ("id_", "status"), [pytest.param("i-9", 404, id="unknown"), pytest.param("i-2", 409, id="closed")]
)
def test_scans_that_cannot_be(database: Database, id_: str, status: int) -> None:
    with database.write() as connection:
        connection.execute(tables.instance.update().where(tables.instance.c.key == key("i-2")).values(closed=now()))
    with database.write() as connection, pytest.raises(Refused) as caught:
        scans.start(connection, ScanIn(instances=(key("i-1"), key(id_))), NoPolicies(), "me", now())
    assert caught.value.status == status


def test_a_fleet_that_lost_its_database_does_nothing_again(database: Database) -> None:
    """It asks for orders from the first on: of scans that have ended there are none, however many there were."""
    done, failed, open_ = ordered(database, "i-1"), ordered(database, "i-2"), "open"
    orders.fetch(database, FLEET, 0, now())
    with database.write() as connection:
        scans.tell(connection, done, "pause", "me", now())
        scans.tell(connection, failed, "stop", "me", now())
        orders.order_scans(connection, FLEET, [wanted(open_)], now())
    results.take(database, FLEET, result(done), now())
    results.take(database, FLEET, ended(failed, ScanState.STOPPED), now())
    assert [(one.kind, one.scan) for one in orders.fetch(database, FLEET, 0, now())] == [
        ("reconcile", None),
        ("scan", open_),
    ]


def test_a_console_that_was_restored_passes_nothing_over(database: Database) -> None:
    """Its fleet was given more orders than the restored database knows of, so new ones would have numbers it has seen."""
    with database.write() as connection:
        orders.order_scans(connection, FLEET, [wanted("a"), wanted("b")], now())
    orders.fetch(database, FLEET, 0, now())
    with database.write() as connection:
        orders.order_scans(connection, FLEET, [wanted("c"), wanted("d", "i-2")], now())
    got = orders.fetch(database, FLEET, 20, now())
    assert [one.scan for one in got] == ["c", "d"]
    assert all(one.number > 20 for one in got)
    assert orders.fetch(database, FLEET, 20, now()) == got
    last = got[-1].number
    assert orders.fetch(database, FLEET, last, now()) == ()
    with database.write() as connection:
        orders.order_scans(connection, FLEET, [wanted("e")], now())
        rows = connection.execute(sa.select(tables.scan.c.id, tables.scan.c.order_number))
        numbers = {row.id: row.order_number for row in rows}
    (next_,) = orders.fetch(database, FLEET, last, now())
    assert next_.scan == "e" and next_.number == last + 1
    assert numbers == {"a": 2, "b": 3, **{one.scan: one.number for one in got}, "e": next_.number}
    assert orders.fetch(database, "another", 7, now()) == ()
