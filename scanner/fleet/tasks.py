"""What the console asks this fleet to do once, now: a sweep, the end of all that it keeps in an account, or a check of what its role may
there. See docs/fleet.md.

Nothing is written down here: what a process that died did not answer is handed out again, and either may be done twice. Somebody waits, so an
answer has what was come to in `_SECONDS`, and says that the rest is missing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from sqlalchemy import func, select

from client.model import MOST_LINES, AccountIn, CheckedLine, SweptLine, Task, TaskAnswer
from client.transport import for_good
from cloud.aws.accounts import Unreachable
from cloud.aws.check import Checked, check
from cloud.aws.connector import AwsConnector
from cloud.aws.permissions import advice
from core.errors import AccessDenied, ConfigError, Error, Throttled, Unavailable
from core.estate import Place
from core.text import printable
from scanner.fleet import evidence, kept, leaving
from scanner.fleet.clouds import accounts
from scanner.fleet.context import clouds_of, objects_of
from scanner.fleet.database import Database
from scanner.fleet.inventory import Inventory, Listing
from scanner.fleet.ledger import LISTED_SECONDS
from scanner.fleet.line import Line, Said
from scanner.fleet.settings import Settings
from scanner.fleet.slots import Fence
from scanner.fleet.sweeper import Swept, sweep_clouds, sweep_objects
from scanner.fleet.tables import resource

_SECONDS: Final = 240.0  # for one task
_KNOWN_SECONDS: Final = 10.0  # an account that was just added is told by `link`
_LOOK_SECONDS: Final = 2.0  # a scan or a result that is waited for
_LONGEST_PAUSE_SECONDS: Final = 60.0
_ANSWERING_SECONDS: Final = 300.0
_SUBJECT: Final = "tasks"
L = TypeVar("L", SweptLine, CheckedLine)


class Tasks:
    """A loop of the duty `sweep`. `ended` ends it."""

    def __init__(
        self, settings: Settings, database: Database, fence: Fence, ended: threading.Event, said: Said
    ) -> None:
        self._settings = settings
        self._database = database
        self._fence = fence
        self._ended = ended
        self._said = said
        self._line = Line(settings)

    def run(self) -> None:
        """Until `ended`. Raises `Fenced` if the slot is lost."""
        failed = 0
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self._fence.check()
                for task in self._line.console().tasks(self._settings.fleet, wait_seconds=self._settings.pull_seconds):
                    self._answer(task, self.carry_out(task))
                failed = 0
                self._said.over(_SUBJECT)
            except Error as error:
                failed += 1
                if not isinstance(error, Unavailable | AccessDenied | ConfigError | Throttled):  # of those `link` tells
                    self._said.problem(_SUBJECT, self._line.words(error))
                self._ended.wait(_pause_seconds(failed))
            self._ended.wait(max(0.0, 0.5 - (time.monotonic() - began)))
        self._line.close()

    def carry_out(self, task: Task) -> TaskAnswer:
        """What came of it; what could not be done is in the answer. Raises `Fenced`."""
        ends = time.monotonic() + _SECONDS
        try:
            match task.kind:
                case "sweep":
                    return self._sweep(task, ends)
                case "clear":
                    return self._clear(task, ends)
                case "check":
                    return self._check(task, ends)
        except Error as error:
            return TaskAnswer(problem=_words(str(error)))
        except Exception as error:  # noqa: BLE001  a border: who waits is told, and the thread goes on
            self._said.note(f"{task.id}: a fault of the fleet: {error!r}")
            return TaskAnswer(problem=f"a fault of the fleet, {type(error).__name__}; its log says more")

    def _answer(self, task: Task, answer: TaskAnswer) -> None:
        """Until the console has it. Raises `Error` if it never takes it, or is away for long: it asks again, then."""
        ends = time.monotonic() + _ANSWERING_SECONDS
        failed = 0
        while True:
            try:
                self._line.console().answer_task(self._settings.fleet, task.id, answer)
            except Error as error:
                failed += 1
                if for_good(error) or self._ended.is_set() or time.monotonic() > ends:
                    raise
                self._ended.wait(_pause_seconds(failed))
            else:
                return

    # sweep

    def _sweep(self, task: Task, ends: float) -> TaskAnswer:
        """Raises `ConfigError`, `CloudError`, `Unavailable`, `Fenced`."""
        installation = kept.installation(self._database, self._settings.installation)
        clouds = clouds_of(self._settings, self._database, installation, sweeping=True)
        cloud, _, account = (task.account or "").partition("://")
        sizes = self._sizes()
        found = sweep_clouds(
            self._database,
            self._fence,
            clouds,
            only=(cloud, account) if task.account else None,
            dry_run=task.dry_run,
        )
        room = _Room[SweptLine](ends)
        room.take(_swept(one, sizes) for one in found)
        if task.account is None:
            objects = objects_of(self._settings, self._database, installation)
            names = sweep_objects(self._database, self._fence, objects, dry_run=task.dry_run)
            room.take(SweptLine(kind="manifest", id=printable(name)[:512]) for name in names)
        count, size = self._bases()
        return TaskAnswer(
            installation=installation,
            swept=tuple(room.lines),
            more=room.more,
            bases=count,
            bases_bytes=size,
            problem=room.problem,
        )

    def _sizes(self) -> dict[str, int]:
        """Bytes of the disks that what is in the ledger was made of, by its id."""
        with self._database.read() as connection:
            rows = connection.execute(select(resource.c.id, resource.c.size_bytes).where(resource.c.id != ""))
            return {str(row.id): int(row.size_bytes) for row in rows}

    def _bases(self) -> tuple[int, int]:
        """How many snapshots are kept, and the bytes of their disks."""
        query = select(func.count(), func.coalesce(func.sum(resource.c.size_bytes), 0))
        with self._database.read() as connection:
            count, size = connection.execute(query.where(resource.c.kept_for.is_not(None))).one()
        return int(count), int(size)

    # clear

    def _clear(self, task: Task, ends: float) -> TaskAnswer:
        """Ends what this fleet keeps in an account that the console does not name any more, once its scans and results are through.

        What could be cleared goes on being so without this task. Raises `ConfigError`, `CloudError`, `Unavailable`, `Fenced`.
        """
        installation = kept.installation(self._database, self._settings.installation)
        clouds = clouds_of(self._settings, self._database, installation, sweeping=True)
        cloud, _, account = (task.account or "").partition("://")
        self._until_not_named(cloud, account)
        sizes = self._sizes()
        deleted: dict[tuple[str, str, str], SweptLine] = {}
        while True:
            with self._database.write() as connection:
                self._fence.guard(connection)
                leaving.hasten(connection, cloud, account)
                if task.evidence:
                    evidence.forget(connection, cloud, account)
            failed = []
            for one in sweep_clouds(self._database, self._fence, clouds, only=(cloud, account)):
                line = _swept(one, sizes)
                if line.problem:
                    failed.append(line)
                else:
                    deleted[line.place, line.kind, line.id or line.of] = line
            with self._database.read() as connection:
                rest = leaving.rest(connection, cloud, account, kept.now_ms(self._database, connection))
            waits = _rest_words(rest)
            if not waits or time.monotonic() > ends - _LOOK_SECONDS or self._ended.wait(_LOOK_SECONDS):
                break
        if not waits and not failed and not rest.evidence:  # its role may go: it is not entered any more
            with self._database.write() as connection:
                self._fence.guard(connection)
                leaving.hasten(connection, cloud, account, cleared=True)
        found = [*failed, *deleted.values()]
        return TaskAnswer(
            installation=installation,
            swept=tuple(found[:MOST_LINES]),
            more=len(found[MOST_LINES:]),
            evidence=rest.evidence,
            evidence_until=datetime.fromtimestamp(rest.evidence_until_ms / 1000, UTC) if rest.evidence else None,
            problem=_words(waits),
        )

    def _until_not_named(self, cloud: str, account: str) -> None:
        """The console says so to `link` when it is next asked for orders. Raises `ConfigError` if it names it still."""
        ends = time.monotonic() + _KNOWN_SECONDS + self._settings.pull_seconds
        while any((one.cloud, one.account) == (cloud, account) for one in accounts(self._database)):
            if time.monotonic() > ends or self._ended.wait(self._settings.poll_seconds):
                raise ConfigError(
                    f"{cloud}://{account}: is one of this fleet's accounts still; it is to be removed before"
                )

    # check

    def _check(self, task: Task, ends: float) -> TaskAnswer:
        """Raises `ConfigError`, `Unavailable`, `Fenced`."""
        installation = kept.installation(self._database, self._settings.installation)
        account = self._account(task.account or "")
        room = _Room[CheckedLine](ends)
        room.take(self._checked(account, installation))
        problem = room.problem if room.lines else f"{task.account}: this fleet serves no region of it"
        return TaskAnswer(installation=installation, checked=tuple(room.lines), more=room.more, problem=problem)

    def _account(self, name: str) -> AccountIn:
        ends = time.monotonic() + _KNOWN_SECONDS
        while True:
            for one in accounts(self._database):
                if f"{one.cloud}://{one.account}" == name:
                    return one
            if time.monotonic() > ends or self._ended.wait(self._settings.poll_seconds):
                raise ConfigError(f"{name}: the account is not one of this fleet's")

    def _checked(self, account: AccountIn, installation: str) -> Iterator[CheckedLine]:
        """Every region that this fleet would enter, and what it may there; of a site, whether its file can be read."""
        clouds = clouds_of(self._settings, self._database, installation)
        for one in Inventory(self._settings).listings(account):
            self._fence.check()
            if isinstance(one, Unreachable):
                yield _failed(one.place, "enter", one.error)
            elif account.cloud == "file":
                yield _listed(one)
            else:
                try:
                    site = clouds.enter(one.place)
                except Error as error:
                    yield _failed(one.place, "enter", error)
                    continue
                if isinstance(site, AwsConnector):
                    yield from (_line(one.place, found) for found in check(site))


class _Room(Generic[L]):
    """Lines of one answer: as many as it has room for, and as come in time."""

    def __init__(self, ends: float) -> None:
        self._ends = ends
        self.lines: list[L] = []
        self.more = 0
        self.problem = ""

    def take(self, found: Iterable[L]) -> None:
        for one in found:
            if len(self.lines) < MOST_LINES:
                self.lines.append(one)
            else:
                self.more += 1
            if time.monotonic() > self._ends:
                self.problem = f"not all of it was done within {_SECONDS:.0f} seconds"
                return


def _rest_words(rest: leaving.Rest) -> str:
    """Empty if nothing is waited for. What is evidence is not."""
    counts = {
        "scans that are ending": rest.runs,
        "results that the console does not have yet": rest.unsent,
        "snapshots that could not be deleted yet": rest.there,
        f"what a killed scan may have made, looked for until {LISTED_SECONDS / 60:.0f} minutes after it": rest.late,
    }
    found = [f"{words}: {count:,}" for words, count in counts.items() if count]
    return f"not done with {'; '.join(found)}" if found else ""


def _pause_seconds(failed: int) -> float:
    return min(_LONGEST_PAUSE_SECONDS, 0.5 * 2.0 ** min(failed - 1, 16)) * random.uniform(0.5, 1)


def _words(text: str) -> str:
    return printable(text)[:1_000]


def _swept(one: Swept, sizes: Mapping[str, int]) -> SweptLine:
    problem = _words(str(one.error)) if one.error is not None else ""
    if one.resource is None:
        return SweptLine(place=_words(str(one.place)), problem=problem)
    return SweptLine(
        place=_words(str(one.place)),
        kind=one.resource.kind[:40],
        id=printable(one.resource.id)[:512],
        of=printable(one.resource.of)[:512],
        size_bytes=sizes.get(one.resource.id),
        problem=problem,
    )


def _line(place: Place, found: Checked) -> CheckedLine:
    return CheckedLine(
        place=_words(str(place)),
        permission=printable(found.permission)[:200],
        ok=found.ok,
        detail=_words(found.detail),
        advice=_words(found.advice),
    )


def _failed(place: Place, what: str, error: Error) -> CheckedLine:
    if isinstance(error, AccessDenied) and error.permission:
        return _line(place, Checked(error.permission, ok=False, detail=str(error), advice=advice(error.permission)))
    return _line(place, Checked(what, ok=False, detail=str(error)))


def _listed(listing: Listing) -> CheckedLine:
    """Of a site: its file can be read to its end."""
    what = "read the file of machines"
    try:
        count = sum(1 for _ in listing.instances)
    except Error as error:
        return _failed(listing.place, what, error)
    return _line(listing.place, Checked(what, ok=True, detail=f"{count:,} machines"))
