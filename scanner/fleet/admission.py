"""Which scans wait, run and have ended: every change of that in one transaction, so that no limit can be passed.

A scan waits until a worker with room claims it for its slot. What it makes in a cloud carries the *token* of that attempt. It
ends in one transaction with its result for the console, or is put back to wait and is tried again under another token.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, case, delete, func, insert, or_, select, text, update

from client.model import ENDED, ResultIn, ScanKind, ScanOrder, ScanState, Why
from core.text import printable
from scanner.fleet import kept
from scanner.fleet.database import Database
from scanner.fleet.slots import Fence
from scanner.fleet.tables import base, draft, outbox, scan, slot
from scanner.fleet.turn import Candidate, Limits, Load, choose

MOST_FAILURES: Final = 5
MOST_WAITING: Final = 200_000  # orders; a console that was broken into gives them without an end
MOST_UNSENT: Final = 200_000  # results, when an order is refused for that
MOST_DETAIL: Final = 1000
ABANDONED_SECONDS: Final = 3600.0
OVERDUE_SECONDS: Final = 3600.0  # who has been due for so long has a part of the turns, whatever its priority: …
_OLDEST_EVERY: Final = 4  # … one of so many
_FIRST_PAUSE_SECONDS: Final = 30.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0
_LOCK: Final = 0x61646D69  # of PostgreSQL: one claim at a time
_MOST_AT_ONCE: Final = 200
_PRIORITY: Final = {why: place for place, why in enumerate(Why)}
_COLUMNS: Final = (
    scan.c.id,
    scan.c.machine,
    scan.c.placement,
    scan.c.cloud,
    scan.c.account,
    scan.c.region,
    scan.c.most_per_host,
    scan.c.most_per_account,
)


@dataclass(frozen=True, slots=True)
class Serving:
    """What a worker takes: `capacity` scans at once, in these clouds and regions (empty: any), within the fleet's limits.

    `small`: only scans that were never begun and begin from a base of their machine: a worker with little time.
    """

    capacity: int = 1
    clouds: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    small: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants of a running scan."""

    stop: bool = False
    pause: bool = False


def token(scan_id: str, attempt: int) -> str:
    """What all carries that is made for one attempt at a scan; also the name of its workflow."""
    return f"{scan_id}-{attempt}"


def scan_of(token: str) -> tuple[str, int]:
    """Of which scan, and which attempt at it; one that is no token of ours has attempt 0."""
    scan_id, _, attempt = token.rpartition("-")
    return (scan_id, int(attempt)) if attempt.isascii() and attempt.isdigit() and len(attempt) < 10 else (token, 0)


# orders in


@dataclass(slots=True)
class Room:
    """How many orders may still be written down: to `wait`, or to be `refused`."""

    wait: int
    refused: int

    @classmethod
    def of(cls, connection: Connection) -> Room:
        waiting = connection.execute(
            select(func.count()).where(scan.c.state.in_([ScanState.WAITING, ScanState.PAUSED]))
        ).scalar_one()
        unsent = connection.execute(select(func.count()).where(outbox.c.sent_ms.is_(None))).scalar_one()
        return cls(max(0, MOST_WAITING - waiting), max(0, MOST_UNSENT - unsent))


def refuse(database: Database, connection: Connection, order: ScanOrder) -> bool:
    """It has failed, since too many wait; False if it is known already, whatever became of it."""
    new = write_down(database, connection, order.model_copy(update={"settings": {}}))
    if new:
        words = f"{MOST_WAITING:,} scans wait in this fleet already; no more are taken until some have ended"
        end(database, connection, order.scan, ScanState.FAILED, words)
    return new


def write_down(database: Database, connection: Connection, order: ScanOrder) -> bool:
    """Let it wait; False if it is known already, whatever became of it."""
    limits = {name: order.settings.get(f"limits.{name}") for name in ("scans_per_host", "scans_per_account")}
    row = {
        "id": order.scan,
        "order": order.model_dump_json(),
        "kind": order.kind,
        "machine": _text(order.machine, 512),
        "cloud": _text(order.place.cloud, 40),
        "account": _text(order.place.account, 200),
        "region": _text(order.place.region, 200),
        "placement": _text(order.placement, 512),
        "priority": _PRIORITY[order.why],
        "not_before_ms": _ms(order.not_before),
        "not_after_ms": None if order.not_after is None else _ms(order.not_after),
        "most_per_host": _limit(limits["scans_per_host"]),
        "most_per_account": _limit(limits["scans_per_account"]),
        "state": ScanState.WAITING,
        "written_ms": kept.now_ms(database, connection),
    }
    new = database.insert_missing(connection, scan, [row]) == 1
    if new and (none := [name for name, value in limits.items() if _limit(value) == 0]):
        end(database, connection, order.scan, ScanState.FAILED, f"limits.{none[0]} is 0: no scan could ever start")
    return new


