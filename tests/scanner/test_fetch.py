"""Both sides of the seam in one process, and hostile words where a parser's are expected."""

from __future__ import annotations

import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.fetcher import Fetcher, Zeros
from cloud.store import BLOCK_BYTES, BlockStore
from core.blocks import Bytes, Extent, Slice, prefetch
from core.errors import AccessDenied, ConfigError, Corrupt, Gone, LimitExceeded, Unreadable
from scanner.disks import RemoteDisk
from scanner.fetch import Answering, Fetching
from scanner.remote import ANSWER, HERE, MAX_HINTS, NONE, QUESTION, QUESTION_BYTES, Channels, RemotePart, RemoteSource
from scanner.shared import Blocks

SIZE = 60 * BLOCK_BYTES + 12345
CONTENT = b"".join(
    random.Random(number).randbytes(BLOCK_BYTES) if number % 4 else bytes(BLOCK_BYTES) for number in range(61)
)[:SIZE]


class Source:
    """A disk that fetches by itself, as a snapshot does; `fail` says what goes wrong with a block."""

    def __init__(self, slots: int = 12, threads: int = 3) -> None:
        self.size = SIZE
        self.fail: dict[int, Exception] = {}
        self.got: list[int] = []
        self.seconds = 0.0
        self.store = BlockStore(slots * BLOCK_BYTES)
        self.blocks = Fetcher(self.fetch, size=SIZE, store=self.store, threads=threads)

    def fetch(self, block: int) -> Bytes | Zeros:
        self.got.append(block)
        time.sleep(self.seconds)
        if block in self.fail:
            raise self.fail[block]
        if not block % 4:
            return Zeros(block + 1)
        return CONTENT[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]

    def read(self, offset: int, length: int) -> bytes:
        return self.blocks.read(offset, length)

    def close(self) -> None:
        self.blocks.close()
        self.store.close()


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source()
    yield made
    made.close()


@contextmanager
def seam(source: Source, askers: int = 3) -> Iterator[tuple[list[RemoteSource], Channels, Answering]]:
    """A `RemoteSource` for the parser, as it would make it of what it is told."""
    with Fetching([RemoteDisk("disk", source)], askers) as fetching, fetching.parser() as (given_, answering):
        sockets = [socket.socket(fileno=os.dup(fd)) for fd in given_.told["sockets"]]
        answering.passed_on()
        channels = Channels(sockets)
        try:
            yield [RemoteSource(RemotePart(**one), channels) for one in given_.told["disks"]], channels, answering
        finally:
            for one in sockets:
                one.close()


def test_it_reads_as_a_file_would(source: Source) -> None:
    with seam(source) as ((remote,), _, _answering):
        assert remote.size == SIZE

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(
            st.integers(0, SIZE + 10),
            st.sampled_from([0, 1, 512, 4096, BLOCK_BYTES, 3 * BLOCK_BYTES + 1]),
            st.booleans(),
        )
        def read(offset: int, length: int, hinted: bool) -> None:
            if hinted:
                remote.prefetch([Extent(offset, length), Extent(SIZE - offset - 1, 5)])
            assert remote.read(offset, length) == CONTENT[offset : offset + length]

        read()
        assert remote.read(0, SIZE * 2) == CONTENT
        for offset, length in ((-1, 1), (0, -1)):
            with pytest.raises(ValueError):
                remote.read(offset, length)


def test_a_long_read_is_bounded(source: Source) -> None:
    with seam(source) as ((remote,), _, _answering):
        remote.size = 1 << 40
        with pytest.raises(LimitExceeded):
            remote.read(0, (1 << 30) + 1)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(
            AccessDenied("snap: ebs:GetSnapshotBlock is denied", permission="ebs:GetSnapshotBlock"), id="denied"
        ),
        pytest.param(Corrupt("its checksum is wrong"), id="corrupt"),
        pytest.param(Gone("it is not there any more"), id="gone"),
        pytest.param(Unreadable("too late"), id="unreadable"),
        pytest.param(RuntimeError("a bug\n\x1b[31m" + "x" * 5000), id="bug"),
    ],
)
def test_a_block_that_cannot_be_had_says_why(source: Source, error: Exception) -> None:
    source.fail[5] = error
    with seam(source) as ((remote,), _, _answering):
        for _ in range(2):
            with pytest.raises(Unreadable) as caught:
                remote.read(4 * BLOCK_BYTES, 3 * BLOCK_BYTES)
            assert str(error)[:5] in str(caught.value)
            assert str(caught.value).isprintable()
        assert remote.read(6 * BLOCK_BYTES, 9) == CONTENT[6 * BLOCK_BYTES :][:9]
        assert source.got.count(5) == 1


