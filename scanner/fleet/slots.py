"""Slots: who runs which scans. A worker leases a slot, and whatever it does afterwards is fenced by that lease.

The lease alone is not enough: a process that was stopped (SIGSTOP, a machine asleep, a disk that hangs) believes in it after
it ended. So a worker checks its own clock before each side effect (`Fence.check`), and the database checks the epoch inside
each transaction (`Fence.guard`). What is left: an effect outside the database that was checked, then stopped, then done;
such effects carry a token by which doing them again is harmless.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from sqlalchemy import ColumnElement, Connection, and_, case, or_, select, update

from core.errors import ConfigError, Error, Unavailable
from scanner.fleet.database import Database
from scanner.fleet.tables import slot as slots_table

_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Never set back, and runs on while this process is stopped or the machine sleeps."""
    return time.clock_gettime(_BOOT_CLOCK)


class Fenced(BaseException):
    """The slot is not ours any more: end the process. No `Exception`, so that no border for ordinary errors swallows it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as its holder has it; `epoch` tells it from every earlier and later holder."""

    name: str
    holder: str
    epoch: int
    lease_seconds: float
    since: float  # by `boot_seconds`, before it was asked for


class Silence:
    """Holders that were not heard of for as long as their lease, by a clock that nobody sets: they are dead, whatever time it is.

    The database's clock may have been set back since a lease was written down, by years: then that lease does not end.
    """

    def __init__(self, clock: Callable[[], float] = boot_seconds) -> None:
        self._clock = clock
        self._heard: dict[tuple[str, int, int], float] = {}

    def over(self, held: Iterable[tuple[str, int, int, int]]) -> list[tuple[str, int, int]]:
        """Of held slots (name, epoch, heartbeat and end of the lease in milliseconds) those; to be asked again and again."""
        now = self._clock()
        lengths = {(name, epoch, beat): (ends - beat) / 1000 for name, epoch, beat, ends in held}
        self._heard = {one: self._heard.get(one, now) for one in lengths}
        return [one for one, length in lengths.items() if now - self._heard[one] > length]


def claim(
    database: Database,
    holder: str,
    slots: Sequence[str],
    lease_seconds: float,
    *,
    worker: str = "",
    unfinished: ColumnElement[bool] | None = None,
    silence: Silence | None = None,
) -> Slot | None:
    """Take one of `slots` that is free or whose lease ended; None if all are held. Raises `Unavailable`.

    Those whose holder died come first, they have scans to go on with; before them those for which `unfinished` (an
    expression over the table of slots) is true. `worker` says where we run. Whoever asks again and again gives the same `silence`.
    """
    since = boot_seconds()
    table = slots_table.c
    with database.write() as connection:
        database.insert_missing(connection, slots_table, [{"name": name} for name in slots])
        now_ms = database.now_ms(connection)
        free = [table.holder.is_(None), table.lease_ends_ms <= now_ms]
        if silence is not None:
            beats = (table.name, table.epoch, table.heartbeat_ms)
            held = select(*beats, table.lease_ends_ms).where(table.name.in_(slots), table.lease_ends_ms > now_ms)
            silent = silence.over((row[0], row[1], row[2], row[3]) for row in connection.execute(held).all())
            free += [and_(*(column == value for column, value in zip(beats, one, strict=True))) for one in silent]
        first = [] if unfinished is None else [case((unfinished, 0), else_=1)]
        row = connection.execute(
            select(table.name, table.epoch)
            .where(table.name.in_(slots), or_(*free))
            .order_by(*first, case((table.holder.is_not(None), 0), else_=1), table.heartbeat_ms, table.name)
            .limit(1)
            .with_for_update(skip_locked=True)
        ).first()
        if row is None:
            return None
        connection.execute(
            update(slots_table)
            .where(table.name == row.name)
            .values(
                holder=holder,
                worker=worker[:200],
                epoch=row.epoch + 1,
                lease_ends_ms=now_ms + int(lease_seconds * 1000),
                heartbeat_ms=now_ms,
            )
        )
    return Slot(row.name, holder, row.epoch + 1, lease_seconds, since)


def renew(database: Database, slot: Slot) -> bool:
    """The lease begins anew; False if somebody else has the slot. Raises `Unavailable`."""
    with database.write() as connection:
        now_ms = database.now_ms(connection)
        done = connection.execute(
            update(slots_table)
            .where(*_is_held_by(slot))
            .values(lease_ends_ms=now_ms + int(slot.lease_seconds * 1000), heartbeat_ms=now_ms)
        )
    return done.rowcount == 1