def _text(text: str, most: int) -> str:
    """As both databases take it. The order itself stays as it came."""
    return printable(text)[:most]


def _limit(value: Any) -> int | None:
    return min(value, 1 << 30) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def order_of(connection: Connection, scan_id: str) -> ScanOrder:
    found = connection.execute(select(scan.c.order).where(scan.c.id == scan_id)).scalar_one()
    return ScanOrder.model_validate_json(found)


def stop(database: Database, connection: Connection, scan_id: str) -> None:
    """One that waits ends now, one that runs as soon as it looks. Of one that is unknown or has ended, nothing."""
    row = _locked(database, connection, scan_id)
    if row is None or row.state in ENDED:
        return
    if row.state == ScanState.RUNNING:
        connection.execute(update(scan).where(scan.c.id == scan_id).values(stop=True))
        return
    end(database, connection, scan_id, ScanState.STOPPED, "it was stopped before it began")


def pause(database: Database, connection: Connection, scan_id: str, *, on: bool = True) -> None:
    """As `stop`: a running one puts away what it made and waits for `on=False`, from when it begins anew."""
    row = _locked(database, connection, scan_id)
    if row is None or row.state in ENDED:
        return
    waiting, paused = (ScanState.WAITING, ScanState.PAUSED) if on else (ScanState.PAUSED, ScanState.WAITING)
    changes: dict[str, Any] = {"pause": on}
    if row.state == waiting:
        changes["state"] = paused
    connection.execute(update(scan).where(scan.c.id == scan_id).values(**changes))


def _locked(database: Database, connection: Connection, scan_id: str) -> Any:
    found = select(scan).where(scan.c.id == scan_id)
    return connection.execute(found if database.is_sqlite else found.with_for_update()).first()


# to the workers


def claim(database: Database, fence: Fence, serving: Serving) -> str | None:
    """Take the next scan for the slot of `fence`; its token, or None if there is no room or none may start.

    What has missed its window ends here, too. Raises `Unavailable`, `Fenced`.
    """
    mine = fence.slot.name
    with database.write() as connection:
        fence.guard(connection)
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        now = kept.now_ms(database, connection)
        _end_missed(database, connection, now)
        busy = connection.execute(
            select(func.count()).where(scan.c.state == ScanState.RUNNING, scan.c.slot == mine)
        ).scalar_one()
        if busy >= serving.capacity:
            return None
        running = connection.execute(select(*_COLUMNS).where(scan.c.state == ScanState.RUNNING)).all()
        load = Load.of(Candidate(*row) for row in running)
        if load.is_full(serving.limits):
            return None
        # Without this, machines that come and go all day would keep those on a schedule from ever being scanned.
        turn = int(kept.read(connection, kept.TURN, "0"))
        waiting = select(*_COLUMNS).where(*_due(serving, now))
        chosen = None
        if turn % _OLDEST_EVERY == 0:
            late = waiting.where(scan.c.not_before_ms <= now - int(OVERDUE_SECONDS * 1000))
            chosen = _first(connection, late.order_by(scan.c.not_before_ms, scan.c.id), load, serving.limits)
        if chosen is None:
            after, accounts = _next_account(connection), (scan.c.cloud, scan.c.account)
            order = (scan.c.priority, after, *accounts, scan.c.not_before_ms, scan.c.id)
            chosen = _first(connection, waiting.order_by(*order), load, serving.limits)
        if chosen is None:
            return None
        kept.write(connection, kept.LAST, json.dumps([chosen.cloud, chosen.account]))
        kept.write(connection, kept.TURN, str((turn + 1) % _OLDEST_EVERY))
        # asked for anew: it begins after all that were seen to have ended
        return _start(connection, chosen.id, mine, kept.now_ms(database, connection))


def _next_account(connection: Connection) -> ColumnElement[int]:
    """Accounts take turns, in the order of their names: what is after the last one comes first. So many scans of one hold up no other."""
    cloud, account = json.loads(kept.read(connection, kept.LAST, '["", ""]'))
    later = or_(scan.c.cloud > cloud, and_(scan.c.cloud == cloud, scan.c.account > account))
    return case((later, 0), else_=1)


