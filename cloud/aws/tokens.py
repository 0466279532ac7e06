"""Which blocks of a snapshot are written, and the token that each of them is read with: listed where it is asked for.

A page of `ListSnapshotBlocks` says all about a stretch of the disk: what is not in it is not written. Stretches are kept
in order, the least recently used given up; so neither a huge disk nor a long scan takes much memory, and who reads little
lists little.
"""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import ClientError
from botocore.utils import parse_timestamp

from cloud.aws.patience import reason_of
from cloud.store import BLOCK_BYTES
from core.errors import CloudError, Unsupported

PAGE_BLOCKS: Final = 10_000  # the most that the service gives
MOST_IDLE_PAGES: Final = 200  # pages in a row that bring nothing new
_MOST_VOLUME_GIB: Final = 64 << 10
_MOST_TOKENS: Final = 320_000  # about 30 MB; 160 GB of a disk
_BACK: Final = 1024  # blocks before the one asked for that are listed with it
_MARGIN_SECONDS: Final = 300.0
_SKEWED_SECONDS: Final = 60.0  # how long tokens are used that our clock takes for expired
_MOST_TOKEN_CHARS: Final = 1024  # the model says 256

Query = dict[str, str]
ListPage = Callable[[Query], Mapping[str, Any]]


@dataclass(slots=True)
class Page:
    """What one answer said. `blocks` ascend; `expires` is in seconds since 1970."""

    blocks: list[tuple[int, Mapping[str, Any]]]
    volume_bytes: int
    expires: float
    following: str


@dataclass(slots=True)
class _Stretch:
    """All about the blocks from `start` up to `end`: the written ones, and their tokens one after the other."""

    start: int
    end: int
    due: float
    indexes: array[int] = field(default_factory=lambda: array("I"))
    ends: array[int] = field(default_factory=lambda: array("I"))
    tokens: bytearray = field(default_factory=bytearray)
    used: float = 0

    def add(self, index: int, token: str) -> None:
        self.indexes.append(index)
        self.tokens += token.encode("ascii")
        self.ends.append(len(self.tokens))

    def token(self, at: int) -> str:
        return self.tokens[self.ends[at - 1] if at else 0 : self.ends[at]].decode("ascii")


def pages(list_page: ListPage, member: str, start: int = 0, *, most_blocks: int = PAGE_BLOCKS) -> Iterator[Page]:
    """Answers from block `start` on. Raises `CloudError` for answers that lead nowhere, or that contradict each other."""
    at = start
    seen: set[str] = set()
    idle = 0
    volume_bytes = 0
    query = {"startingBlockIndex": str(start), "maxResults": str(most_blocks)}
    while True:
        try:
            page = parse_page(list_page(query), member, at)
        except ClientError as error:
            # tokens of pages live for an hour: after a pause the listing goes on by number
            if reason_of(error) != "INVALID_PAGE_TOKEN" or "pageToken" not in query or idle >= MOST_IDLE_PAGES:
                raise
            idle += 1
            query = {"startingBlockIndex": str(at), "maxResults": str(most_blocks)}
            continue
        if volume_bytes not in {0, page.volume_bytes}:
            raise CloudError("the listing of blocks changes the size of the volume half way")
        volume_bytes = page.volume_bytes
        idle = 0 if page.blocks else idle + 1
        if page.blocks:
            at = page.blocks[-1][0] + 1
        yield page
        if not page.following:
            return
        if page.following in seen or idle >= MOST_IDLE_PAGES:
            raise CloudError("the listing of blocks does not come to an end")
        if page.blocks:
            seen.clear()  # whoever makes progress comes to an end, as there are only so many blocks
        seen.add(page.following)
        query = {"pageToken": page.following, "maxResults": str(most_blocks)}


def parse_page(raw: Mapping[str, Any], member: str, at: int) -> Page:
    """Raises `CloudError` if it is not what the service promises, `Unsupported` for blocks of another size."""
    size, gib = raw.get("BlockSize"), raw.get("VolumeSize")
    if size != BLOCK_BYTES:
        raise Unsupported(f"blocks of {str(size)[:20]} bytes; {BLOCK_BYTES} were expected")
    if type(gib) is not int or not 0 < gib <= _MOST_VOLUME_GIB:
        raise CloudError(f"a volume of {str(gib)[:20]} GiB")
    total = (gib << 30) // BLOCK_BYTES
    given, following = raw.get(member), raw.get("NextToken")
    if given is None:
        given = []
    if not isinstance(given, list) or len(given) > PAGE_BLOCKS or not isinstance(following, str | None):
        raise CloudError("a page of blocks that is not of the agreed form")
    if following and len(following) > _MOST_TOKEN_CHARS:  # many are remembered
        raise CloudError("a page of blocks that is not of the agreed form")
    blocks = []
    for one in given:
        index = one.get("BlockIndex") if isinstance(one, dict) else None
        if type(index) is not int or not at <= index < total:
            raise CloudError("a page of blocks that are out of order or outside the volume")
        blocks.append((index, one))
        at = index + 1
    try:
        expires = parse_timestamp(raw.get("ExpiryTime") or "").timestamp()
    except (ValueError, TypeError, OverflowError, RuntimeError):
        expires = 0.0
    return Page(blocks, gib << 30, expires, following or "")


