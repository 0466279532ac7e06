"""Accounts that the console names no longer: how to enter them is remembered until nothing of ours is left there.

No secret stands in what is remembered, as none stands in `client.model.AccountIn`. After `GRACE_SECONDS` the bases there are given
up, at once if somebody says so (`hasten`), and the sweeper deletes their snapshots; scans do not enter such an account any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, func, select

from client.model import ENDED, AccountIn
from scanner.fleet import kept
from scanner.fleet.database import Database
from scanner.fleet.slots import Fence
from scanner.fleet.tables import outbox, resource, scan
from scanner.ledger import LISTED_SECONDS

GRACE_SECONDS: Final = 3600.0  # somebody may have taken it away by mistake, or the console's database was lost
LEFT: Final = "left_accounts"  # of `kept`: JSON list of objects with `account`, `since_ms` and `cleared`
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Left:
    """`cleared`: nothing of ours is there, so that it is not entered any more, though scans ran there once."""

    account: AccountIn
    since_ms: int
    cleared: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.account.cloud, self.account.account


def left(connection: Connection) -> tuple[Left, ...]:
    """Those that are not entered by scans any more, cleared or to be cleared."""
    found = json.loads(kept.read(connection, LEFT, "[]"))
    return tuple(
        Left(AccountIn.model_validate(one["account"]), int(one["since_ms"]), bool(one["cleared"])) for one in found
    )


def told(database: Database, connection: Connection, before: Iterable[AccountIn], now: Sequence[AccountIn]) -> None:
    """The console names other accounts than before; what it names again is left no longer."""
    clock = kept.now_ms(database, connection)
    named = {(one.cloud, one.account) for one in now}
    known = left(connection)
    there = {one.key for one in known}
    new = [Left(one, clock) for one in before if one.cloud != "file" and (one.cloud, one.account) not in there]
    _write(connection, [one for one in (*known, *new) if one.key not in named])


def hasten(connection: Connection, cloud: str, account: str, *, cleared: bool = False) -> None:
    """Somebody says that it was no mistake: it is due now, or has been looked through. What is named again is not left, and stays so."""
    found = [
        replace(one, since_ms=0, cleared=cleared) if one.key == (cloud, account) else one for one in left(connection)
    ]
    _write(connection, found)


@dataclass(frozen=True, slots=True)
class Rest:
    """What keeps an account from being done with. `late`: what a scan that died may have made, and is not listed yet."""

    runs: int  # scans that are in it
    unsent: int  # results that the console does not have
    there: int  # snapshots and such
    late: int
    evidence: int  # kept on purpose …
    evidence_until_ms: int  # … until the last of it is free


def rest(connection: Connection, cloud: str, account: str, now_ms: int) -> Rest:
    in_it = (scan.c.cloud == cloud, scan.c.account == account)
    runs = select(func.count()).where(*in_it, scan.c.attempt > 0, scan.c.state.not_in(ENDED))
    unsent = select(func.count()).select_from(outbox.join(scan, scan.c.id == outbox.c.scan))
    unsent = unsent.where(*in_it, outbox.c.sent_ms.is_(None), outbox.c.refused.is_(None))
    theirs = (resource.c.cloud == cloud, resource.c.account == account)
    rows = connection.execute(select(resource.c.id, resource.c.evidence_until_ms).where(*theirs)).all()
    kept_ms = [row.evidence_until_ms for row in rows if (row.evidence_until_ms or 0) > now_ms]
    late = sum(not row.id and (row.evidence_until_ms or 0) <= now_ms for row in rows)
    return Rest(
        runs=connection.execute(runs).scalar_one(),
        unsent=connection.execute(unsent).scalar_one(),
        there=len(rows) - late - len(kept_ms),
        late=late,
        evidence=len(kept_ms),
        evidence_until_ms=max(kept_ms, default=0),
    )


def settle(database: Database, fence: Fence | None, give_up: Callable[[Connection, str, str], object]) -> None:
    """`give_up` the bases of those that were left for long enough; where nothing of ours can be, that is cleared.

    Raises `Unavailable`, `Fenced`.
    """
    with database.read() as connection:
        if all(one.cleared for one in left(connection)):
            return
    with database.write() as connection:
        if fence is not None:
            fence.guard(connection)
        now = kept.now_ms(database, connection)
        found = []
        for one in left(connection):
            is_due = now - one.since_ms >= GRACE_SECONDS * 1000
            if is_due and not one.cleared:
                give_up(connection, *one.key)
            cleared = one.cleared or (is_due and not _may_hold(connection, one, now))
            found.append(replace(one, cleared=cleared))
        _write(connection, found)


def _may_hold(connection: Connection, one: Left, now: int) -> bool:
    """The ledger names something there, or a scan ran so lately that what it made may not be listed yet."""
    cloud, account = one.key
    named = select(resource.c.number).where(resource.c.cloud == cloud, resource.c.account == account)
    lately = now - int(LISTED_SECONDS * 1000)
    runs = select(scan.c.id).where(
        scan.c.cloud == cloud,
        scan.c.account == account,
        scan.c.attempt > 0,
        scan.c.state.not_in(ENDED) | (scan.c.ended_ms > lately),
    )
    return any(connection.execute(query.limit(1)).first() is not None for query in (named, runs))


def _write(connection: Connection, found: Sequence[Left]) -> None:
    document: list[dict[str, Any]] = [
        {"account": one.account.model_dump(mode="json"), "since_ms": one.since_ms, "cleared": one.cleared}
        for one in found[:_MOST]
    ]
    text = json.dumps(document)
    if kept.read(connection, LEFT, "[]") != text:
        kept.write(connection, LEFT, text)
