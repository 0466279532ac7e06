"""Dry runs look at the whole estate: few at once, and one for each token, so that none of them starves the console."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from console.problems import Refused

MOST: Final = 2  # each is a survey of all instances, in a thread of those that serve every other request
AGAIN_SECONDS: Final = 5


class Surveys:
    """Those that run now."""

    def __init__(self, most: int = MOST) -> None:
        self._lock: Final = threading.Lock()
        self._running: Final[set[str]] = set()
        self._most: Final = most

    @contextmanager
    def one(self, who: str) -> Iterator[None]:
        """While it lasts, `who` (a token's name) has no other. Raises `Refused` (429), with when to come again."""
        with self._lock:
            full = "this token has one already" if who in self._running else "others have as many as may run"
            if who in self._running or len(self._running) >= self._most:
                headers = {"Retry-After": str(AGAIN_SECONDS)}
                raise Refused(429, f"too many dry runs at once: {full}; come again later", headers=headers)
            self._running.add(who)
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(who)
