"""Worker processes of a parser: forked after the metadata is read, so that they share it, and replaced when one dies.

An answer covers whole inodes: a batch has one, or several if there is much to say. A worker that crashes, hangs or runs out of memory names the inode it
was at in shared memory: that inode becomes a gap, the rest of its batch is done again. So nothing is lost or told twice.
"""

from __future__ import annotations

import gc
import mmap
import os
import select
import signal
import struct
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from core.findings import GapReason
from scanner.guards import die_with_parent
from scanner.wire import FrameReader, WireError, frame

MAX_DEATHS: Final = 200
_SLOT: Final = struct.Struct("<QQQ")  # inode at work, names done, bytes done
_COMMAND: Final = struct.Struct("<QQ")
_REARM_SECONDS: Final = 0.2  # a file may have this much less than its time
_COLLECT_EVERY: Final = 50_000  # allocations: what a worker makes is freed without the collector, but for errors
_MOST_INODES: Final = 8192  # of one batch
_AHEAD: Final = 64  # finished batches that may wait for a slower one before them


class Board:
    """Shared memory in which each worker says where it is. Made before the guards: they refuse new shared memory."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, max(1, workers) * _SLOT.size)

    def write(self, worker: int, at: int, files: int, size: int) -> None:
        _SLOT.pack_into(self._memory, worker * _SLOT.size, at, files, size)

    def read(self, worker: int) -> tuple[int, int, int]:
        at, files, size = _SLOT.unpack_from(self._memory, worker * _SLOT.size)
        return at, files, size

    def totals(self) -> tuple[int, int]:
        """(names, bytes) done by all workers."""
        slots = list(_SLOT.iter_unpack(self._memory))
        return sum(slot[1] for slot in slots), sum(slot[2] for slot in slots)


class Position:
    """A worker's pen on the board: call `enter` before each look at an inode, `done` after the last, `rest` between batches.

    `enter` also winds up the alarm by which the kernel ends a worker that hangs; no code of ours is needed for that.
    """

    def __init__(self, board: Board, worker: int, seconds: float) -> None:
        self._board = board
        self.worker = worker
        self._seconds = seconds
        self._armed = 0.0
        self._at, self._files, self._bytes = board.read(worker)

    def enter(self, at: int) -> None:
        self._at = at
        self._board.write(self.worker, at, self._files, self._bytes)
        now = time.monotonic()
        if now - self._armed > _REARM_SECONDS:  # asking the time costs a tenth of setting the alarm
            self._armed = now
            signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def done(self, files: int, size: int) -> None:
        self._files += files
        self._bytes += size

    def rest(self) -> None:
        """What follows (a wait for another process) is not the fault of a file."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._armed = 0.0
        self._board.write(self.worker, self._at, self._files, self._bytes)


@dataclass(slots=True)
class Piece:
    """What is said of the inodes before `after` (from the last piece on): JSON, verdicts and rows of a manifest."""

    after: int
    body: bytes


Work = Callable[[int, int, Position], Iterator[Piece]]  # of the inodes from the first number up to the second
Answer = dict[str, list[bytes]]
_PARTS: Final = struct.Struct("<II")


def piece(after: int, told: Answer, verdicts: bytes = b"", rows: bytes = b"") -> Piece:
    """`told` holds JSON values by their kind."""
    lists = (b'"%s":[%s]' % (kind.encode("ascii"), b",".join(values)) for kind, values in told.items())
    said = b"{%s}" % b",".join(lists)
    return Piece(after, _PARTS.pack(len(said), len(verdicts)) + said + verdicts + rows)


def parts(body: bytes) -> tuple[bytes, bytes, bytes]:
    """(JSON, verdicts, rows) of what `piece` put together. Raises `WireError`."""
    if len(body) < _PARTS.size:
        raise WireError("an answer that is cut short")
    said, verdicts = _PARTS.unpack_from(body)
    begin = _PARTS.size
    if begin + said + verdicts > len(body):
        raise WireError("an answer that is cut short")
    return body[begin : begin + said], body[begin + said : begin + said + verdicts], body[begin + said + verdicts :]


