from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloud.fetcher import FetchBlock, Fetched, Fetcher, Zeros, blocks_of
from cloud.store import BLOCK_BYTES, BlockStore, Place
from core.blocks import Bytes, Extent
from core.errors import AccessDenied, Corrupt, LimitExceeded, Unreadable

SIZE = 40 * BLOCK_BYTES + 4096
Make = Callable[..., Fetcher]


def block(number: int) -> bytes:
    return random.Random(number).randbytes(min(BLOCK_BYTES, SIZE - number * BLOCK_BYTES))


@pytest.fixture
def make() -> Iterator[Make]:
    with BlockStore(12 * BLOCK_BYTES) as store:
        made: list[Fetcher] = []

        def fetcher(fetch: FetchBlock = block, threads: int = 4, most_fetches: int | None = None) -> Fetcher:
            made.append(Fetcher(fetch, size=SIZE, store=store, threads=threads, most_fetches=most_fetches))
            return made[-1]

        yield fetcher
        for one in made:
            one.close()


def test_reads_are_like_pread(make: Make) -> None:
    whole = b"".join(block(number) if number % 3 else bytes(len(block(number))) for number in range(41))
    fetcher = make(lambda number: block(number) if number % 3 else Zeros(number + 1))
    chosen = random.Random(5)

    def some(_: int) -> None:
        offset = chosen.randrange(SIZE + 1000)
        length = chosen.choice((0, 1, 511, BLOCK_BYTES, 3 * BLOCK_BYTES + 7))
        assert fetcher.read(offset, length) == whole[offset : offset + length]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(some, range(60)))
    assert fetcher.read(SIZE, 10) == fetcher.read(SIZE + 10, 10) == b""
    assert fetcher.read(0, SIZE + 5) == whole
    for offset, length in ((-1, 1), (0, -1)):
        with pytest.raises(ValueError):
            fetcher.read(offset, length)


def test_a_long_read_is_bounded() -> None:
    with BlockStore(8 * BLOCK_BYTES) as store:
        fetcher = Fetcher(block, size=1 << 40, store=store)
        with pytest.raises(LimitExceeded):
            fetcher.read(0, (1 << 30) + 1)
        fetcher.close()


def test_many_who_want_one_block_get_one_fetch(make: Make) -> None:
    got: Counter[int] = Counter()
    go = threading.Event()

    def slow(number: int) -> Bytes:
        got[number] += 1
        go.wait(10)
        return block(number)

    fetcher = make(slow)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(fetcher.read, 7 * BLOCK_BYTES, 100) for _ in range(8)]
        time.sleep(0.02)
        go.set()
        assert {one.result() for one in waiting} == {block(7)[:100]}
    assert got == {7: 1}


def test_what_is_wanted_goes_before_hints(make: Make) -> None:
    order: list[int] = []
    go = threading.Event()

    def slow(number: int) -> Bytes:
        order.append(number)
        go.wait(10)
        return block(number)

    fetcher = make(slow, threads=1)
    fetcher.hint([1, 2, 3, 4])
    answers: list[Fetched] = []
    done = threading.Event()

    def took(found: Fetched) -> None:
        answers.append(found)
        done.set()

    fetcher.request(3, took)
    go.set()
    assert done.wait(10)
    assert isinstance(answers[0], Place)
    fetcher.release(3)
    assert order.index(3) <= 1
    assert order.count(3) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(AccessDenied("no", permission="ebs:GetSnapshotBlock"), AccessDenied, id="denied"),
        pytest.param(Corrupt("no"), Corrupt, id="corrupt"),
        pytest.param(ZeroDivisionError("no"), Unreadable, id="bug"),
    ],
)
def test_an_error_is_told_and_the_others_go_on(make: Make, error: Exception, kind: type[Exception]) -> None:
    tries: Counter[int] = Counter()

    def some(number: int) -> Bytes:
        tries[number] += 1
        if number == 2:
            raise error
        return block(number)

    fetcher = make(some)
    for _ in range(3):
        with pytest.raises(kind):
            fetcher.read(2 * BLOCK_BYTES, 1)
        with pytest.raises(kind):
            fetcher.read(0, 4 * BLOCK_BYTES)
    assert fetcher.read(3 * BLOCK_BYTES, 5) == block(3)[:5]
    assert tries[2] == 1


def test_a_short_block_is_corrupt_and_costs_are_bounded(make: Make) -> None:
    with pytest.raises(Corrupt, match="came with 3 bytes"):
        make(lambda _: b"abc").read(0, 1)
    fetcher = make(block, most_fetches=2)
    fetcher.read(0, 2 * BLOCK_BYTES)
    with pytest.raises(LimitExceeded):
        fetcher.read(5 * BLOCK_BYTES, 1)


def test_closing_tells_who_waits() -> None:
    with BlockStore(8 * BLOCK_BYTES) as store:
        stop = threading.Event()

        def stuck(_: int) -> Bytes:
            stop.wait(10)
            raise Unreadable("broken off")

        fetcher = Fetcher(stuck, size=SIZE, store=store, threads=1, stop=stop)
        told: list[Fetched] = []
        for number in range(3):
            fetcher.request(number, told.append)
        begun = time.monotonic()
        fetcher.close()
        assert time.monotonic() - begun < 5
        assert [type(one) for one in told] == [Unreadable] * 3
        fetcher.request(4, told.append)
        assert isinstance(told[-1], Unreadable)
        fetcher.hint([1])


def test_hints_are_bounded_and_can_be_forgotten(make: Make) -> None:
    go = threading.Event()
    got: list[int] = []

    def slow(number: int) -> Bytes:
        got.append(number)
        go.wait(10)
        return block(number)

    fetcher = make(slow, threads=1)
    fetcher.hint(range(40))
    fetcher.forget_hints()
    go.set()
    assert fetcher.read(20 * BLOCK_BYTES, 1) == block(20)[:1]
    assert len(got) <= 2
    fetcher.hint([-1, 41, 10**9])  # there are none of these


@pytest.mark.parametrize(
    ("extents", "blocks"),
    [
        pytest.param([], [], id="none"),
        pytest.param([Extent(0, 1), Extent(5, 1)], [0], id="one-block"),
        pytest.param([Extent(BLOCK_BYTES - 1, 2)], [0, 1], id="border"),
        pytest.param([Extent(3 * BLOCK_BYTES, 1), Extent(0, 1)], [3, 0], id="in-order-of-reading"),
        pytest.param([Extent(-5, 10), Extent(0, -1), Extent(1 << 60, 1 << 60)], [], id="nonsense"),
        pytest.param([Extent(SIZE - 1, 1 << 50)], [40], id="past-the-end"),
    ],
)
def test_blocks_of(extents: list[Extent], blocks: list[int]) -> None:
    assert list(blocks_of(extents, SIZE)) == blocks
