"""The fleet's side of the clouds: what happens to instances goes to the console at once, by events, and all of it by listings.

A thread reads each queue of events; a few list accounts, when it is their turn, when the console asks, and when they are new.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from client.model import AccountIn, Compare, Compared, Sighting
from cloud.aws.events import EventQueue, Key, Received, fold
from core.errors import Error
from core.estate import InstanceEvent, InstanceState, Place
from core.text import printable
from scanner.fleet import kept, orders
from scanner.fleet.database import Database
from scanner.fleet.inventory import Inventory, signature
from scanner.fleet.line import Line, Said
from scanner.fleet.reconcile import Teller, Told, reconcile
from scanner.fleet.settings import Settings
from scanner.fleet.slots import Fence

LISTERS: Final = 4
MOST_MESSAGES: Final = 200  # handled as one
LISTED_LATE_SECONDS: Final = 120.0  # an instance of an event that is not listed by then never was
_LOOKS_SECONDS: Final = (0.5, 1.0, 2.0)
_FIRST_PAUSE_SECONDS: Final = 10.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_MOST_MISSING: Final = 10_000
_PLACES: Final = TypeAdapter(tuple[Place, ...])
_Name = tuple[str, str]  # of an account: cloud, account


@dataclass(slots=True)
class _Turn:
    """When an account is listed next, by the monotonic clock."""

    account: AccountIn
    due: float = float("-inf")
    failed: int = 0
    asked: int = 0  # number of the order that it was listed for
    file: tuple[int, int, int] = (0, 0, 0)
    running: Future[None] | None = None


@dataclass(slots=True)
class _Listener:
    url: str
    accounts: frozenset[AccountIn]
    ended: threading.Event = field(default_factory=threading.Event)


class Watch:
    """What the duty `watch` does. `ended` ends its loop; `inventory` is for tests."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        fence: Fence,
        ended: threading.Event,
        said: Said,
        inventory: Inventory | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._fence = fence
        self._ended = ended
        self._said = said
        self._inventory = inventory or Inventory(settings)
        self._line = Line(settings)
        self._turns: dict[_Name, _Turn] = {}
        self._listeners: dict[str, _Listener] = {}
        self.teller = Teller(self._compare, self._sight, self.now)

    def run(self) -> None:
        """Until `ended`. Raises `Fenced` if the slot is lost."""
        with ThreadPoolExecutor(LISTERS, thread_name_prefix="list") as pool:
            try:
                while not self._ended.is_set():
                    self._fence.check()
                    try:
                        self._look(pool)
                        self._said.keep(self._database)
                        self._said.over("database")
                    except Error as error:
                        self._said.problem("database", str(error))
                    self._ended.wait(self._settings.poll_seconds)
            finally:
                self._hear([])
                pool.shutdown(wait=False, cancel_futures=True)
                self.close()

    def close(self) -> None:
        self._line.close()

    def _look(self, pool: ThreadPoolExecutor) -> None:
        with self._database.read() as connection:
            accounts = [one for one in orders.accounts(connection) if self._settings.serves(one.cloud)]
            asked = int(kept.read(connection, orders.RECONCILE, "0"))
        self._hear(accounts)
        named = {(one.cloud, one.account): one for one in accounts}
        for gone in self._turns.keys() - named.keys():
            del self._turns[gone]
            self._said.over(_subject(gone))
        for name, account in named.items():
            turn = self._turns.get(name)
            if turn is None or turn.account != account:
                running = turn.running if turn else None
                turn = self._turns[name] = _Turn(account, running=running)
            if turn.running is not None and not turn.running.done():
                continue
            file = signature(Path(account.instances_file)) if account.cloud == "file" else turn.file
            if time.monotonic() >= turn.due or turn.asked < asked or file != turn.file:
                turn.asked, turn.file, turn.due = asked, file, float("inf")
                turn.running = pool.submit(self._listed, turn)

    # listings

    def _listed(self, turn: _Turn) -> None:
        """In a thread of the pool: list one account, and say when it is its turn again."""
        account = turn.account
        longest = self._settings.reconcile_seconds
        subject = _subject((account.cloud, account.account))
        try:
            self._fence.check()
            told = self.reconcile(account)
            problem = "; ".join(told.problems[:5])
        except Error as error:
            problem, longest = self._line.words(error), min(longest, _LONGEST_PAUSE_SECONDS)
        except BaseException:
            turn.due = time.monotonic() + _LONGEST_PAUSE_SECONDS
            self._said.problem(subject, f"{subject}: the listing failed by a fault of ours, see the log")
            raise
        pause = longest
        if problem:
            turn.failed += 1
            pause = min(longest, _FIRST_PAUSE_SECONDS * 2.0 ** min(turn.failed - 1, 10))
            self._said.problem(subject, problem)
        else:
            turn.failed = 0
            self._said.over(subject)
        turn.due = time.monotonic() + pause * random.uniform(0.8, 1)

    def reconcile(self, account: AccountIn) -> Told:
        """List `account` now. Raises `Error` if the console or the database cannot be had."""
        self._line.console().health()  # else all of it would be listed for nothing
        if account.cloud != "file":
            return reconcile(self._inventory.listings(account), self.teller, folder=self._settings.data)
        name = f"places:{account.account}"
        with self._database.read() as connection:
            try:
                before = _PLACES.validate_json(kept.read(connection, name, "[]"))
            except ValidationError:
                before = ()
        listings = self._inventory.listings(account)
        told = reconcile(listings, self.teller, folder=self._settings.data, before=before)
        if not told.problems and told.places != before:
            with self._database.write() as connection:
                self._fence.guard(connection)
                kept.write(connection, name, _PLACES.dump_json(told.places).decode())
        return told

    # events

    def _hear(self, accounts: Iterable[AccountIn]) -> None:
        """A listener for each queue, in which only the accounts that name it may speak."""
        wanted: dict[str, set[AccountIn]] = {}
        for account in accounts:
            if account.queue_url:
                wanted.setdefault(account.queue_url, set()).add(account)
        for url, listener in list(self._listeners.items()):
            if wanted.get(url, set()) != set(listener.accounts):
                listener.ended.set()
                del self._listeners[url]
                self._said.over(_queue(url))
        for url, some in wanted.items():
            if url not in self._listeners:
                listener = self._listeners[url] = _Listener(url, frozenset(some))
                threading.Thread(target=self._listen, args=(listener,), name="events", daemon=True).start()

    def _listen(self, listener: _Listener) -> None:
        ears = Ears(self._inventory, listener.accounts, self.teller, self._settings)
        queue: EventQueue | None = None
        failed = 0
        while not (listener.ended.is_set() or self._ended.is_set()):
            self._fence.check()
            try:
                queue = queue or self._inventory.queue(listener.url, listener.accounts)
                for words in ears.hear(queue, listener.ended):
                    self._said.note(words)
                failed = 0
                self._said.over(_queue(listener.url))
            except Error as error:
                failed += 1
                if listener.ended.is_set():
                    return
                self._said.problem(_queue(listener.url), f"{_queue(listener.url)}: {self._line.words(error)}")
                pause = min(_LONGEST_PAUSE_SECONDS, 2.0 ** min(failed - 1, 10)) * random.uniform(0.5, 1)
                listener.ended.wait(pause)

    # the console

    def now(self) -> datetime:
        """The console's time, as far as it is known. Raises `Unavailable`."""
        with self._database.read() as connection:
            return datetime.fromtimestamp(kept.now_ms(self._database, connection) / 1000, UTC)

    def _compare(self, listing: Compare) -> Compared:
        self._fence.check()
        return self._line.console().compare(self._settings.fleet, listing)

    def _sight(self, sighting: Sighting) -> None:
        self._fence.check()
        self._line.console().sightings(self._settings.fleet, sighting)


