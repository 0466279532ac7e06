"""What the console says becomes what the fleet's database holds: in one transaction, so that nothing is lost or done twice."""

from __future__ import annotations

from typing import Final

from pydantic import TypeAdapter
from sqlalchemy import Connection

from client.model import AccountIn, Order, Pull, ScanOrder
from scanner.fleet import admission, kept, leaving
from scanner.fleet.database import Database
from scanner.fleet.slots import Fence

REGISTERED: Final = "registered"  # when the console says that it first heard of us
RECONCILE: Final = "reconcile_order"  # number of the last order to list all accounts
_ACCOUNTS: Final = TypeAdapter(tuple[AccountIn, ...])
_MOST: Final = {"cloud": 40, "account": 200, "region": 200}  # what the columns hold


def cursor(connection: Connection) -> int:
    return int(kept.read(connection, kept.CURSOR, "0"))


def accounts(connection: Connection) -> tuple[AccountIn, ...]:
    """As the console told them last."""
    return _ACCOUNTS.validate_json(kept.read(connection, kept.ACCOUNTS, "[]"))


def registered(database: Database, fence: Fence, when: str) -> bool:
    """False: this is another console than before, or one that lost its database, whose orders are numbered from the beginning.

    Raises `Unavailable`, `Fenced`.
    """
    with database.write() as connection:
        fence.guard(connection)
        before = kept.read(connection, REGISTERED, when)
        kept.write(connection, REGISTERED, when)
        if before != when:
            kept.write(connection, kept.CURSOR, "0")
    return before == when


def take(database: Database, fence: Fence, pull: Pull, offset_ms: int) -> tuple[int, list[str]]:
    """Write down what is new in `pull`: how many orders, and what of them was not understood. Raises `Unavailable`, `Fenced`.

    Nothing is written if nothing is new.
    """
    told = _ACCOUNTS.dump_json(pull.accounts).decode()
    with database.read() as connection:
        last = cursor(connection)
        same = (
            kept.read(connection, kept.ACCOUNTS) == told
            and kept.read(connection, kept.CLOCK_OFFSET_MS) == str(offset_ms)
            and all(order.number <= last for order in pull.orders)
        )
    if same:
        return 0, []
    with database.write() as connection:
        fence.guard(connection)
        kept.write(connection, kept.CLOCK_OFFSET_MS, str(offset_ms))
        leaving.told(database, connection, accounts(connection), pull.accounts)
        kept.write(connection, kept.ACCOUNTS, told)
        last = cursor(connection)
        new = sorted((order for order in pull.orders if order.number > last), key=lambda order: order.number)
        scans = _Scans(database, connection)
        problems = [words for order in new if (words := _apply(database, connection, order, scans))]
        problems += scans.problems()
        if new:
            kept.write(connection, kept.CURSOR, str(new[-1].number))
    return len(new), problems


class _Scans:
    """Scans that are ordered in one transaction: written down while there is room."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self._database = database
        self._connection = connection
        self._room: admission.Room | None = None
        self._refused = 0
        self._left = 0

    def take(self, wanted: ScanOrder) -> None:
        room = self._room = self._room or admission.Room.of(self._connection)
        if room.wait > 0:
            room.wait -= admission.write_down(self._database, self._connection, wanted)
        elif room.refused > 0:
            refused = admission.refuse(self._database, self._connection, wanted)
            room.refused -= refused
            self._refused += refused
        else:
            self._left += 1

    def problems(self) -> list[str]:
        waiting = f"as {admission.MOST_WAITING:,} wait already"
        found = [f"orders of scans refused: {self._refused}, {waiting}"] if self._refused else []
        unsent = f"and the console does not take the {admission.MOST_UNSENT:,} results before them"
        return found + ([f"orders of scans left aside: {self._left}, {waiting} {unsent}"] if self._left else [])


def _apply(database: Database, connection: Connection, order: Order, scans: _Scans) -> str:
    """Empty, or what is wrong with it."""
    match order.kind, order.order, order.scan:
        case "scan", ScanOrder() as wanted, _ if _fits(wanted):
            scans.take(wanted)
        case "reconcile", _, _:
            kept.write(connection, RECONCILE, str(order.number))
        case "stop", _, str(scan):
            admission.stop(database, connection, scan)
        case "pause", _, str(scan):
            admission.pause(database, connection, scan)
        case "resume", _, str(scan):
            admission.pause(database, connection, scan, on=False)
        case _:
            return f"order {order.number} ({order.kind}) lacks what it is about, and was left aside"
    return ""


def _fits(order: ScanOrder) -> bool:
    return all(len(getattr(order.place, name)) <= most for name, most in _MOST.items()) and len(order.placement) <= 512
