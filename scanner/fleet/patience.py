"""Waiting for a database that is away: a scan that is half done is worth more than an error, and a log more than a thousand equal lines."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final, TypeVar

from core.errors import Unavailable

_T = TypeVar("_T")
_PAUSE_SECONDS: Final = 0.5
_FIRST_SECONDS: Final = 30.0
_LONGEST_SECONDS: Final = 3600.0
_MOST_KINDS: Final = 10
_NUMBERS: Final = re.compile(r"[0-9]+")


def lasting(call: Callable[[], _T]) -> _T:
    """The result of `call`, made again until the database is there. A worker whose lease ends meanwhile is ended by its fence."""
    while True:
        try:
            return call()
        except Unavailable:
            time.sleep(_PAUSE_SECONDS)


class Outage:
    """Tells of a database that is away: what is new at once, and then that it still is, after 30 s, a minute, two, … an hour."""

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._kinds: set[str] = set()
        self._pause_seconds = _FIRST_SECONDS
        self._again = 0.0

    def problem(self, error: Unavailable) -> None:
        now = self._clock()
        kind = _NUMBERS.sub("", str(error))
        if kind not in self._kinds and len(self._kinds) < _MOST_KINDS:
            self._pause_seconds = self._pause_seconds if self._kinds else _FIRST_SECONDS
            self._kinds.add(kind)
        elif now < self._again:
            return
        else:
            self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_SECONDS)
        self._again = now + self._pause_seconds
        self._say(str(error))

    def over(self) -> None:
        """It was there for a whole look."""
        if self._kinds:
            self._kinds.clear()
            self._say("the database is there again")
