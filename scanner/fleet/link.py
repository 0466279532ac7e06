"""The fleet's side of the console: orders in, results and progress out. Nothing is lost while either is away.

Three threads, so that none waits for another: one asks for orders, one sends results, one tells how the fleet is.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError
from sqlalchemy import Row, func, or_, select, update

from client.model import FleetIn, FleetStatus, ResultIn, ScanProgress, ScanState
from client.transport import for_good
from core.errors import AccessDenied, ConfigError, Error, Throttled
from core.text import printable
from scanner.fleet import evidence, kept, orders, sets
from scanner.fleet.clock import Offset
from scanner.fleet.database import Database
from scanner.fleet.line import Line, Said
from scanner.fleet.settings import Settings
from scanner.fleet.slots import Fence
from scanner.fleet.tables import base, outbox, resource, scan, setting, slot

LONGEST_PAUSE_SECONDS: Final = 60.0
_LONGEST_RETRY_MS: Final = 300_000
_MEASURE_SECONDS: Final = 600.0  # between two measurements of the clock
_STEADY_MS: Final = 20  # the offset as it is kept changes by no less
_MOST_PROGRESS: Final = 10_000
_BATCH: Final = 20
_STATES: Final = (ScanState.RUNNING, ScanState.PAUSED, ScanState.WAITING)


class Link:
    """What the duty `link` does. `ended` ends its loops."""

    def __init__(
        self, settings: Settings, database: Database, fence: Fence, ended: threading.Event, said: Said
    ) -> None:
        self._settings = settings
        self._database = database
        self._fence = fence
        self._ended = ended
        self._said = said
        self._line = Line(settings)
        self._offset: Offset | None = None
        self._measured = float("-inf")
        self._registered = False
        self._was_registered = False
        self._away = False

    def run(self) -> None:
        """Until `ended`. Raises `Fenced` if the slot is lost."""
        threads = [
            threading.Thread(target=self._loop, args=(self.push, "results"), daemon=True),
            threading.Thread(target=self._loop, args=(self.report, "status"), daemon=True),
        ]
        for thread in threads:
            thread.start()
        self._loop(self.pull, "orders")
        for thread in threads:
            thread.join(timeout=1)
        self._line.close()

    def _loop(self, work: Callable[[], float], subject: str) -> None:
        """`work` returns how long to wait before the next time; after errors longer and longer, not all fleets at once."""
        failed = 0
        while not self._ended.is_set():
            try:
                self._fence.check()
                pause = work()
                failed = 0
                self._said.over(subject)
            except Error as error:
                failed += 1
                self._said.problem(subject, self._line.words(error))
                pause = _backoff_seconds(failed)
                if isinstance(error, Throttled):
                    pause = max(pause, min(error.after, LONGEST_PAUSE_SECONDS))
                if isinstance(error, AccessDenied):
                    pause = min(pause, 5.0)  # the file may have another token any moment
            self._ended.wait(pause)

    # orders in

    def pull(self) -> float:
        console = self._line.console()
        settings = self._settings
        try:
            if not self._registered:
                wanted = FleetIn(name=settings.fleet, clouds=settings.clouds, regions=settings.regions)
                known = console.register(wanted).registered.isoformat()
                if not orders.registered(self._database, self._fence, known):
                    self._said.note("the console is another than before: its orders are taken from the first on")
                self._registered = self._was_registered = True
            with self._database.read() as connection:
                last, asked = orders.cursor(connection), self._database.now_ms(connection)
            began = time.monotonic()
            measuring = began - self._measured > _MEASURE_SECONDS
            wait = 0 if measuring else settings.pull_seconds
            found = console.orders(settings.fleet, after=last, wait_seconds=wait)
        except Error:
            self._away, self._registered = True, False  # it may be another one when it is back
            raise
        with self._database.read() as connection:
            came = self._database.now_ms(connection)
        new, problems = orders.take(self._database, self._fence, found, self._corrected(asked, found.now, came))
        for words in problems:
            self._said.note(words)
        if measuring:
            self._measured = began
        if self._away:
            self._away = False
            self._again_at_once()
        return 0.0 if new or measuring or time.monotonic() - began >= min(1.0, wait) else 1.0

    def _corrected(self, asked: int, told: datetime, came: int) -> int:
        """The console's clock less the database's, in milliseconds."""
        with self._database.read() as connection:
            before = int(kept.read(connection, kept.CLOCK_OFFSET_MS, "0"))
        sample = Offset.of(asked, int(told.timestamp() * 1000), came)
        if sample is None:
            self._measured = float("-inf")
            return before
        known = self._offset
        self._offset = sample if known is None else known.narrowed(sample)
        if known is not None and self._offset is sample:
            self._measured = float("-inf")  # a clock was set: look closer
        inside = self._offset.low - _STEADY_MS <= before <= self._offset.high + _STEADY_MS
        return before if known is not None and inside else self._offset.middle

    def _again_at_once(self) -> None:
        """The console is back: what waits to be sent again need not wait any longer."""
        with self._database.write() as connection:
            self._fence.guard(connection)
            connection.execute(update(outbox).where(outbox.c.sent_ms.is_(None)).values(try_ms=0))

    # results out

    def push(self) -> float:
        """One look into the outbox. Raises what failed for all results; what failed for one is its own affair."""
        failed = 0
        due = self._due()
        for row in due:
            if self._ended.is_set():
                break
            self._fence.check()
            error = self._send(row.scan)
            if error is None or for_good(error):
                failed = 0
                continue
            failed += 1
            if isinstance(error, AccessDenied | ConfigError | Throttled):
                raise error
            self._later(row)
            if failed >= min(3, len(due)):
                raise error
        return 0.0 if len(due) == _BATCH else self._settings.poll_seconds

    def _due(self) -> list[Row[tuple[str, int]]]:
        with self._database.read() as connection:
            now = self._database.now_ms(connection)
            return list(
                connection.execute(
                    select(outbox.c.scan, outbox.c.tries)
                    .where(
                        outbox.c.sent_ms.is_(None),
                        outbox.c.refused.is_(None),
                        # one that is further away than any pause was put there by another clock
                        or_(outbox.c.try_ms <= now, outbox.c.try_ms > now + 2 * _LONGEST_RETRY_MS),
                    )
                    .order_by(outbox.c.tries, outbox.c.made_ms)
                    .limit(_BATCH)
                )
            )

    def _send(self, name: str) -> Error | None:
        """None: the console has it, or it is none. Else why not, also if it was refused for good, which is written down."""
        with self._database.read() as connection:
            text = connection.execute(select(outbox.c.result).where(outbox.c.scan == name)).scalar_one_or_none()
        if text is None:
            return None
        try:
            result = ResultIn.model_validate_json(text)
        except ValidationError as error:
            self._refused(name, f"it is no result: {error.errors(include_url=False, include_input=False)[0]['msg']}")
            return None
        try:
            if result.file_set and not self._send_set(name, result.file_set):
                result = result.model_copy(update={"file_set": ""})
            self._line.console().results(self._settings.fleet, result)
        except Error as error:
            if for_good(error):
                self._refused(name, str(error))
            return error
        with self._database.write() as connection:
            self._fence.guard(connection)
            now = self._database.now_ms(connection)
            connection.execute(update(outbox).where(outbox.c.scan == name).values(sent_ms=now, refused=None))
            sets.forget(connection, result.file_set, now)
        return None

    def _send_set(self, name: str, digest: str) -> bool:
        """Whether the console has it now; a result goes without one that it will never take. Raises `Error`."""
        try:
            return sets.send(self._line.console(), self._settings.fleet, self._database, digest)
        except Error as error:
            if not for_good(error):
                raise
            self._said.note(f"what files hold of {name}: refused by the console: {error}")
            return False

    def _refused(self, name: str, why: str) -> None:
        why = printable(why)[:1000] or "no reason given"
        with self._database.write() as connection:
            self._fence.guard(connection)
            connection.execute(update(outbox).where(outbox.c.scan == name).values(refused=why))
        self._said.note(f"result of {name}: refused by the console and kept: {why}")

    def _later(self, row: Row[tuple[str, int]]) -> None:
        pause = min(_LONGEST_RETRY_MS, 1000 * 2 ** min(row.tries, 16)) * random.uniform(0.5, 1)
        with self._database.write() as connection:
            self._fence.guard(connection)
            at = self._database.now_ms(connection) + int(pause)
            connection.execute(update(outbox).where(outbox.c.scan == row.scan).values(tries=row.tries + 1, try_ms=at))

    # how the fleet is

    def report(self) -> float:
        if not self._was_registered:
            return self._settings.poll_seconds
        self._line.console().status(self._settings.fleet, self.status())
        return self._settings.status_seconds

    def status(self) -> FleetStatus:
        with self._database.read() as connection:
            now = self._database.now_ms(connection)
            workers = connection.execute(
                select(func.count()).where(
                    slot.c.name.like("slot-%"), slot.c.holder.is_not(None), slot.c.lease_ends_ms > now
                )
            ).scalar_one()
            rows = connection.execute(
                select(scan.c.id, scan.c.state, scan.c.step, scan.c.started_ms)
                .where(scan.c.state.in_(_STATES))
                .order_by(scan.c.state, scan.c.priority, scan.c.not_before_ms)
                .limit(_MOST_PROGRESS)
            ).all()
            bases, usd = connection.execute(select(func.count(), func.coalesce(func.sum(base.c.usd_month), 0.0))).one()
            usd += evidence.usd(connection, kept.now_ms(self._database, connection))
            resources = connection.execute(select(func.count()).select_from(resource)).scalar_one()
            refused = connection.execute(select(func.count()).where(outbox.c.refused.is_not(None))).scalar_one()
            told = connection.execute(
                select(setting.c.value).where(setting.c.name.like("problem:%")).order_by(setting.c.name)
            ).scalars()
            problems = [self._said.words(), *told]
        if refused:
            problems.insert(
                0, f"{refused} result{'' if refused == 1 else 's'} refused by the console; see the fleet's log"
            )
        return FleetStatus(
            clock=_time(now),
            workers=workers,
            scans=tuple(
                ScanProgress(
                    scan=row.id,
                    state=ScanState(row.state),  # type: ignore[arg-type]  # one of `_STATES`
                    step=row.step[:40],
                    started=None if row.started_ms is None else _time(row.started_ms),
                )
                for row in rows
            ),
            resources=resources,
            bases=bases,
            bases_usd_month=min(max(usd, 0.0), 1e9),
            problem="; ".join(filter(None, problems))[:1000],
        )


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _backoff_seconds(failed: int) -> float:
    return min(LONGEST_PAUSE_SECONDS, 0.5 * 2.0 ** min(failed - 1, 16)) * random.uniform(0.5, 1)


def run(settings: Settings, database: Database, fence: Fence, ended: threading.Event) -> None:
    """The duty. Raises `Fenced`."""
    Link(settings, database, fence, ended, Said("link")).run()