def test_hints_are_fetched_ahead_and_nothing_else(source: Source) -> None:
    source.seconds = 0.01
    with seam(source) as ((remote,), _, _answering):
        whole = Blocks(SIZE).watch(Slice(remote, 0, SIZE))
        prefetch(Slice(whole, BLOCK_BYTES, 30 * BLOCK_BYTES), [Extent(0, 9 * BLOCK_BYTES), Extent(31 * BLOCK_BYTES, 7)])
        for block in range(1, 10):
            whole.read(block * BLOCK_BYTES, 100)
        assert set(source.got) == set(range(1, 10))
        written = [block for block in source.got if block % 4]
        assert len(written) == len(set(written)), "none twice"
        prefetch(whole, [])
        prefetch(Slice(whole, 0, 10), [Extent(-5, 3)])


def test_one_block_after_the_other_is_read_ahead(source: Source) -> None:
    """As tables of metadata are; who jumps gets nothing that was not asked for."""
    with seam(source) as ((remote,), _, _answering):
        for block in (40, 10, 30, 20, 50):
            remote.read(block * BLOCK_BYTES, 8)
        assert sorted(source.got) == [10, 20, 30, 40, 50]
        for block in (1, 2, 3):
            remote.read(block * BLOCK_BYTES, 8)
        deadline = time.monotonic() + 10
        while 5 not in source.got and time.monotonic() < deadline:
            time.sleep(0.002)
        assert 5 in source.got
        assert not {8, 9} & set(source.got)


def test_blocks_that_are_read_stay(source: Source) -> None:
    """What a parser comes back to is not given up for what it reads once."""
    with seam(source) as ((remote,), _, _answering):
        for block in range(2, 60):
            remote.read(BLOCK_BYTES, 16)
            if block % 4:
                remote.read(block * BLOCK_BYTES, 16)
        assert source.got.count(1) <= 3


def test_the_table_decides(source: Source) -> None:
    """A block that had to make room is asked for again; nothing of another is ever taken for it."""
    with seam(source) as ((remote,), channels, _):
        first = remote.read(BLOCK_BYTES, 64)
        channels.use(0)
        for block in range(5, 60):
            remote.read(block * BLOCK_BYTES, 8)
        channels.use(2)
        remote._known[1] = (0, 12345)
        assert remote.read(BLOCK_BYTES, 64) == first


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_many_processes_and_a_tiny_store() -> None:
    """Forked readers, more blocks than fit many times over: every byte is right."""
    source = Source(slots=10, threads=3)
    try:
        with seam(source, askers=4) as ((remote,), channels, answering):
            children = []
            for worker in range(3):
                pid = os.fork()
                if not pid:
                    status = 1
                    try:
                        channels.use(worker)
                        chosen = random.Random(worker)
                        for _ in range(300):
                            offset = chosen.randrange(SIZE)
                            length = chosen.choice((1, 100, 5000, BLOCK_BYTES + 5))
                            if chosen.random() < 0.3:
                                remote.prefetch([Extent(chosen.randrange(SIZE), 3 * BLOCK_BYTES)])
                            assert remote.read(offset, length) == CONTENT[offset : offset + length]
                        status = 0
                    finally:
                        os._exit(status)
                children.append(pid)
            for pid in children:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert not answering.broken
            assert remote.read(0, SIZE) == CONTENT
        assert not any(entry.pins for entry in source.store._entries.values())
    finally:
        source.close()


def test_a_worker_in_the_place_of_a_dead_one(source: Source) -> None:
    """Answers that were meant for the dead one are not taken by the other."""
    source.seconds = 0.05
    with seam(source) as ((remote,), channels, _):
        channels.use(0)
        for number in (1, 2, 3):
            channels._sockets[0].send(QUESTION.pack(number, 0, 0, 0, number))
        assert remote.read(9 * BLOCK_BYTES, 64) == CONTENT[9 * BLOCK_BYTES :][:64]


def test_when_the_fetcher_is_gone_nothing_hangs(source: Source) -> None:
    with Fetching([RemoteDisk("disk", source)], 2) as fetching:
        with fetching.parser() as (given_, answering):
            sockets = [socket.socket(fileno=os.dup(fd)) for fd in given_.told["sockets"]]
            answering.passed_on()
            remote = RemoteSource(RemotePart(**given_.told["disks"][0]), Channels(sockets))
            remote.read(BLOCK_BYTES, 5)
        with pytest.raises(Unreadable, match="gone"):
            remote.read(2 * BLOCK_BYTES, 5)
        assert remote.read(BLOCK_BYTES, 5) == CONTENT[BLOCK_BYTES:][:5], "what is there can still be read"
        for one in sockets:
            one.close()


