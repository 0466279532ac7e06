"""Waiting for a database that is away: a scan that is half done is worth more than an error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from core.errors import Unavailable

_T = TypeVar("_T")
_PAUSE_SECONDS: Final = 0.5


def lasting(call: Callable[[], _T]) -> _T:
    """The result of `call`, made again until the database is there. A worker whose lease ends meanwhile is ended by its fence."""
    while True:
        try:
            return call()
        except Unavailable:
            time.sleep(_PAUSE_SECONDS)
