from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.findings import GapReason
from scanner import workers
from scanner.wire import WireError, frame
from scanner.workers import MAX_DEATHS, Board, Death, Piece, Pool, Position, parts, piece

pytestmark = pytest.mark.slow

One = Callable[[int, Position], Iterator[tuple[str, bytes]]]  # answers of one inode: kind, JSON value


def batches(one: One, most: int = 1 << 20) -> workers.Work:
    """Work over batches, in pieces of about `most` bytes."""

    def work(start: int, stop: int, position: Position) -> Iterator[Piece]:
        told: dict[str, list[bytes]] = {}
        size = 0
        for at in range(start, stop):
            position.enter(at)
            for kind, value in one(at, position):
                told.setdefault(kind, []).append(value)
                size += len(value)
            if size >= most or at + 1 == stop:
                yield piece(at + 1, told)
                told, size = {}, 0

    return work


def plain(at: int, position: Position) -> Iterator[tuple[str, bytes]]:
    position.done(1, at)
    yield "rows", b"%d" % at
    if at % 3 == 0:
        yield "gaps", b'"%d"' % at


def pool(
    one: One,
    count: int,
    *,
    jobs: int = 2,
    batch: int = 7,
    seconds: float = 10,
    board: Board | None = None,
    most: int = 1 << 20,
) -> Pool:
    return Pool(
        batches(one, most),
        count,
        workers=jobs,
        batch=batch,
        board=board or Board(jobs),
        seconds=seconds,
        tick=lambda: None,
    )


def results(run: Iterator[bytes | Death]) -> tuple[list[int | str], dict[int, GapReason]]:
    """The inodes that were answered, in order, and those that were not survived."""
    done: list[int | str] = []
    dead: dict[int, GapReason] = {}
    for answer in run:
        if isinstance(answer, Death):
            assert answer.at not in dead
            dead[answer.at] = answer.reason
        else:
            done += said(answer).get("rows", [])
    return done, dead


def said(answer: bytes) -> dict[str, list[int | str]]:
    found: dict[str, list[int | str]] = json.loads(parts(answer)[0])
    return found


def children() -> set[int]:
    """Processes whose parent this one is, dead ones that nobody waited for included."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.add(int(entry.name))
    return found


@pytest.fixture(autouse=True)
def before() -> set[int]:
    """What other tests left: it is none of these tests' affair."""
    return children()


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize(("count", "batch"), [(0, 1), (1, 1), (1, 100), (100, 1), (100, 7), (1000, 64)])
def test_everything_once_and_in_order(jobs: int, count: int, batch: int, before: set[int]) -> None:
    board = Board(jobs)
    done, dead = results(pool(plain, count, jobs=jobs, batch=batch, board=board).run())
    assert done == list(range(count))
    assert not dead
    assert board.totals() == (count, sum(range(count)))
    assert children() <= before


def _hang() -> None:
    while True:
        pass


def _memory() -> None:
    raise MemoryError


def _bug() -> None:
    raise ZeroDivisionError


def _segfault() -> None:
    faulthandler.disable()  # pytest's, which would write a trace into the test's output
    ctypes.string_at(0)


def _bus_error() -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGBUS)


DEATHS = [
    pytest.param(_segfault, GapReason.CRASHED, id="segfault"),
    pytest.param(lambda: os._exit(0), GapReason.CRASHED, id="exit-0"),
    pytest.param(lambda: os._exit(9), GapReason.CRASHED, id="exit-9"),
    pytest.param(lambda: os.kill(os.getpid(), signal.SIGKILL), GapReason.OUT_OF_MEMORY, id="killed"),
    pytest.param(_bus_error, GapReason.UNREADABLE, id="bus-error"),
    pytest.param(lambda: os.kill(os.getpid(), signal.SIGXCPU), GapReason.TIMEOUT, id="cpu-limit"),
    pytest.param(_hang, GapReason.TIMEOUT, id="loop"),
    pytest.param(lambda: time.sleep(100), GapReason.TIMEOUT, id="sleep"),
    pytest.param(_memory, GapReason.OUT_OF_MEMORY, id="memory"),
    pytest.param(_bug, GapReason.CRASHED, id="bug"),
]


@pytest.mark.parametrize(("act", "reason"), DEATHS)
@pytest.mark.parametrize("victim", [0, 6])
def test_one_that_is_not_survived(act: Callable[[], object], reason: GapReason, victim: int, before: set[int]) -> None:
    def work(at: int, position: Position) -> Iterator[tuple[str, bytes]]:
        yield from plain(at, position)
        if at == victim:
            act()

    seconds = 0.8 if reason is GapReason.TIMEOUT else 10
    done, dead = results(pool(work, 20, seconds=seconds).run())
    assert done == [at for at in range(20) if at != victim]
    assert dead == {victim: reason}
    assert children() <= before


@pytest.mark.parametrize("seed", range(5))
def test_many_that_are_not_survived(seed: int) -> None:
    chance = random.Random(seed)
    victims = {at for at in range(150) if chance.random() < 0.15}

    def work(at: int, position: Position) -> Iterator[tuple[str, bytes]]:
        yield from plain(at, position)
        if at in victims:
            os._exit(5)

    jobs, batch = chance.randrange(1, 4), chance.randrange(1, 30)
    done, dead = results(pool(work, 150, jobs=jobs, batch=batch).run())
    assert done == [at for at in range(150) if at not in victims]
    assert set(dead) == victims