def token_of(block: Mapping[str, Any], name: str) -> str:
    """Raises `CloudError`."""
    token = block.get(name)
    if not isinstance(token, str) or not 0 < len(token) <= _MOST_TOKEN_CHARS or not token.isascii():
        raise CloudError("a block without a token")
    return token


class Tokens:
    """Those of one snapshot. Safe for many threads; only one of them lists at a time.

    `list_page` makes one call of `ListSnapshotBlocks`; what it raises goes through. Opening lists the first page.
    """

    def __init__(
        self,
        list_page: ListPage,
        *,
        most_tokens: int = _MOST_TOKENS,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._list_page = list_page
        self._most = most_tokens
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._listing = threading.Lock()
        self._starts: list[int] = []
        self._stretches: list[_Stretch] = []
        first = next(pages(list_page, "Blocks"))
        self.size = first.volume_bytes
        self.blocks = self.size // BLOCK_BYTES
        self._learn(first, 0)

    def token(self, block: int) -> str | int:
        """The token of `block`, or, if it is not written, the next block that may be. Raises what `list_page` raises."""
        if (found := self._known(block)) is not None:
            return found
        with self._listing:
            while (found := self._known(block)) is None:
                self._list(block)
        return found

    def expired(self, block: int, token: str) -> None:
        """The service does not take `token` any more: it is listed again when it is asked for, with its neighbours."""
        with self._lock:
            at = bisect_right(self._starts, block) - 1
            if at >= 0 and self._find(self._stretches[at], block) == token:
                self._drop(at)

    @property
    def held(self) -> int:
        """Tokens in memory."""
        with self._lock:
            return sum(len(one.indexes) for one in self._stretches)

    def _known(self, block: int) -> str | int | None:
        with self._lock:
            at = bisect_right(self._starts, block) - 1
            if at < 0 or block >= self._stretches[at].end:
                return None
            stretch = self._stretches[at]
            stretch.used = self._clock()
            found = self._find(stretch, block)
            if isinstance(found, str) and stretch.used >= stretch.due:
                self._drop(at)
                return None
            return found

    @staticmethod
    def _find(stretch: _Stretch, block: int) -> str | int:
        at = bisect_left(stretch.indexes, block)
        if at == len(stretch.indexes):
            return stretch.end
        return stretch.token(at) if stretch.indexes[at] == block else stretch.indexes[at]

    def _list(self, block: int) -> None:
        """Until all is known of `block`."""
        with self._lock:
            before = bisect_right(self._starts, block) - 1
            known = self._stretches[before].end if before >= 0 else 0
        at = max(known, block - block % _BACK)
        for page in pages(self._list_page, "Blocks", at):
            if page.volume_bytes != self.size:
                raise CloudError("the listing of blocks changes the size of the volume half way")
            at = self._learn(page, at)
            if at > block:
                return

    def _learn(self, page: Page, start: int) -> int:
        """Keep what the page says from `start` on; returns up to where it says all."""
        if page.following and not page.blocks:
            return start
        end = page.blocks[-1][0] + 1 if page.following else self.blocks
        now = self._clock()
        lifetime = page.expires - self._now()
        due = now + (lifetime - min(_MARGIN_SECONDS, lifetime / 4) if lifetime > 0 else _SKEWED_SECONDS)
        stretch = _Stretch(start, end, due, used=now)
        for index, one in page.blocks:
            stretch.add(index, token_of(one, "BlockToken"))
        with self._lock:
            self._insert(stretch)
        return end

    def _insert(self, new: _Stretch) -> None:
        """Older stretches that reach into the new one go: they would expire first anyway."""
        at = bisect_right(self._starts, new.start)
        if at and self._stretches[at - 1].end > new.start:
            at -= 1
        while at < len(self._stretches) and self._stretches[at].start < new.end:
            self._drop(at)
        self._stretches.insert(at, new)
        self._starts.insert(at, new.start)
        held = sum(len(one.indexes) for one in self._stretches)
        while held > self._most or len(self._stretches) > self._most // 100:
            others = [one for one in self._stretches if one is not new]
            if not others:
                return
            oldest = min(others, key=lambda one: one.used)
            held -= len(oldest.indexes)
            self._drop(self._stretches.index(oldest))

    def _drop(self, at: int) -> None:
        del self._starts[at], self._stretches[at]