def _first(connection: Connection, waiting: Select[Any], load: Load, limits: Limits) -> Candidate | None:
    rows = connection.execute(waiting)
    chosen = choose((Candidate(*row) for row in rows), load, limits)
    rows.close()
    return chosen


def _due(serving: Serving, now: int) -> tuple[ColumnElement[bool], ...]:
    return (
        scan.c.state == ScanState.WAITING,
        scan.c.not_before_ms <= now,
        *([scan.c.cloud.in_(serving.clouds)] if serving.clouds else ()),
        *([or_(scan.c.region.in_(serving.regions), scan.c.cloud == "file")] if serving.regions else ()),
        *(_small(now) if serving.small else ()),
    )


def _small(now: int) -> tuple[ColumnElement[bool], ...]:
    has_base = select(base.c.scan).where(base.c.machine == scan.c.machine, base.c.expires_ms > now).exists()
    # the order's own words for a scan of everything, as `client.model` writes them: what is read anew is not small
    is_full = or_(scan.c.order.contains('"full":true'), scan.c.order.contains('"scan.depth":"full"'))
    return (scan.c.kind == ScanKind.INSTANCE, scan.c.cloud != "file", scan.c.attempt == 0, has_base, ~is_full)


def _start(connection: Connection, scan_id: str, name: str, now: int) -> str:
    attempt = connection.execute(
        update(scan)
        .where(scan.c.id == scan_id, scan.c.state == ScanState.WAITING)
        .values(
            state=ScanState.RUNNING,
            slot=name,
            attempt=scan.c.attempt + 1,
            step="",
            started_ms=func.coalesce(scan.c.started_ms, now),
            progress_ms=now,
        )
        .returning(scan.c.attempt)
    ).scalar_one()
    return token(scan_id, attempt)


def _end_missed(database: Database, connection: Connection, now: int) -> None:
    missed = connection.execute(
        select(scan.c.id)
        .where(scan.c.state.in_([ScanState.WAITING, ScanState.PAUSED]), scan.c.not_after_ms < now)
        .limit(_MOST_AT_ONCE)
    ).scalars()
    for scan_id in missed.all():
        end(database, connection, scan_id, ScanState.MISSED, "its window closed before it could start")


def held(database: Database, fence: Fence) -> Sequence[str]:
    """Tokens of the scans that run in the slot of `fence`. Raises `Unavailable`."""
    with database.read() as connection:
        rows = connection.execute(
            select(scan.c.id, scan.c.attempt).where(scan.c.state == ScanState.RUNNING, scan.c.slot == fence.slot.name)
        ).all()
    return [token(row.id, row.attempt) for row in rows]


def is_due(database: Database, serving: Serving | None = None) -> bool:
    """Whether a claim may find something: a look that keeps nobody waiting. Raises `Unavailable`."""
    with database.read() as connection:
        now = kept.now_ms(database, connection)
        missed = scan.c.state.in_([ScanState.WAITING, ScanState.PAUSED]) & (scan.c.not_after_ms < now)
        due = select(scan.c.id).where(or_(and_(*_due(serving or Serving(), now)), missed))
        return connection.execute(due.limit(1)).first() is not None


def is_left(database: Database, slots: Sequence[str]) -> bool:
    """Whether a scan runs in one of `slots` whose worker is dead, so that the next one there goes on. Raises `Unavailable`."""
    with database.read() as connection:
        left = (
            select(scan.c.id)
            .join(slot, slot.c.name == scan.c.slot)
            .where(
                scan.c.state == ScanState.RUNNING,
                slot.c.name.in_(slots),
                or_(slot.c.holder.is_(None), slot.c.lease_ends_ms <= database.now_ms(connection)),
            )
        )
        return connection.execute(left.limit(1)).first() is not None


def is_live(connection: Connection, token: str) -> bool:
    """Whether the attempt of this token runs, so that what carries it is needed."""
    scan_id, attempt = scan_of(token)
    return (
        connection.execute(
            select(scan.c.id).where(scan.c.id == scan_id, scan.c.attempt == attempt, scan.c.state == ScanState.RUNNING)
        ).first()
        is not None
    )