def test_too_many_deaths_leave_out_whole_batches() -> None:
    def work(at: int, position: Position) -> Iterator[tuple[str, bytes]]:
        if at >= 0:
            os._exit(5)
        yield "rows", b""

    answers = list(pool(work, 1000, batch=50).run())
    assert all(isinstance(answer, Death) for answer in answers)
    assert MAX_DEATHS < len(answers) < MAX_DEATHS + 50
    assert isinstance(answers[-1], Death)
    assert {answer.reason for answer in answers if isinstance(answer, Death)} == {GapReason.CRASHED, GapReason.LIMIT}


def test_much_to_say_comes_in_pieces_and_whole() -> None:
    def work(at: int, position: Position) -> Iterator[tuple[str, bytes]]:
        yield from plain(at, position)
        yield "rows", b'"' + b"x" * (at * 10) + b'"'
        if at == 17:
            os._exit(5)

    answers = list(pool(work, 30, batch=30, jobs=1, most=100).run())
    done = [row for answer in answers if isinstance(answer, bytes) for row in said(answer)["rows"]]
    assert [row for row in done if isinstance(row, int)] == [at for at in range(30) if at != 17]
    assert [len(row) for row in done if isinstance(row, str)] == [at * 10 for at in range(30) if at != 17]
    assert [answer.at for answer in answers if isinstance(answer, Death)] == [17]
    assert len(answers) > 10


def test_a_slow_reader_is_not_the_fault_of_a_file() -> None:
    def work(at: int, position: Position) -> Iterator[tuple[str, bytes]]:
        yield "rows", b'"' + b"x" * 300_000 + b'"'

    answers: list[bytes | Death] = []
    for answer in pool(work, 6, batch=1, seconds=1).run():
        if not answers:
            time.sleep(1.5)  # its pipe is full in the meantime
        answers.append(answer)
    assert not [answer for answer in answers if isinstance(answer, Death)]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"garbage that is no frame", id="no-frame"),
        pytest.param(b"J\xff\xff\xff\xff", id="oversize"),
        pytest.param(frame(b"J", b"short"), id="no-range"),
        pytest.param(frame(b"J", struct.pack("<QQ", 5, 6) + b"{}"), id="of-others"),
        pytest.param(frame(b"J", struct.pack("<QQ", 0, 0) + b"{}"), id="of-nothing"),
        pytest.param(frame(b"J", struct.pack("<QQ", 0, 99) + b"{}"), id="of-more-than-asked"),
        pytest.param(frame(b"J", struct.pack("<QQ", 0, 4) + b"{}") * 2, id="twice"),
    ],
)
def test_a_worker_that_was_taken_over(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    def write_all(fd: int, data: bytes) -> None:
        os.write(fd, said)
        time.sleep(20)

    monkeypatch.setattr(workers, "_write_all", write_all)
    begun = time.monotonic()
    with pytest.raises(WireError):
        list(pool(plain, 4, jobs=1, batch=4).run())
    # its end is not waited for: it may never come
    assert time.monotonic() - begun < 15


def test_a_fork_that_keeps_the_pipe_open_does_not_hold_us_up() -> None:
    def work(at: int, position: Position) -> Iterator[tuple[str, bytes]]:
        yield from plain(at, position)
        if at == 3:
            if os.fork() == 0:
                time.sleep(12)
                os._exit(0)
            os._exit(5)

    begun = time.monotonic()
    done, dead = results(pool(work, 8, jobs=1, batch=8).run())
    assert time.monotonic() - begun < 10
    assert done == [0, 1, 2, 4, 5, 6, 7]
    assert dead == {3: GapReason.CRASHED}


def test_the_board() -> None:
    board = Board(3)
    board.write(1, 5, 10, 1 << 40)
    board.write(2, 9, 1, 1)
    assert board.read(1) == (5, 10, 1 << 40)
    assert board.totals() == (11, (1 << 40) + 1)
    position = Position(board, 1, 10)
    position.done(2, 3)
    position.enter(6)
    position.rest()
    assert board.read(1) == (6, 12, (1 << 40) + 3)
    assert Board(0).totals() == (0, 0)


@pytest.mark.parametrize("borders", [[], [10, 11, 40], [5, 100], [0, 0, 30], [97, 98, 99, 100]])
def test_batches_end_at_borders(borders: list[int]) -> None:
    ends = []

    def work(start: int, stop: int, position: Position) -> Iterator[Piece]:
        yield piece(stop, {"rows": [b"%d" % at for at in range(start, stop)]})

    run = Pool(work, 100, workers=2, batch=30, borders=borders, board=Board(2), seconds=10, tick=lambda: None).run()
    done: list[int | str] = []
    for answer in run:
        assert isinstance(answer, bytes)
        done += said(answer)["rows"]
        ends.append(len(done))
    assert done == list(range(100))
    assert set(borders) - {0} <= set(ends)


@pytest.mark.parametrize("raw", [b"", b"1234567", b"\xff\xff\xff\xff\0\0\0\0{}", b"\2\0\0\0\1\0\0\0{}"])
def test_an_answer_that_is_cut_short(raw: bytes) -> None:
    with pytest.raises(WireError):
        parts(raw)


def test_an_answer_in_three_parts() -> None:
    assert parts(piece(1, {"a": [b"1", b"2"]}, b"verdicts", b"rows").body) == (b'{"a":[1,2]}', b"verdicts", b"rows")