@dataclass(slots=True)
class Death:
    """A worker did not survive inode `at`."""

    at: int
    reason: GapReason
    detail: str


@dataclass(slots=True)
class _Worker:
    number: int
    pid: int
    commands: int
    results: int
    reader: FrameReader = field(default_factory=FrameReader)
    batch: tuple[int, int] | None = None


class Pool:
    """Runs `work` over the inodes 0 … `count` in `workers` processes, `batch` at a time, or up to each of `borders`.

    `run` yields, in the order of the inodes, their answers (see `piece`), and a `Death` where an
    inode could not be finished. `seconds` is how long one look at an inode may take. What `work` gives at once must stay well below `scanner.wire.MAX_FRAME_BYTES`. Raises `WireError` if a worker answers what it was not asked.
    """

    def __init__(
        self,
        work: Work,
        count: int,
        *,
        workers: int,
        batch: int,
        borders: Sequence[int] = (),
        board: Board,
        seconds: float,
        tick: Callable[[], None],
    ) -> None:
        self._work = work
        self._count = count
        self._size = batch
        self._borders = borders
        self._board = board
        self._seconds = seconds
        self._tick = tick
        self._workers: dict[int, _Worker] = {}
        self._wanted = max(1, min(workers, -(-count // batch)))
        self._again: list[tuple[int, int]] = []
        self._next = 0
        self._deaths = 0
        self.done = 0  # inodes answered, all before this one

    def run(self) -> Iterator[bytes | Death]:
        if not self._count:
            return
        gc.freeze()  # a collection in a worker would copy the shared pages
        ready: dict[int, tuple[int, bytes | Death]] = {}
        expected = 0
        try:
            for number in range(self._wanted):
                self._start(number)
            while expected < self._count:
                self._feed(expected, len(ready))
                for start, stop, answer in self._collect():
                    ready[start] = (stop, answer)
                while expected in ready:
                    stop, answer = ready.pop(expected)
                    yield answer
                    expected = self.done = stop
                self._tick()
            for worker in list(self._workers.values()):
                self._end(worker)
        finally:
            # only after an error are there any left: not waited for, as one that was taken over may never end
            for worker in self._workers.values():
                os.close(worker.commands)
                os.close(worker.results)
            self._workers.clear()
            gc.unfreeze()

    def _feed(self, expected: int, waiting: int) -> None:
        for worker in self._workers.values():
            if worker.batch is not None:
                continue
            if self._again:
                batch = min(self._again)
                self._again.remove(batch)
            elif self._next < self._count and (waiting < _AHEAD or self._next == expected):
                batch = (self._next, self._stop_of(self._next))
                self._next = batch[1]
            else:
                continue
            worker.batch = batch
            try:
                os.write(worker.commands, _COMMAND.pack(*batch))
            except BrokenPipeError:
                pass  # it died idle: its end is seen when its results are read

    def _stop_of(self, start: int) -> int:
        """Where the batch that begins at `start` ends: at the next border, if there are borders."""
        at = bisect_right(self._borders, start)
        if at < len(self._borders):
            return min(self._borders[at], start + _MOST_INODES, self._count)
        return min(start + self._size, self._count)

    def _collect(self) -> Iterator[tuple[int, int, bytes | Death]]:
        by_fd = {worker.results: worker for worker in self._workers.values()}
        readable, _, _ = select.select(list(by_fd), [], [], 0.2)
        if not readable:
            # one that was taken over may have left a fork behind, which holds its pipe open
            for worker in [worker for worker in self._workers.values() if _has_ended(worker.pid)]:
                yield from self._bury(worker)
        for fd in readable:
            worker = by_fd[fd]
            data = os.read(fd, 1 << 20)
            if not data:
                yield from self._bury(worker)
                continue
            worker.reader.feed(data)
            while (found := worker.reader.next()) is not None:
                yield self._accept(worker, found[1])

    def _accept(self, worker: _Worker, body: bytes) -> tuple[int, int, bytes]:
        """(first inode, the one after the last, answer). Raises `WireError`."""
        if worker.batch is None or len(body) < _COMMAND.size:
            raise WireError("a worker that speaks unasked")
        first, after = _COMMAND.unpack_from(body)
        begin, end = worker.batch
        if first != begin or not first < after <= end:
            raise WireError("a worker that answers what it was not asked")
        worker.batch = (after, end) if after < end else None
        return first, after, body[_COMMAND.size :]

    def _bury(self, worker: _Worker) -> Iterator[tuple[int, int, Death]]:
        """What a dead worker leaves: a gap for the inode it was at, the others of its batch to do again."""
        status = self._end(worker)
        self._deaths += 1
        if worker.batch is not None:
            start, stop = worker.batch
            at = min(max(self._board.read(worker.number)[0], start), stop - 1)
            if self._deaths > MAX_DEATHS:
                yield (
                    start,
                    stop,
                    Death(
                        at,
                        GapReason.LIMIT,
                        f"more than {MAX_DEATHS} worker processes died; inodes {start} to {stop - 1} were left out",
                    ),
                )
            else:
                self._again += [part for part in ((start, at), (at + 1, stop)) if part[0] < part[1]]
                yield at, at + 1, Death(at, *_cause(status, self._seconds))
        self._start(worker.number)

    def _start(self, number: int) -> None:
        command_out, command_in = os.pipe()
        result_out, result_in = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            for other in self._workers.values():
                os.close(other.commands)
                os.close(other.results)
            os.close(command_in)
            os.close(result_out)
            die_with_parent(parent)
            self._serve(number, command_out, result_in)
        os.close(command_out)
        os.close(result_in)
        self._workers[number] = _Worker(number, pid, command_in, result_out)

    def _end(self, worker: _Worker) -> int:
        """Close its pipes, upon which an idle worker ends, and wait for it; its alarm bounds the wait of a busy one."""
        del self._workers[worker.number]
        os.close(worker.commands)
        os.close(worker.results)
        return os.waitpid(worker.pid, 0)[1]

    def _serve(self, number: int, commands: int, results: int) -> NoReturn:
        """The life of a worker. Leaves by `os._exit`, so that nothing of the parser's runs twice."""
        status = 1
        try:
            gc.set_threshold(_COLLECT_EVERY, 20, 20)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            position = Position(self._board, number, self._seconds)
            while len(command := os.read(commands, _COMMAND.size)) == _COMMAND.size:
                start, stop = _COMMAND.unpack(command)
                for answer in self._answers(start, stop, position):
                    _write_all(results, frame(b"J", answer))
            status = 0
        except MemoryError:
            status = 3
        except BrokenPipeError:
            status = 0
        finally:
            os._exit(status)

    def _answers(self, start: int, stop: int, position: Position) -> Iterator[bytes]:
        """All answers of a batch: the inodes that each covers, and what is said of them."""
        first = start
        for answer in self._work(start, stop, position):
            position.rest()  # to wait for the reader of the pipe is not this file's fault
            yield _COMMAND.pack(first, answer.after) + answer.body
            first = answer.after
        position.enter(stop)
        position.rest()


def _cause(status: int, seconds: float) -> tuple[GapReason, str]:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            return GapReason.TIMEOUT, f"not finished after {seconds:g} s"
        if number == signal.SIGKILL:
            return GapReason.OUT_OF_MEMORY, "its process was killed, most likely by the system for lack of memory"
        if number == signal.SIGBUS:
            return GapReason.UNREADABLE, "the disk could not be read here (SIGBUS)"
        if number == signal.SIGXCPU:
            return GapReason.TIMEOUT, "its process used up its processor time"
        return GapReason.CRASHED, f"its process crashed with signal {number}"
    if os.waitstatus_to_exitcode(status) == 3:
        return GapReason.OUT_OF_MEMORY, "its process reached its memory limit"
    return GapReason.CRASHED, f"its process ended with status {os.waitstatus_to_exitcode(status)}"


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
