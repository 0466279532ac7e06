"""Pages: a cursor says where the page before ended, so rows that come and go do not shift the others."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from console.problems import Refused

T = TypeVar("T")
D = TypeVar("D", bound=BaseModel)
MOST_PAGE_BYTES: Final = 16 << 20  # of JSON; `client.transport` reads no more than four times that
_MOST_CURSOR: Final = 2_000
CHUNK: Final = 5_000  # values in one statement


def cursor(*parts: str | int) -> str:
    """What goes into `?after=`."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def parts_of(text: str, *kinds: type) -> list[Any]:
    """What `cursor` was given. Raises `Refused` (422) for anything else."""
    refusal = Refused(422, "after: it is not the `next` of a page")
    if len(text) > _MOST_CURSOR:
        raise refusal
    try:
        parts = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise refusal from None
    if not isinstance(parts, list) or [type(part) for part in parts] != list(kinds):
        raise refusal
    for part in parts:
        if (isinstance(part, str) and not part.isprintable()) or (
            isinstance(part, int) and not -(1 << 60) < part < 1 << 60
        ):
            raise refusal
    return parts


def time_of(text: str) -> datetime:
    """A time in a cursor. Raises `Refused` (422)."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise Refused(422, "after: it is not the `next` of a page")
    return time


def fitting(items: Iterable[D]) -> tuple[D, ...]:
    """As many of the first as an answer may hold, but one at least: whoever asks has a bound, and names on disks have none to speak of."""
    kept: list[D] = []
    room = MOST_PAGE_BYTES
    for one in items:
        room -= len(one.model_dump_json())
        if room < 0 and kept:
            break
        kept.append(one)
    return tuple(kept)


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