def progress(database: Database, fence: Fence, token: str, step: str) -> Asked:
    """Say where it is, hear what is wanted of it: of one that does not run any more, to stop. Raises `Unavailable`, `Fenced`."""
    scan_id, attempt = scan_of(token)
    with database.write() as connection:
        fence.guard(connection)
        row = connection.execute(
            update(scan)
            .where(scan.c.id == scan_id, scan.c.attempt == attempt, scan.c.state == ScanState.RUNNING)
            .values(step=step, progress_ms=kept.now_ms(database, connection))
            .returning(scan.c.stop, scan.c.pause)
        ).first()
    return Asked(stop=True) if row is None else Asked(bool(row.stop), bool(row.pause))


# results out


def end(
    database: Database,
    connection: Connection,
    scan_id: str,
    state: ScanState,
    detail: str = "",
    **result: Any,
) -> None:
    """The scan ends, and its result (fields of `ResultIn`) goes to the console: once, whoever says it first."""
    now = kept.now_ms(database, connection)
    row = _locked(database, connection, scan_id)
    if row is None or row.state in ENDED:
        return
    detail = printable(detail)[:MOST_DETAIL]
    done = ResultIn(
        scan=scan_id,
        state=state,
        detail=detail,
        attempt=min(max(row.attempt, 1), 1000),
        started=None if row.started_ms is None else _time(row.started_ms),
        ended=_time(now),
        policy_version=ScanOrder.model_validate_json(row.order).policy_version,
        **result,
    )
    connection.execute(
        update(scan).where(scan.c.id == scan_id).values(state=state, ended_ms=now, slot=None, step="", detail=detail)
    )
    connection.execute(delete(draft).where(draft.c.scan == scan_id))
    connection.execute(
        insert(outbox).values(scan=scan_id, result=done.model_dump_json(), made_ms=now, file_set=done.file_set)
    )


def again(
    database: Database,
    connection: Connection,
    scan_id: str,
    detail: str,
    *,
    after_seconds: float = 0.0,
    most: int = MOST_FAILURES,
) -> None:
    """It failed for a reason that may pass: it waits, longer each time, then after `most` failures fails for good."""
    row = _locked(database, connection, scan_id)
    if row is None or row.state != ScanState.RUNNING:
        return
    failures = row.failures + 1
    pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.5)
    due = kept.now_ms(database, connection) + int(max(pause, min(after_seconds, _LONGEST_PAUSE_SECONDS)) * 1000)
    if failures >= most:
        end(database, connection, scan_id, ScanState.FAILED, f"tried {failures} times: {detail}")
    elif row.not_after_ms is not None and due > row.not_after_ms:
        end(
            database, connection, scan_id, ScanState.FAILED, f"its window closes before it can be tried again: {detail}"
        )
    else:
        _put_back(connection, row, failures=failures, not_before_ms=due, detail=printable(detail)[:MOST_DETAIL])


def rescue(database: Database, connection: Connection) -> int:
    """Let scans wait anew whose slot has had no worker for long, as when a fleet is made smaller; how many there were.

    Those that are to be tried again later than ever are, as the clock has been set back since, are tried now.
    """
    due = kept.now_ms(database, connection)
    late = due + 2 * int(_LONGEST_PAUSE_SECONDS * 1000)
    connection.execute(
        update(scan)
        .where(scan.c.state == ScanState.WAITING, scan.c.failures > 0, scan.c.not_before_ms > late)
        .values(not_before_ms=due)
    )
    now = database.now_ms(connection)
    long = int(ABANDONED_SECONDS * 1000)
    lost = connection.execute(
        select(scan.c.id)
        .join(slot, slot.c.name == scan.c.slot)
        .where(
            scan.c.state == ScanState.RUNNING,
            or_(
                (slot.c.lease_ends_ms < now) & (slot.c.heartbeat_ms < now - long),
                slot.c.heartbeat_ms
                > now + long,  # of before the clock was set back: who lives says so every few seconds
            ),
        )
        .limit(_MOST_AT_ONCE)
    ).scalars()
    found = lost.all()
    for scan_id in found:
        again(database, connection, scan_id, f"its slot had no worker for {ABANDONED_SECONDS:g} s")
    return len(found)


def put_back(database: Database, connection: Connection, scan_id: str) -> None:
    """It was paused, and has put away what it made."""
    row = _locked(database, connection, scan_id)
    if row is not None and row.state == ScanState.RUNNING:
        _put_back(connection, row)


def _put_back(connection: Connection, row: Any, **changes: Any) -> None:
    state = ScanState.PAUSED if row.pause else ScanState.WAITING
    connection.execute(update(scan).where(scan.c.id == row.id).values(state=state, slot=None, step="", **changes))
    connection.execute(delete(draft).where(draft.c.scan == row.id))


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
