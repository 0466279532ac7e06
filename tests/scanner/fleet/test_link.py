"""The link against a real server: orders once, results until they are taken, whatever the console, the network or a clock does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, update

from client.model import AccountIn, ScanState
from scanner.fleet import kept, orders
from scanner.fleet.clock import Offset
from scanner.fleet.slots import Fenced, claim
from scanner.fleet.tables import outbox, scan, setting, slot
from tests.scanner.fleet.console import Cut, FakeConsole, problem, served
from tests.scanner.fleet.duties import FLEET, Desk, kill, once, until

pytestmark = pytest.mark.slow


@pytest.fixture
def console() -> FakeConsole:
    return FakeConsole()


@pytest.fixture
def address(console: FakeConsole) -> Iterator[str]:
    with served(console) as found:
        yield found


@pytest.fixture
def desk(url: str, tmp_path: Path, address: str) -> Iterator[Desk]:
    made = Desk(url, tmp_path, address)
    yield made
    made.database.close()


def test_orders_are_written_down(desk: Desk, console: FakeConsole) -> None:
    account = AccountIn(cloud="aws", account="111122223333", queue_url="https://sqs.eu-central-1.amazonaws.com/1/q")
    console.accounts = (account,)
    limits = {"limits.scans_per_host": 2, "limits.scans_per_account": 5, "scan.depth": "full"}
    console.order_scan("s-1", settings=limits, placement="h-1")
    with desk.linked():
        until(lambda: "s-1" in desk.scans())
        row = desk.row("s-1")
        assert (row.account, row.region, row.placement) == ("111122223333", "eu-central-1", "h-1")
        assert (row.most_per_host, row.most_per_account, row.state) == (2, 5, "waiting")
        console.order_scan("s-2")  # while it waits
        until(lambda: "s-2" in desk.scans(), 2)
        with desk.database.read() as connection:
            assert orders.accounts(connection) == (account,)
            assert orders.cursor(connection) == 2
    assert console.fleets[FLEET].name == FLEET


def test_stop_pause_resume_reconcile(desk: Desk, console: FakeConsole) -> None:
    for name in ("s-1", "s-2", "s-3"):
        console.order_scan(name)
    with desk.linked():
        until(lambda: len(desk.scans()) == 3)
        desk.running("s-3")
        console.order("stop", "s-1")
        console.order("pause", "s-2")
        console.order("stop", "s-3")
        console.order("stop", "never-heard-of")
        console.order("reconcile")
        until(lambda: desk.row("s-3").stop)
        assert desk.scans() == {"s-1": "stopped", "s-2": "paused", "s-3": "running"}
        console.order("resume", "s-2")
        until(lambda: desk.scans()["s-2"] == "waiting")
        with desk.database.read() as connection:
            assert kept.read(connection, orders.RECONCILE) == "8"
        until(lambda: "s-1" in console.results)
        assert console.results["s-1"][0].state == ScanState.STOPPED


def test_an_order_without_what_it_is_about(desk: Desk, console: FakeConsole) -> None:
    console.order("scan")
    console.order("stop")
    console.order_scan("s-1")
    with desk.linked():
        until(lambda: "s-1" in desk.scans())
    assert sum("lacks what it is about" in line for line in desk.lines) == 2


def test_an_order_twice(desk: Desk) -> None:
    """As after a cursor that was lost: what became of the scan meanwhile stays."""
    fence = desk.fence()
    console = FakeConsole()
    console.order_scan("s-1")
    pull = console.answer("orders", FLEET, {}, b"")
    assert orders.take(desk.database, fence, pull, 0) == (1, [])
    desk.running("s-1")
    with desk.database.write() as connection:
        kept.write(connection, kept.CURSOR, "0")
    assert orders.take(desk.database, fence, pull, 0) == (1, [])
    assert desk.scans() == {"s-1": "running"}


def test_a_console_that_lost_its_database(desk: Desk, console: FakeConsole) -> None:
    console.order_scan("s-1")
    console.order_scan("s-2")
    with desk.linked():
        until(lambda: len(desk.scans()) == 2)
    with desk.database.write() as connection:
        connection.execute(slot.update().values(lease_ends_ms=0))
    console.orders.clear()
    console.registered += timedelta(hours=1)
    console.order_scan("s-3")
    with desk.linked():
        until(lambda: "s-3" in desk.scans())
    assert any("another than before" in line for line in desk.lines)


def test_orders_in_one_transaction_with_the_cursor(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    console = FakeConsole()
    console.order_scan("s-1")
    pull = console.answer("orders", FLEET, {}, b"")
    fence = desk.fence()

    def full(connection: Any, name: str, value: str) -> None:
        if name == kept.CURSOR:
            raise OSError("disk full")
        write(connection, name, value)

    write = kept.write
    monkeypatch.setattr(kept, "write", full)
    with pytest.raises(OSError, match="disk full"):
        orders.take(desk.database, fence, pull, 0)
    assert desk.scans() == {}
    monkeypatch.undo()
    assert orders.take(desk.database, fence, pull, 0) == (1, [])
    assert desk.scans() == {"s-1": "waiting"}


@pytest.mark.parametrize("hours", [1, -1, 7, 0])
def test_a_clock_that_is_off(desk: Desk, console: FakeConsole, hours: int) -> None:
    console.clock = timedelta(hours=hours)
    due = console.now() + timedelta(minutes=30)
    console.order_scan("soon", not_before=due)
    console.order_scan("now", not_before=console.now() - timedelta(seconds=5))
    with desk.linked():
        until(lambda: len(desk.scans()) == 2)
    with desk.database.read() as connection:
        found = kept.now_ms(desk.database, connection)
    assert abs(found / 1000 - console.now().timestamp()) < 1
    assert desk.row("now").not_before_ms < found < desk.row("soon").not_before_ms


def test_a_clock_that_is_set_while_it_runs(url: str, tmp_path: Path, address: str, console: FakeConsole) -> None:
    desk = Desk(url, tmp_path, address, pull_seconds=0)

    def off() -> float:
        with desk.database.read() as connection:
            return abs(kept.now_ms(desk.database, connection) / 1000 - console.now().timestamp())

    with desk.linked():
        until(lambda: console.log["orders"] > 1 and off() < 1)
        for hours in (3, -2):
            console.clock = timedelta(hours=hours)
            until(lambda: off() < 1)
    desk.database.close()


@given(st.integers(-(10**8), 10**8), st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 30_000)), min_size=1))
def test_offset_holds_the_truth(truth: int, trips: list[tuple[int, int]]) -> None:
    """Whatever the way there and back took, the truth stays between the bounds, which only come closer."""
    known: Offset | None = None
    asked = 10**9
    for there, back in trips:
        sample = Offset.of(asked, asked + there + truth, asked + there + back)
        assert sample
        newer = sample if known is None else known.narrowed(sample)
        assert newer.low <= truth <= newer.high
        assert known is None or newer.high - newer.low <= known.high - known.low
        known, asked = newer, asked + there + back


def test_results_are_sent(desk: Desk, console: FakeConsole) -> None:
    names = {f"s-{number}" for number in range(60)}
    desk.finished(*names)
    with desk.linked():
        until(lambda: not desk.unsent())
    assert once(console.results) == names


def test_what_the_console_refuses_is_kept_and_blocks_nothing(desk: Desk, console: FakeConsole) -> None:
    desk.finished("bad", *(f"s-{number}" for number in range(5)))
    console.faults.append(
        lambda name, body: problem(422, "that cannot be") if name == "results" and b'"bad"' in body else None
    )
    with desk.linked():
        until(lambda: not desk.unsent())
        until(lambda: any("1 result refused" in one.problem for one in console.statuses))
    assert desk.parcels()["bad"].refused == "that cannot be"
    assert len(console.results) == 5
    assert any("bad: refused by the console and kept: that cannot be" in line for line in desk.lines)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((500, b"oops"), id="500"),
        pytest.param((404, b"<html>not found</html>"), id="404-of-a-proxy"),
        pytest.param((413, b"<html>too large</html>"), id="413-of-a-proxy"),
        pytest.param((408, b'{"error": "slow"}'), id="408"),
        pytest.param((429, b'{"error": "busy"}'), id="429"),
        pytest.param((302, b""), id="redirect"),
        pytest.param(None, id="cut"),
    ],
)
def test_what_may_pass_is_tried_again(desk: Desk, console: FakeConsole, answer: tuple[int, bytes] | None) -> None:
    failing = [True]

    def fault(name: str, body: bytes) -> tuple[int, bytes] | None:
        if name != "results" or not failing[0]:
            return None
        if answer is None:
            raise Cut
        return answer

    console.faults.append(fault)
    desk.finished("s-1", "s-2")
    with desk.linked():
        until(lambda: any("results" not in one and one for one in desk.lines))
        assert sorted(desk.unsent()) == ["s-1", "s-2"]
        failing[0] = False
        until(lambda: not desk.unsent(), 30)
    assert once(console.results) == {"s-1", "s-2"}


def test_one_that_fails_always_does_not_block_the_others(desk: Desk, console: FakeConsole) -> None:
    console.faults.append(lambda name, body: (500, b"oops") if name == "results" and b'"poison"' in body else None)
    desk.finished("poison")
    with desk.linked():
        until(lambda: desk.parcels()["poison"].tries > 0)
        desk.finished(*(f"s-{number}" for number in range(30)))
        until(lambda: desk.unsent() == ["poison"], 10)


def test_a_result_that_is_none(desk: Desk, console: FakeConsole) -> None:
    desk.finished("s-1")
    with desk.database.write() as connection:
        connection.execute(insert(outbox).values(scan="broken", result="{}", made_ms=1))
    with desk.linked():
        until(lambda: not desk.unsent())
    assert desk.parcels()["broken"].refused
    assert once(console.results) == {"s-1"}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\x00<html>", id="no-json"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"now": "yesterday", "orders": [], "accounts": []}', id="odd-time"),
        pytest.param(b'{"now": "2026-11-28T00:00:00Z", "orders": [], "accounts": [], "more": 1}', id="newer"),
        pytest.param(b" " * (65 << 20), id="huge"),
    ],
)
def test_garbage_instead_of_orders(desk: Desk, console: FakeConsole, body: bytes) -> None:
    garbage = [True]
    console.faults.append(lambda name, _: (200, body) if name == "orders" and garbage[0] else None)
    console.order_scan("s-1")
    with desk.linked():
        until(lambda: desk.lines)
        assert desk.scans() == {}
        until(lambda: any("orders" not in one.problem and one.problem for one in console.statuses))
        garbage[0] = False
        until(lambda: "s-1" in desk.scans(), 30)


def test_a_wrong_token(desk: Desk, console: FakeConsole) -> None:
    console.token = "another"
    console.order_scan("s-1")
    desk.finished("s-0")
    with desk.linked():
        line = until(lambda: next((one for one in desk.lines if "token" in one), None))
        assert str(desk.token_file) in line
        assert "scans go on" in line
        assert "the-right-token" not in "".join(desk.lines)
        desk.token_file.write_text("another")
        until(lambda: "s-1" in desk.scans() and not desk.unsent(), 15)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"a b\nc"])
def test_no_token(desk: Desk, console: FakeConsole, content: bytes | None) -> None:
    if content is None:
        desk.token_file.unlink()
    else:
        desk.token_file.write_bytes(content)
    with desk.linked():
        until(lambda: any("token" in line for line in desk.lines))
    assert not console.log


def test_status(desk: Desk, console: FakeConsole) -> None:
    for name in ("s-1", "s-2", "s-3"):
        console.order_scan(name)
    console.order("pause", "s-3")
    with desk.database.write() as connection:
        connection.execute(insert(setting).values(name="problem:watch", value="aws://1: access denied"))
    with desk.linked():
        until(lambda: len(desk.scans()) == 3)
        desk.running("s-1")
        with desk.database.write() as connection:
            connection.execute(update(scan).where(scan.c.id == "s-1").values(started_ms=1_000))
        until(
            lambda: (
                console.statuses
                and console.statuses[-1].scans
                and console.statuses[-1].scans[-1].step == ""
                and {one.state for one in console.statuses[-1].scans} == {"running", "waiting", "paused"}
            )
        )
    status = console.statuses[-1]
    told = {one.scan: one for one in status.scans}
    assert (told["s-1"].step, told["s-1"].started) == ("scan", datetime.fromtimestamp(1, UTC))
    assert status.problem == "aws://1: access denied"
    assert abs((status.clock - datetime.now(UTC)).total_seconds()) < 5


def test_a_console_that_is_away_and_comes_back(url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    desk = Desk(url, tmp_path, f"http://127.0.0.1:{port}")
    console = FakeConsole()
    desk.finished("s-1")
    with desk.linked():
        until(lambda: any("reached" in line for line in desk.lines))
        for _ in range(2):
            with served(console, port):
                desk.finished(f"s-{len(console.results) + 1}") if console.results else None
                until(lambda: not desk.unsent(), 30)
            console.wait(lambda: True)
    assert all(len(some) == 1 for some in console.results.values())
    desk.database.close()


def test_killed_between_an_order_and_its_row(desk: Desk, console: FakeConsole) -> None:
    """Killed the moment it has been told, again and again: every scan is there in the end, once."""
    expected = [console.order_scan(f"s-{number}") for number in range(50)]
    told = threading.Event()
    console.after.append(lambda name, _: told.set() if name == "orders" else None)
    for _ in range(4):
        told.clear()
        process = desk.process("link")
        assert told.wait(20)
        kill(process)
        with desk.database.read() as connection:
            assert len(desk.scans()) in {0, 50}, "half of one answer"
            assert orders.cursor(connection) in {0, 50}
        with desk.database.write() as connection:
            connection.execute(setting.delete().where(setting.c.name == kept.CURSOR))
    process = desk.process("link")
    try:
        until(lambda: len(desk.scans()) == len(expected), 30)
    finally:
        kill(process)


def test_killed_between_taken_and_marked(desk: Desk, console: FakeConsole) -> None:
    """200 results, the link killed right after the console took one of them, and the console cut off in the middle."""
    names = {f"s-{number:03}" for number in range(200)}
    desk.finished(*names)
    taken = threading.Event()
    kills = 0

    def after(name: str, _: bytes) -> None:
        if name == "results" and sum(map(len, console.results.values())) % 67 == 50:
            taken.set()
            raise Cut

    console.after.append(after)
    process = desk.process("link")
    try:
        while desk.unsent():
            if taken.wait(0.2):
                kill(process)
                kills += 1
                taken.clear()
                process = desk.process("link")
    finally:
        kill(process)
    assert kills >= 2
    assert once(console.results) == names
    assert sum(map(len, console.results.values())) > len(names)  # some came twice, and are the same


def test_an_order_of_a_stale_link(desk: Desk, console: FakeConsole) -> None:
    """A link that was stopped and comes to after another has its slot writes nothing."""
    fence = desk.fence()
    with desk.database.write() as connection:
        connection.execute(update(slot).values(lease_ends_ms=0))
    assert claim(desk.database, "another", ["link"], 60)
    console.order_scan("s-1")
    with pytest.raises(Fenced):
        orders.take(desk.database, fence, console.answer("orders", FLEET, {}, b""), 0)
    assert desk.scans() == {}
