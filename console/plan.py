"""The planner at work: what the database knows goes into `console.planner`, and what comes out is written down.

One console plans at a time, by a lease. A turn looks only at instances of which something was told since, whose policies changed,
or whose time has come, so an estate in which nothing happens costs three look-ups. The rows of a turn stay locked until all of it is
written, and scans have deterministic ids: whatever fails half-way is done again and orders nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from starlette.concurrency import run_in_threadpool

from client.model import ENDED, ScanState, Why
from console import planner
from console.api.requests import line
from console.clock import ASTRAY
from console.clock import now as clock
from console.context import Console
from console.planner import Hold, LastScan, Machine, OpenScan, Plan, Rules
from console.policies import Resolution, StoredPolicies
from console.store import orders, tables
from console.store.database import Database
from console.store.estate import INSTANCE
from console.times import Clockwork
from core.errors import ConfigError

LOG: Final = logging.getLogger("kumomori.console")
EVERY_SECONDS: Final = 5.0
_LEAST_SECONDS: Final = 0.5
LEASE: Final = timedelta(seconds=30)
BATCH: Final = 500  # instances in one transaction …
_MOST_TOLD: Final = BATCH * 3 // 4  # … and of them those of which something was told: a fleet may tell without end
_PUT_OFF: Final = timedelta(minutes=10)
_STOPPED: Final = "no scans are planned at the moment: the console's log says why"
_CANNOT: Final = "it could not be planned, by a fault of the console: its log says more"
_LEASE_NAME: Final = "plan"


@dataclass(slots=True)
class Turn:
    """What a turn did: how many instances it looked at, which fleets have new orders, and when the next is due if nobody rings."""

    planned: int = 0
    fleets: set[str] = field(default_factory=set)
    again_seconds: float = EVERY_SECONDS
    ours: bool = True  # or another console plans


class Planning:
    """An async context: while it is open, this console plans if no other does. Rings of `plan` are heard at once."""

    def __init__(self, console: Console, policies: StoredPolicies) -> None:
        self._turns: Final = Turns(console.database, policies)
        self._wake: Final = console.wake
        self._problems: Final = console.problems
        self._task: asyncio.Task[None] | None = None
        self._leaving = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leaving = True
        self._wake.ring("plan")
        if self._task is not None:  # a turn that is under way comes to its end
            await asyncio.gather(self._task, return_exceptions=True)
        await run_in_threadpool(self._turns.leave)

    async def _run(self) -> None:
        with self._wake.listen("plan") as bell:
            while not (self._leaving or self._wake.closed):
                turn = Turn()
                try:
                    turn = await run_in_threadpool(self._turns.turn, clock())
                    self._problems.pop("plan", None)
                except (sa.exc.SQLAlchemyError, ConfigError) as error:  # away, busy, or policies of a newer version
                    words = str(error) if isinstance(error, ConfigError) else None
                    LOG.warning(line("planning_failed", error=type(error).__name__, detail=words))
                    self._problems["plan"] = _STOPPED
                except Exception:  # the border: one odd row must not end all planning for good
                    LOG.exception(line("planning_failed"))
                    self._problems["plan"] = _STOPPED
                for fleet in turn.fleets:
                    self._wake.ring(f"orders/{fleet}")
                if turn.again_seconds > 0:
                    await bell.wait(turn.again_seconds)


class Turns:
    """One planner. Not for several threads."""

    def __init__(self, database: Database, policies: StoredPolicies, holder: str = "") -> None:
        self._database: Final = database
        self._policies: Final = policies
        self._holder: Final = holder or secrets.token_hex(16)
        self._clockwork: Final = Clockwork()
        self._until: datetime | None = None  # of our lease
        self._spent: tuple[datetime, dict[tuple[str, str], float]] | None = None

    def turn(self, now: datetime) -> Turn:
        """Look at up to `BATCH` instances. Raises `ConfigError` for policies that cannot be read."""
        if not self._leads(now):
            return Turn(ours=False)
        with self._database.read() as connection:
            resolution = self._policies.current(connection, now)
            keys = _due(connection, resolution.version, now)
            next_look = _next_look(connection) if not keys else None
        if not keys:
            seconds = (next_look - now).total_seconds() if next_look is not None else EVERY_SECONDS
            return Turn(again_seconds=min(max(seconds, _LEAST_SECONDS), EVERY_SECONDS))
        turn = Turn(again_seconds=0.0 if len(keys) >= _MOST_TOLD else _LEAST_SECONDS)
        self._look_at(keys, now, turn)
        return turn

    def _look_at(self, keys: Sequence[str], now: datetime, turn: Turn) -> None:
        """All of them in one transaction; if that fails, half by half, so that what cannot be planned keeps nobody else waiting."""
        try:
            with self._database.write() as connection:
                if not self._lease(connection, now):
                    turn.ours = False
                    return
                resolution = self._policies.current(connection, now)
                found = self._plan(connection, keys, resolution, now)
                turn.fleets |= write(connection, found, resolution.version, now)
            turn.planned += len(found.states)
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError, ConfigError):
            raise  # which is no fault of any of them
        except Exception:  # the border: one odd row must not end the planning of all
            if len(keys) == 1:
                LOG.exception(line("planning_failed", instance=keys[0]))
                self._put_off(keys[0], now)
                return
            middle = len(keys) // 2
            self._look_at(keys[:middle], now, turn)
            self._look_at(keys[middle:], now, turn)

    def _put_off(self, key: str, now: datetime) -> None:
        table = tables.instance
        with self._database.write() as connection:
            version = self._policies.version(connection)
            values = {"changed": False, "look": now + _PUT_OFF, "policy_version": version, "unprotected": _CANNOT}
            connection.execute(table.update().where(table.c.key == key).values(values))

    def leave(self) -> None:
        """Another console may go on at once."""
        if self._until is None:
            return
        table = tables.lease
        try:
            with self._database.write() as connection:
                connection.execute(table.delete().where(table.c.name == _LEASE_NAME, table.c.holder == self._holder))
        except sa.exc.SQLAlchemyError:  # it ends by itself
            return
        self._until = None

    def _leads(self, now: datetime) -> bool:
        if self._until is not None and now < self._until - LEASE / 2:
            return True
        with self._database.read() as connection:
            row = connection.execute(sa.select(tables.lease).where(tables.lease.c.name == _LEASE_NAME)).first()
        if row is not None and row.holder != self._holder and now < row.until <= now + ASTRAY:
            self._until = None
            return False
        with self._database.write() as connection:
            return self._lease(connection, now)

    def _lease(self, connection: Connection, now: datetime) -> bool:
        """Take or renew it; its row stays locked, so nobody else plans until this transaction ends."""
        table = tables.lease
        insert = (sqlite if self._database.sqlite else postgresql).insert(table)
        upsert = insert.values(name=_LEASE_NAME, holder=self._holder, until=now + LEASE).on_conflict_do_update(
            index_elements=["name"],
            set_={"holder": self._holder, "until": now + LEASE},
            where=sa.or_(table.c.holder == self._holder, table.c.until <= now, table.c.until > now + ASTRAY),
        )
        ours = connection.execute(upsert.returning(table.c.name)).first() is not None
        self._until = now + LEASE if ours else None
        return ours

    def _plan(self, connection: Connection, keys: Sequence[str], resolution: Resolution, now: datetime) -> Plan:
        table = tables.instance
        rows = connection.execute(
            sa.select(table).where(table.c.key.in_(keys)).order_by(table.c.key).with_for_update()
        ).all()
        open_scans = _open(connection, keys)
        last = _last(connection, keys, ended=True)
        account = tables.account
        fleets = {(row.cloud, row.account): row.fleet for row in connection.execute(sa.select(account))}
        machines = []
        for row in rows:
            instance = INSTANCE.validate_python(row.document)
            machines.append(
                Machine(
                    key=row.key,
                    instance=instance,
                    first_seen=row.first_seen,
                    rules=Rules() if row.closed is not None else resolution.rules(instance),
                    fleet=fleets.get((row.cloud, row.account)),
                    closed=row.closed is not None,
                    last_scanned=row.last_scanned,
                    last=last.get(row.key),
                    open=tuple(open_scans.get(row.key, ())),
                )
            )
        images = sorted({one.image for one in machines if one.image})
        asks_for_money = any("limits.month_usd" in one.rules.settings for one in machines)
        return planner.plan(
            machines,
            images=_last(connection, images, ended=False),
            holds=[Hold(row.scope, row.until) for row in connection.execute(sa.select(tables.hold))],
            spent_usd=self._spent_usd(connection, now) if asks_for_money else {},
            version=resolution.version,
            now=now,
            clockwork=self._clockwork,
        )

    def _spent_usd(self, connection: Connection, now: datetime) -> dict[tuple[str, str], float]:
        """What the scans of this month cost, by account; worked out anew every minute."""
        if self._spent is not None and timedelta() <= now - self._spent[0] < timedelta(minutes=1):
            return self._spent[1]
        table = tables.scan
        month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        rows = connection.execute(
            sa.select(table.c.cloud, table.c.account, sa.func.sum(table.c.usd))
            .where(table.c.ended >= month)
            .group_by(table.c.cloud, table.c.account)
        )
        found = {(cloud, account): float(usd) for cloud, account, usd in rows}
        self._spent = (now, found)
        return found


def _due(connection: Connection, version: int, now: datetime) -> list[str]:
    """Up to `BATCH` keys of instances: first those of which something was told."""
    table = tables.instance
    is_open = table.c.closed.is_(None)
    keys: dict[str, None] = {}
    told = (table.c.changed.is_(True),)
    for condition, most in (
        (told, _MOST_TOLD),
        ((is_open, table.c.look.is_(None)), BATCH),
        ((is_open, table.c.look <= now), BATCH),
        ((is_open, table.c.look > now + planner.LATEST_LOOK + ASTRAY), BATCH),
        ((is_open, table.c.policy_version < version), BATCH),
        (told, BATCH),
    ):
        if len(keys) < BATCH:
            query = sa.select(table.c.key).where(*condition).limit(most)
            keys.update(dict.fromkeys(connection.execute(query).scalars()))
    return list(keys)[:BATCH]


def _next_look(connection: Connection) -> datetime | None:
    table = tables.instance
    found: datetime | None = connection.execute(
        sa.select(sa.func.min(table.c.look)).where(table.c.closed.is_(None))
    ).scalar()
    return found


def _open(connection: Connection, keys: Sequence[str]) -> dict[str, list[OpenScan]]:
    scan, order = tables.scan, tables.order
    stop = order.alias("stop")
    rows = connection.execute(
        sa.select(
            scan,
            order.c.document,
            sa.exists().where(stop.c.scan == scan.c.id, stop.c.kind == "stop").label("stopping"),
        )
        .outerjoin(order, sa.and_(order.c.fleet == scan.c.fleet, order.c.number == scan.c.order_number))
        .where(scan.c.machine.in_(keys), scan.c.ended.is_(None))
    )
    found: dict[str, list[OpenScan]] = {}
    for row in rows:
        one = OpenScan(
            id=row.id,
            why=Why(row.why),
            state=ScanState(row.state),
            due=row.due,
            ordered=row.ordered,
            not_after=row.not_after,
            held=row.held,
            stopping=row.stopping,
            fleet=row.fleet,
            settings=(row.document or {}).get("settings", {}),
        )
        found.setdefault(row.machine, []).append(one)
    return found


def _last(connection: Connection, machines: Sequence[str], *, ended: bool) -> dict[str, LastScan]:
    """The newest scan of each machine, or the newest that has ended. One look-up in an index for each of them."""
    if not machines:
        return {}
    scan, other = tables.scan, tables.scan.alias("other")
    wanted = sa.select(other.c.id).where(other.c.machine == scan.c.machine)
    if ended:
        wanted = wanted.where(other.c.ended.is_not(None))
    newest = wanted.order_by(other.c.ordered.desc(), other.c.id.desc()).limit(1).correlate(scan).scalar_subquery()
    rows = connection.execute(
        sa.select(scan.c.machine, scan.c.id, scan.c.state, scan.c.ordered, scan.c.ended, scan.c.held).where(
            scan.c.machine.in_(machines), scan.c.id == newest
        )
    )
    return {row.machine: LastScan(row.id, ScanState(row.state), row.ordered, row.ended, row.held) for row in rows}


def write(connection: Connection, found: Plan, version: int, now: datetime) -> set[str]:
    """All of a plan, within the caller's transaction. The fleets that have new orders."""
    told: set[str] = set()
    anew = list(found.replacements)
    stops: dict[tuple[ScanState, str], list[str]] = {}
    for stop in found.stops:
        stops.setdefault((stop.state, stop.detail), []).append(stop.scan)
    given = {fleet: list(some) for fleet, some in found.orders.items()}
    for one in anew:
        if not orders.change(connection, one.same, now):
            stops.setdefault((ScanState.STOPPED, "the policy changed: it is ordered anew"), []).append(one.same.scan)
            given.setdefault(one.fleet, []).append(one.new)
    for (state, detail), scans in sorted(stops.items()):
        told |= orders.stop(connection, scans, state, detail, now)
    for fleet in sorted(given):
        if orders.order_scans(connection, fleet, given[fleet], now):
            told.add(fleet)
    told |= _tell(connection, "pause", found.pauses, now)
    told |= _tell(connection, "resume", found.resumes, now)
    _write_states(connection, found, version)
    return told


def _tell(connection: Connection, kind: orders.Telling, scans: Sequence[str], now: datetime) -> set[str]:
    if not scans:
        return set()
    table = tables.scan
    rows = connection.execute(
        sa.select(table.c.id, table.c.fleet)
        .where(table.c.id.in_(scans), table.c.state.not_in(ENDED))
        .order_by(table.c.fleet, table.c.id)
    ).all()
    for scan, fleet in rows:
        orders.tell(connection, fleet, kind, scan, now)
    connection.execute(table.update().where(table.c.id.in_(scans)).values(held=kind == "pause"))
    return {fleet for _, fleet in rows}


def _write_states(connection: Connection, found: Plan, version: int) -> None:
    if not found.states:
        return
    table = tables.instance
    statement = table.update().where(table.c.key == sa.bindparam("of"))
    names = ("policy", "mode", "unprotected", "next_scan", "look")
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in names}
    connection.execute(
        statement.values(changed=False, policy_version=version, **values),
        [{"of": one.key, **{f"new_{name}": getattr(one, name) for name in names}} for one in found.states],
    )