def release(database: Database, slot: Slot) -> bool:
    """Give it back, after the last effect; False if it was not ours any more. Raises `Unavailable`."""
    with database.write() as connection:
        done = connection.execute(update(slots_table).where(*_is_held_by(slot)).values(holder=None, lease_ends_ms=0))
    return done.rowcount == 1


def wait_for(
    database: Database,
    holder: str,
    name: str,
    lease_seconds: float,
    *,
    worker: str = "",
    pause_seconds: float = 0.5,
    away: Callable[[Unavailable], None] = lambda _: None,
) -> Slot:
    """Take the slot `name`, waiting for the lease of a dead holder to end; `away` is told each time that the database is.

    Raises `ConfigError` as soon as the holder is seen alive: two workers were told the same slot.
    """
    seen: tuple[str, int] | None = None
    silence = Silence()
    while True:
        try:
            if taken := claim(database, holder, [name], lease_seconds, worker=worker, silence=silence):
                return taken
            with database.read() as connection:
                row = connection.execute(select(slots_table).where(slots_table.c.name == name)).one()
        except Unavailable as error:
            away(error)
            time.sleep(pause_seconds)
            continue
        now = (str(row.holder), int(row.heartbeat_ms))
        if seen is not None and seen != now and row.holder is not None:
            at = datetime.fromtimestamp(row.heartbeat_ms / 1000, UTC).isoformat(timespec="seconds")
            raise ConfigError(
                f"{name} is held by another worker ({row.worker or row.holder}), last heard of at {at}: "
                "give each worker a slot of its own"
            )
        seen = now
        time.sleep(pause_seconds)


def _is_held_by(slot: Slot) -> tuple[ColumnElement[bool], ...]:
    table = slots_table.c
    return (table.name == slot.name, table.holder == slot.holder, table.epoch == slot.epoch)


def _refuse(reason: str) -> None:
    raise Fenced(reason)


class Fence:
    """What a worker holds while it holds a slot. As a context manager it renews the lease in a thread of its own.

    `lost` is called, from any thread and perhaps more than once, when the slot is lost; a worker ends its process there.
    If it returns, `check` and `guard` raise `Fenced` all the same.
    """

    def __init__(
        self,
        database: Database,
        slot: Slot,
        *,
        lost: Callable[[str], None] = _refuse,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self.slot: Final = slot
        self._database = database
        self._lost = lost
        self._clock = clock
        self._renewed = slot.since
        self._reason = ""
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for target in (self._renew, self._watch):
            thread = threading.Thread(target=target, name=f"fence{target.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def check(self) -> None:
        """Before each effect. Raises `Fenced` if the lease is lost, or so old that it may be."""
        if not self._reason and self._clock() - self._renewed >= self.slot.lease_seconds:
            self._reason = f"{self.slot.name}: the lease was not renewed for {self.slot.lease_seconds:g} seconds"
        if self._reason:
            self._lose()

    def guard(self, connection: Connection) -> None:
        """In each transaction, before it commits: raises `Fenced` unless the slot is ours, and keeps it ours until the end.

        The row is locked against a take-over (on SQLite a `write()` holds the only write lock anyway).
        """
        self.check()
        held = connection.execute(
            select(slots_table.c.epoch).where(*_is_held_by(self.slot)).with_for_update(read=True)
        ).scalar_one_or_none()
        if held is None:
            self._reason = f"{self.slot.name}: another worker has taken it over"
            self._lose()

    def _lose(self) -> None:
        self._lost(self._reason)
        raise Fenced(self._reason)

    def _renew(self) -> None:
        pause = self.slot.lease_seconds / 3
        while not self._stop.wait(pause):
            asked = self._clock()
            try:
                if not renew(self._database, self.slot):
                    self._reason = f"{self.slot.name}: another worker has taken it over"
                    break
                self._renewed = asked
                pause = self.slot.lease_seconds / 3
            except Error:  # away: asked again soon; `_watch` ends it when the lease is over
                pause = self.slot.lease_seconds / 20
        self._quietly_check()

    def _watch(self) -> None:
        """Apart from the renewals, since a database that hangs may keep one of them for long."""
        while not self._stop.wait(self.slot.lease_seconds / 20):
            if not self._quietly_check():
                return

    def _quietly_check(self) -> bool:
        """For the threads: in the end `lost` was called; a `Fenced` has nobody to go to."""
        if self._stop.is_set():
            return True
        try:
            self.check()
        except Fenced:
            return False
        return True
