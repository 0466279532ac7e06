"""Wrong tokens are bounded for each address, without shutting out who holds a right one there."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from typing import Final

_MOST_WRONG: Final = 20  # of one address at once
_SECONDS_EACH: Final = 6.0  # after which one more is allowed
_MOST_ADDRESSES: Final = 10_000
_MOST_KNOWN: Final = 10_000
_KNOWN_SECONDS: Final = 600.0


class Guesses:
    """A bucket of wrong tokens for each address (IPv6: for each network of 64 bits). A token that was right lately always passes."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._wrong: Final[OrderedDict[str, tuple[float, float]]] = OrderedDict()  # address: how many, when
        self._known: Final[OrderedDict[bytes, float]] = OrderedDict()  # a token's digest: when it was right

    def wait_seconds(self, address: str, digest: bytes) -> float:
        """How long this token must not be looked up; 0 if it may be now."""
        now = time.monotonic()
        with self._lock:
            known = self._known.get(digest)
            if known is not None and now - known < _KNOWN_SECONDS:
                return 0.0
            wrong = self._count(_network(address), now)
            return max(0.0, (wrong - _MOST_WRONG + 1) * _SECONDS_EACH)

    def wrong(self, address: str, digest: bytes) -> None:
        now = time.monotonic()
        network = _network(address)
        with self._lock:
            self._known.pop(digest, None)
            self._wrong[network] = (self._count(network, now) + 1, now)
            self._wrong.move_to_end(network)
            while len(self._wrong) > _MOST_ADDRESSES:
                self._wrong.popitem(last=False)

    def right(self, digest: bytes) -> None:
        with self._lock:
            self._known[digest] = time.monotonic()
            self._known.move_to_end(digest)
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)

    def _count(self, network: str, now: float) -> float:
        count, then = self._wrong.get(network, (0.0, now))
        return max(0.0, count - (now - then) / _SECONDS_EACH)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
