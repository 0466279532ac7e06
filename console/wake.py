"""Who waits for something in this process is woken at once; what another console wrote is found by looking."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from typing import Final, Self


class Wake:
    """`ring` may be called from any thread; `wait` belongs to an event loop. A topic is `orders/FLEET`, `tasks/FLEET`, or `plan`."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._waiting: Final[defaultdict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]]] = defaultdict(set)
        self._closed = False

    @property
    def closed(self) -> bool:
        """The console is going down: nobody should wait any more."""
        return self._closed

    def ring(self, topic: str) -> None:
        with self._lock:
            waiting = list(self._waiting.get(topic, ()))
        for loop, bell in waiting:
            _set(loop, bell)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            topics = list(self._waiting)
        for topic in topics:
            self.ring(topic)

    def listen(self, topic: str) -> Bell:
        """Rings from here on are heard: listen first, then look, then wait."""
        return Bell(self, topic)

    def _add(self, topic: str, one: tuple[asyncio.AbstractEventLoop, asyncio.Event]) -> None:
        with self._lock:
            self._waiting[topic].add(one)

    def _remove(self, topic: str, one: tuple[asyncio.AbstractEventLoop, asyncio.Event]) -> None:
        with self._lock:
            self._waiting[topic].discard(one)
            if not self._waiting[topic]:
                del self._waiting[topic]


class Bell:
    """A context: `wait` returns when the topic was rung since the last time, or after `seconds`."""

    def __init__(self, wake: Wake, topic: str) -> None:
        self._wake = wake
        self._topic = topic
        self._one = (asyncio.get_running_loop(), asyncio.Event())

    def __enter__(self) -> Self:
        self._wake._add(self._topic, self._one)  # noqa: SLF001  its other half
        return self

    def __exit__(self, *_: object) -> None:
        self._wake._remove(self._topic, self._one)  # noqa: SLF001  its other half

    async def wait(self, seconds: float) -> None:
        if self._wake.closed:
            return
        event = self._one[1]
        try:
            await asyncio.wait_for(event.wait(), max(0.0, seconds))
        except TimeoutError:
            return
        event.clear()


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(event.set)
    except RuntimeError:  # the loop is closed: nobody waits there
        return