class Ears:
    """What arrives in one queue becomes sightings. A message is deleted once the console has what it told of."""

    def __init__(self, inventory: Inventory, accounts: Iterable[AccountIn], teller: Teller, settings: Settings) -> None:
        self._inventory = inventory
        self._accounts = {one.account: one for one in accounts}
        self._teller = teller
        self._settings = settings
        self._missing: dict[Key, float] = {}  # since when an instance of an event is looked for

    def hear(self, queue: EventQueue, ended: threading.Event, wait_seconds: float = 20.0) -> list[str]:
        """Wait for messages, then handle them; what to note for a person. Raises `Error`: they come again."""
        received = queue.receive(wait_seconds)
        while received.handles and len(received.handles) % 10 == 0 and len(received.handles) < MOST_MESSAGES:
            more = queue.receive(0)
            if not more.handles:
                break
            received = Received(
                received.events + more.events, received.dropped + more.dropped, received.handles + more.handles
            )
        if not received.handles:
            return []
        notes = [f"{count} messages thrown away: {why}" for why, count in Counter(received.reasons()).items()]
        latest = fold({}, filter(self._ours, received.events))
        for place, events in _by_place(latest.values()):
            notes += self._tell(place, events, ended)
        if not any(key in self._missing for key in latest):
            left = queue.done(received)
            notes += [f"{left} messages could not be deleted and come again"] if left else []
        return notes

    def _ours(self, event: InstanceEvent) -> bool:
        account = self._accounts.get(event.place.account)
        return (
            account is not None
            and self._settings.serves("aws", event.place.region)
            and (not account.regions or event.place.region in account.regions)
        )

    def _tell(self, place: Place, events: Sequence[InstanceEvent], ended: threading.Event) -> list[str]:
        """Those that the cloud lists go to the console; those that it does not yet list keep their message in the queue."""
        account = self._accounts[place.account]
        wanted = {event.instance: event for event in events}
        notes: list[str] = []
        for pause in (*_LOOKS_SECONDS, None):
            seen = self._teller.now()
            found = self._inventory.by_id(account, place.region, list(wanted))
            notes += self._teller.sighted(found, seen)
            for one in found:
                wanted.pop(one.id, None)
                self._missing.pop((place, one.id), None)
            # of one that is gone the listing tells; what it was before must not be overwritten by nothing
            wanted = {name: one for name, one in wanted.items() if one.state is not InstanceState.TERMINATED}
            if not wanted or pause is None or ended.wait(pause):
                break
        return notes + [words for name in wanted if (words := self._missed((place, name)))]

    def _missed(self, key: Key) -> str:
        """What to note once it is given up: an event that was forged, or an instance that ended long ago."""
        if len(self._missing) >= _MOST_MISSING:
            self._missing.clear()
        now = time.monotonic()
        if now - self._missing.setdefault(key, now) < LISTED_LATE_SECONDS:
            return ""
        del self._missing[key]
        return f"{key[0]}/{key[1]}: an event told of it, but the cloud does not list it"


def _by_place(events: Iterable[InstanceEvent]) -> Iterator[tuple[Place, list[InstanceEvent]]]:
    found: dict[Place, list[InstanceEvent]] = {}
    for event in events:
        found.setdefault(event.place, []).append(event)
    yield from found.items()


def _subject(name: _Name) -> str:
    return f"{name[0]}://{name[1]}"


def _queue(url: str) -> str:
    return f"queue {printable(url)[:200]}"


def run(settings: Settings, database: Database, fence: Fence, ended: threading.Event) -> None:
    """The duty. Raises `Fenced`."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    Watch(settings, database, fence, ended, Said("watch")).run()
