"""One account listed whole and held against what the console knows: what differs is sent, and nothing else.

Events get lost; a listing puts that right. A listing that broke off is told as such, so that nothing is taken for vanished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

from client.model import MOST_INSTANCES, Compare, Compared, Sighting
from client.transport import for_good
from cloud.aws.accounts import Unreachable
from core.errors import Error
from core.estate import Instance, Place
from core.text import printable
from scanner.fleet.inventory import Listing
from scanner.fleet.spool import Spool

_MOST_WORDS = 1_000


@dataclass(frozen=True, slots=True)
class Told:
    """What one account came to. `problems` are of places that could not be listed whole, and of instances not taken."""

    places: tuple[Place, ...] = ()
    instances: int = 0
    sent: int = 0
    closed: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Teller:
    """What `reconcile` tells, and `now` by the console's clock; each raises `Error` while the console cannot be had."""

    compare: Callable[[Compare], Compared]
    sight: Callable[[Sighting], None]
    now: Callable[[], datetime]

    def sighted(self, instances: Sequence[Instance], seen: datetime) -> list[str]:
        """Send them, in halves of halves if the console refuses them as they are; returns which it refused even alone."""
        if not instances:
            return []
        try:
            self.sight(Sighting(instances=tuple(instances), seen=seen))
        except Error as error:
            if not for_good(error):
                raise
            if len(instances) == 1:
                return [f"{printable(str(instances[0]))[:200]}: the console does not take it: {error}"]
            middle = len(instances) // 2
            return self.sighted(instances[:middle], seen) + self.sighted(instances[middle:], seen)
        return []


def reconcile(
    listings: Iterable[Listing | Unreachable],
    teller: Teller,
    *,
    folder: Path | None = None,
    before: Iterable[Place] = (),
) -> Told:
    """`before`: places of the last time, for clouds whose places vanish with their last machine (files).

    Raises `Error` if the console cannot be had: the whole is to be done again.
    """
    places: list[Place] = []
    problems: list[str] = []
    instances = sent = closed = 0
    for one in listings:
        if isinstance(one, Unreachable):
            problem = _words(one.place, one.error)
            teller.compare(Compare(place=one.place, listed=teller.now(), complete=False, digests={}, problem=problem))
            problems.append(problem)
            continue
        with Spool(folder) as spool:
            listed = teller.now()
            problem = _filled(spool, one)
            problems += [problem] if problem else []
            found = list(dict.fromkeys([one.place, *spool.places()]))  # an earlier problem is told of `one.place`
            gone = [] if problem else [place for place in before if place not in found]
            for place in [*found, *gone]:
                digests = dict(spool.digests(place))
                answer = teller.compare(
                    Compare(place=place, listed=listed, complete=not problem, digests=digests, problem=problem)
                )
                closed += answer.closed
                instances += len(digests)
                wanted = spool.take(place, dict.fromkeys(answer.wanted))
                for some in _pages(wanted):
                    problems += teller.sighted(some, listed)
                    sent += len(some)
            places += found
    return Told(tuple(places), instances, sent, closed, tuple(problems))


def _filled(spool: Spool, listing: Listing) -> str:
    """Why the listing broke off, or empty."""
    try:
        for instance in listing.instances:
            spool.add(instance)
    except Error as error:
        return _words(listing.place, error)
    return ""


def _words(place: Place, error: Error) -> str:
    words = str(error)
    return printable(words if str(place) in words else f"{place}: {words}")[:_MOST_WORDS]


def _pages(instances: Iterator[Instance]) -> Iterator[list[Instance]]:
    while some := list(islice(instances, MOST_INSTANCES)):
        yield some