def test_a_closed_disk_says_so(source: Source) -> None:
    with seam(source) as ((remote,), _, _answering):
        source.seconds = 0.2
        timer = threading.Timer(0.05, source.blocks.close)
        timer.start()
        with pytest.raises(Unreadable):
            remote.read(BLOCK_BYTES, 20 * BLOCK_BYTES)
        timer.join()


def question(
    number: int = 1, disk: int = 0, block: int = NONE, hints: tuple[int, ...] = (), used: tuple[int, ...] = ()
) -> bytes:
    numbers = (*hints, *used)
    return QUESTION.pack(number, disk, len(hints), len(used), block) + struct.pack(f"<{len(numbers)}Q", *numbers)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"x", id="short"),
        pytest.param(b"x" * (QUESTION_BYTES + 1), id="long"),
        pytest.param(b"x" * 100_000, id="very-long"),
        pytest.param(question(disk=1, block=0), id="another-disk"),
        pytest.param(question(disk=0xFFFF, block=0), id="no-disk"),
        pytest.param(question(block=61), id="behind-the-end"),
        pytest.param(question(block=NONE - 1), id="far-behind-the-end"),
        pytest.param(question(hints=(61,)), id="hint-behind-the-end"),
        pytest.param(question(used=(1 << 63,)), id="use-behind-the-end"),
        pytest.param(question(hints=(1, 2))[:-1], id="cut"),
        pytest.param(question() + b"more", id="too-much"),
        pytest.param(QUESTION.pack(1, 0, 0xFFFF, 0xFFFF, 0), id="many-announced"),
        pytest.param(question(hints=tuple([1] * (MAX_HINTS + 1))), id="too-many-hints"),
    ],
)
def test_words_that_are_no_question(source: Source, words: bytes) -> None:
    with seam(source) as (_, channels, answering):
        channels._sockets[1].send(words)
        deadline = time.monotonic() + 10
        while not answering.broken and time.monotonic() < deadline:
            time.sleep(0.002)
        assert "question" in answering.broken
        assert channels._sockets[1].recv(100) == b"", "it gets no answer any more"
        assert not source.got


def test_too_many_questions_at_once(source: Source) -> None:
    source.seconds = 0.3
    with seam(source) as (_, channels, answering):
        connection = channels._sockets[0]
        try:
            for number in range(200):
                connection.send(question(number, block=1 + number % 3))
        except OSError:
            pass  # hung up on
        deadline = time.monotonic() + 10
        while not answering.broken and time.monotonic() < deadline:
            time.sleep(0.002)
        assert "too many" in answering.broken


def test_who_never_listens_holds_nobody_up(source: Source) -> None:
    with seam(source) as ((remote,), channels, answering):
        connection = channels._sockets[0]
        connection.setblocking(False)
        try:
            for number in range(3000):
                connection.send(question(number, block=1))
                while not number % 4 and len(source.blocks._tasks):
                    time.sleep(0.001)
        except OSError:
            pass
        assert remote.read(2 * BLOCK_BYTES, 5) == CONTENT[2 * BLOCK_BYTES :][:5]
        assert answering.broken in {"", "too many questions for blocks at once"}


def test_an_answer_keeps_its_block_until_the_next_question(source: Source) -> None:
    with seam(source) as ((remote,), channels, _):
        connection = channels._sockets[0]
        connection.send(question(7, block=1))
        number, state, slot, generation = ANSWER.unpack_from(connection.recv(2000))
        assert (number, state) == (7, HERE)
        for block in range(2, 60):
            remote.read(block * BLOCK_BYTES, 1)
        assert remote._table[slot] == generation
        connection.send(question(8, hints=(3,)))
        for block in range(2, 60):
            remote.read(block * BLOCK_BYTES, 1)
        assert remote._table[slot] != generation


def test_a_store_too_small_for_its_readers(source: Source) -> None:
    with pytest.raises(ConfigError, match="fewer"):
        Fetching([RemoteDisk("disk", source)], 40)


def test_any_source_will_do() -> None:
    class Plain:
        size = SIZE

        def read(self, offset: int, length: int) -> Bytes:
            return memoryview(CONTENT)[offset : offset + length]

    before = threading.active_count()
    with seam(Plain(), askers=2) as ((remote,), _, _answering):  # type: ignore[arg-type]
        assert remote.read(100, SIZE) == CONTENT[100:]
    assert threading.active_count() == before


def test_descriptors_are_given_back(source: Source) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with seam(source) as ((remote,), _, _answering):
            remote.read(BLOCK_BYTES, 1)
    del remote
    sys.exc_info()
    assert len(os.listdir("/proc/self/fd")) <= before
