"""Many blocks at once from something slow: a bounded set of threads between a cloud and a `BlockStore`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Final, NamedTuple

from cloud.pace import Cancelled
from cloud.store import BLOCK_BYTES, BlockStore, Key, Place
from core.blocks import Bytes, Extent
from core.errors import Corrupt, Error, LimitExceeded, Unreadable

READ_LIMIT: Final = 1 << 30  # bytes of one `read`
_MOST_HINTS: Final = 1024
_MOST_FAILURES: Final = 10_000  # that are remembered
_END_SECONDS: Final = 5.0


class Zeros(NamedTuple):
    """There is nothing but zeros in this block and all others before `until`."""

    until: int


Fetched = Place | Zeros | Error
Done = Callable[[Fetched], None]
FetchBlock = Callable[[int], "Bytes | Zeros"]


@dataclass(slots=True)
class _Task:
    wanted: bool  # somebody waits for it
    waiting: list[Done] = field(default_factory=list)
    begun: bool = False


class Fetcher:
    """The blocks of one disk of `size` bytes, each fetched once at a time, kept in `store`, read by many.

    `fetch` gets the number of a block and returns its bytes (all of it, but for the last block) or `Zeros`; it raises
    `core.errors.Error`. What failed is not tried again: whoever asks gets the same error. At most `threads` fetches run
    at once; what somebody waits for goes before hints. `most_fetches` bounds what a reader may cost.
    """

    def __init__(
        self,
        fetch: FetchBlock,
        *,
        size: int,
        store: BlockStore,
        threads: int = 32,
        most_fetches: int | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.size = size
        self.blocks = -(-size // BLOCK_BYTES)
        self.store = store
        self.disk = store.disk()
        self.threads = threads
        self.fetched = 0  # blocks that were fetched, zeros not counted
        self._fetch = fetch
        self._most = 16 * self.blocks + 10_000 if most_fetches is None else most_fetches
        self._stop = stop or threading.Event()
        self._work = threading.Condition()
        self._tasks: dict[int, _Task] = {}
        self._wanted: deque[int] = deque()
        self._hints: deque[int] = deque()
        self._failed: dict[int, Error] = {}
        self._threads: list[threading.Thread] = []
        self._idle = 0

    def request(self, block: int, done: Done) -> None:
        """Call `done` once, from any thread, this one included: a `Place` is pinned then (`release` it), an `Error` final."""
        with self._work:
            known = self._known(block)
            if known is None:
                task = self._tasks.get(block)
                if task is None:
                    task = self._tasks[block] = _Task(wanted=True)
                    self._begin(self._wanted, block)
                elif not task.wanted:
                    task.wanted = True
                    if not task.begun:
                        self._begin(self._wanted, block)  # its place among the hints is skipped later
                task.waiting.append(done)
        if known is not None:
            done(known)

    def release(self, block: int) -> None:
        self.store.unpin(Key(self.disk, block))

    def touch(self, block: int) -> None:
        """It was read just now."""
        self.store.touch(Key(self.disk, block))

    def hint(self, blocks: Iterable[int]) -> None:
        """These are wanted soon. More than can be kept are not taken."""
        with self._work:
            for block in blocks:
                if len(self._hints) >= min(_MOST_HINTS, self.store.slots // 2) or self._stop.is_set():
                    return
                if block in self._tasks or block in self._failed or not 0 <= block < self.blocks:
                    continue
                if not self.store.touch(Key(self.disk, block)):
                    self._tasks[block] = _Task(wanted=False)
                    self._begin(self._hints, block)

    def forget_hints(self) -> None:
        """Nobody is interested any more in what is not under way."""
        with self._work:
            while self._hints:
                task = self._tasks.get(block := self._hints.popleft())
                if task is not None and not task.wanted and not task.begun:
                    del self._tasks[block]

    def prefetch(self, extents: Sequence[Extent]) -> None:
        """The same in bytes."""
        self.hint(blocks_of(extents, self.size))

    def read(self, offset: int, length: int) -> bytes:
        """See `core.blocks.BlockSource`; fetches ahead what is wanted. Raises what `fetch` raises, `LimitExceeded` over 1 GiB."""
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        length = min(length, max(0, self.size - offset))
        if not length:
            return b""
        if length > READ_LIMIT:
            raise LimitExceeded(f"one read of {length} bytes; the limit is {READ_LIMIT}")
        first, last = offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES
        ahead = max(1, min(2 * self.threads, self.store.slots // 4))
        pieces = []
        for block in range(first, last + 1):
            if (block - first) % ahead == 0 and block < last:  # the first of these is asked for at once
                self.hint(range(block + 1, min(block + 2 * ahead, last + 1)))
            start = offset - block * BLOCK_BYTES if block == first else 0
            stop = min(BLOCK_BYTES, offset + length - block * BLOCK_BYTES)
            pieces.append(self._piece(block, start, stop - start))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _piece(self, block: int, start: int, length: int) -> bytes:
        answers: SimpleQueue[Fetched] = SimpleQueue()
        self.request(block, answers.put)
        found = answers.get()
        if isinstance(found, Zeros):
            return bytes(length)
        if isinstance(found, Error):
            raise found.with_traceback(None)
        try:
            data = self.store.copy(found, start, length)
        finally:
            self.release(block)
        if data is None or len(data) != length:
            raise Unreadable(f"block {block} was lost from the block store")
        return data

    # threads

    def _known(self, block: int) -> Fetched | None:
        if not 0 <= block < self.blocks:
            return Unreadable(f"there is no block {block}")
        if self._stop.is_set():
            return Unreadable("the disk was closed")
        if block in self._failed:
            return self._failed[block]
        return self.store.pin(Key(self.disk, block))

    def _begin(self, queue: deque[int], block: int) -> None:
        queue.append(block)
        if not self._idle and len(self._threads) < self.threads:
            thread = threading.Thread(target=self._serve, name="fetch", daemon=True)
            self._threads.append(thread)
            thread.start()
        else:
            self._work.notify()

    def _serve(self) -> None:
        while (block := self._next()) is not None:
            self._finish(block, self._result(block))

    def _next(self) -> int | None:
        with self._work:
            while not self._stop.is_set():
                for queue in (self._wanted, self._hints):
                    while queue:
                        task = self._tasks.get(block := queue.popleft())
                        if task is not None and not task.begun:
                            task.begun = True
                            return block
                self._idle += 1
                self._work.wait()
                self._idle -= 1
        return None

    def _result(self, block: int) -> Fetched:
        try:
            found = self._fetched(block)
            return found if isinstance(found, Zeros) else self.store.put(Key(self.disk, block), found)
        except Cancelled:
            return Unreadable("the disk was closed")
        except Error as error:
            return error
        except Exception as error:  # noqa: BLE001  whoever waits must hear of it, whatever it is
            return Unreadable(f"block {block} could not be fetched: {error!r}"[:500])

    def _fetched(self, block: int) -> Bytes | Zeros:
        if self.fetched >= self._most:
            raise LimitExceeded(f"{self.fetched} blocks were fetched of a disk of {self.blocks}; no more are")
        found = self._fetch(block)
        if isinstance(found, Zeros):
            return found
        if len(found) != min(BLOCK_BYTES, self.size - block * BLOCK_BYTES):
            raise Corrupt(f"block {block} came with {len(found)} bytes")
        with self._work:
            self.fetched += 1
        return found

    def _finish(self, block: int, found: Fetched) -> None:
        with self._work:
            task = self._tasks.pop(block)
            if isinstance(found, Error) and len(self._failed) < _MOST_FAILURES and not self._stop.is_set():
                self._failed[block] = found
            if isinstance(found, Place):
                key = Key(self.disk, block)
                for _ in task.waiting:
                    self.store.pin(key)
                self.store.unpin(key)
        for done in task.waiting:
            done(found)

    def close(self) -> None:
        """Threads end as soon as `fetch` lets them; whoever waits is told. The store stays open."""
        self._stop.set()
        with self._work:
            left = [task for task in self._tasks.values() if not task.begun]
            self._tasks = {block: task for block, task in self._tasks.items() if task.begun}
            self._wanted.clear()
            self._hints.clear()
            self._work.notify_all()
        for task in left:
            for done in task.waiting:
                done(Unreadable("the disk was closed"))
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.store.forget(self.disk)


def blocks_of(extents: Sequence[Extent], size: int) -> Iterator[int]:
    """The blocks that hold these bytes of a disk, in that order, neighbours that are the same once."""
    before = -1
    for one in extents:
        end = min(one.offset + one.length, size)
        if one.offset < 0 or end <= one.offset:
            continue
        for block in range(one.offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1):
            if block != before:
                yield block
            before = block
