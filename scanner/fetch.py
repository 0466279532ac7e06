"""The parent's side of a disk that only it can fetch: blocks for parsers, which are not believed. See `scanner.remote`."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Final, Self

from cloud.fetcher import Fetched, Fetcher, Zeros
from cloud.store import BLOCK_BYTES, STORE_BYTES, BlockStore, Place
from core.blocks import BlockSource
from core.errors import ConfigError
from core.text import printable
from scanner.disks import Disk, RemoteDisk
from scanner.remote import (
    ANSWER,
    FAILED,
    HERE,
    MAX_HINTS,
    MAX_TEXT_BYTES,
    NONE,
    QUESTION,
    QUESTION_BYTES,
    ZEROS,
    RemotePart,
)
from scanner.wire import Message

_MOST_WAITING: Final = 4  # questions of one socket: one, and those of workers that died while they waited
_THREADS: Final = 16  # for a source that does not fetch by itself


@dataclass(frozen=True)
class Given:
    """What a parser gets: descriptors to pass on, and what to tell it of them."""

    fds: Sequence[int]
    told: Message


@dataclass(eq=False)
class _Channel:
    connection: socket.socket
    lock: threading.Lock = field(default_factory=threading.Lock)
    pins: list[tuple[Fetcher, int]] = field(default_factory=list)
    waiting: int = 0
    closed: bool = False


class Fetching:
    """The remote disks of one machine while it is scanned, for one parser after the other, of `askers` processes each.

    A source that has a `cloud.fetcher.Fetcher` as `blocks` shares its store; any other is read by threads of ours.
    Raises `ConfigError` if a store is too small for so many processes.
    """

    def __init__(self, disks: Sequence[Disk | RemoteDisk], askers: int) -> None:
        self._askers = askers
        self._stack = ExitStack()
        self._fetchers: dict[int, Fetcher] = {}
        own: BlockStore | None = None
        for number, disk in enumerate(disks):
            if isinstance(disk, RemoteDisk):
                shared = getattr(disk.source, "blocks", None)
                if not isinstance(shared, Fetcher):
                    own = own or self._stack.enter_context(BlockStore(max(STORE_BYTES, 4 * askers * BLOCK_BYTES)))
                    shared = _fetcher(disk.source, own)
                    self._stack.callback(shared.close)
                least = 2 * askers + 2
                if shared.store.slots < least:
                    self._stack.close()
                    raise ConfigError(
                        f"the block store has room for {shared.store.slots} blocks; {askers - 1} workers need {least}: "
                        "give it more or use fewer"
                    )
                self._fetchers[number] = shared

    @contextmanager
    def parser(self) -> Iterator[tuple[Given, Answering]]:
        """What one parser gets; close `Given.fds` that are sockets by leaving. Questions are answered until then."""
        with ExitStack() as stack:
            ours, theirs = [], []
            for _ in range(self._askers):
                our, their = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.append(stack.enter_context(our))
                theirs.append(stack.enter_context(their))
            parts = [
                RemotePart(
                    number,
                    one.size,
                    one.store.data_fd,
                    one.store.table_fd,
                    one.store.slots,
                    max(2, min(MAX_HINTS, one.store.slots // (2 * self._askers))),
                )
                for number, one in self._fetchers.items()
            ]
            sockets = [one.fileno() for one in theirs]
            shared = {fd for part in parts for fd in (part.data, part.table)}
            told: Message = {"sockets": sockets, "disks": [asdict(part) for part in parts]}
            answering = stack.enter_context(Answering(ours, theirs, self._fetchers))
            yield Given([*sockets, *sorted(shared)], told), answering

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fetcher(source: BlockSource, store: BlockStore) -> Fetcher:
    def fetch(block: int) -> bytes:
        return bytes(source.read(block * BLOCK_BYTES, BLOCK_BYTES))

    return Fetcher(fetch, size=source.size, store=store, threads=_THREADS)


class Answering:
    """A thread that answers one parser. `broken` says how it broke the protocol; then it gets no answer any more."""

    def __init__(
        self, ours: Sequence[socket.socket], theirs: Sequence[socket.socket], fetchers: Mapping[int, Fetcher]
    ) -> None:
        self.broken = ""
        self._theirs = theirs
        self._fetchers = fetchers
        self._channels = [_Channel(one) for one in ours]
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="blocks", daemon=True)

    def __enter__(self) -> Self:
        for channel in self._channels:
            channel.connection.setblocking(False)
        self._thread.start()
        return self

    def passed_on(self) -> None:
        """The parser has its ends now: ours of them are closed, so that its end is seen."""
        for one in self._theirs:
            one.close()

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join()
        self._woken.close()
        for fetcher in self._fetchers.values():
            fetcher.forget_hints()

    def _serve(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._woken, selectors.EVENT_READ)
                for channel in self._channels:
                    selector.register(channel.connection, selectors.EVENT_READ, channel)
                while True:
                    for key, _ in selector.select():
                        if key.data is None:
                            return
                        if not self._hear(key.data):
                            selector.unregister(key.fileobj)
                            self._close(key.data)
        finally:
            for channel in self._channels:
                self._close(channel)

    def _hear(self, channel: _Channel) -> bool:
        """One message; False if there will be no more."""
        try:
            raw, _, flags, _ = channel.connection.recvmsg(QUESTION_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not raw:
            return False
        if flags & socket.MSG_TRUNC or len(raw) < QUESTION.size:
            return self._break("a question for blocks that is none")
        number, disk, hints, used, block = QUESTION.unpack_from(raw)
        fetcher = self._fetchers.get(disk)
        if fetcher is None or max(hints, used) > MAX_HINTS or len(raw) != QUESTION.size + 8 * (hints + used):
            return self._break("a question for blocks that is none")
        blocks = struct.unpack_from(f"<{hints + used}Q", raw, QUESTION.size)
        if any(one >= fetcher.blocks for one in blocks) or (block != NONE and block >= fetcher.blocks):
            return self._break("a question for blocks that the disk does not have")
        self._release(channel)
        for one in blocks[hints:]:
            fetcher.touch(one)
        if block != NONE:
            with channel.lock:
                channel.waiting += 1
                if channel.waiting > _MOST_WAITING:
                    return self._break("too many questions for blocks at once")
            fetcher.request(block, lambda found: self._answer(channel, fetcher, number, block, found))
        fetcher.hint(blocks[:hints])
        return True

    def _break(self, how: str) -> bool:
        self.broken = how
        return False

    def _answer(self, channel: _Channel, fetcher: Fetcher, number: int, block: int, found: Fetched) -> None:
        """Called from any thread."""
        text = b""
        match found:
            case Place(slot, generation):
                said = ANSWER.pack(number, HERE, slot, generation)
            case Zeros(until):
                said = ANSWER.pack(number, ZEROS, 0, min(until, fetcher.blocks))
            case error:
                said = ANSWER.pack(number, FAILED, 0, 0)
                text = printable(str(error)).encode("utf-8", "replace")[:MAX_TEXT_BYTES]
        with channel.lock:
            channel.waiting -= 1
            if not channel.closed:
                if isinstance(found, Place):
                    channel.pins.append((fetcher, block))
                try:
                    channel.connection.send(said + text)
                except OSError:
                    pass  # it is gone, or asked and asked and never listened
                return
        if isinstance(found, Place):
            fetcher.release(block)

    @staticmethod
    def _release(channel: _Channel) -> None:
        with channel.lock:
            pins, channel.pins = channel.pins, []
        for fetcher, block in pins:
            fetcher.release(block)

    def _close(self, channel: _Channel) -> None:
        with channel.lock:
            channel.closed = True
            channel.connection.close()
        self._release(channel)
