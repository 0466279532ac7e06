"""Results, listings, stops and starts of the same machines at the same time."""

from __future__ import annotations

import random
import threading
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from client.digest import digest
from client.model import Compare, ScanState, Sighting
from console.clock import now
from console.problems import Refused
from console.store import estate, orders, results, scans, tables
from console.store.database import Database
from tests.console.made import FLEET, PLACE, enrol, finding, instance, key, ordered, report, result

IDS = [f"i-{number}" for number in range(6)]
SECONDS = 4.0


@pytest.mark.slow
def test_nobody_is_in_anybodys_way(database: Database) -> None:
    """No deadlock, no broken constraint; and in the end what everybody wrote fits together."""
    enrol(database, *IDS)
    errors: list[BaseException] = []
    end = time.monotonic() + SECONDS

    def repeat(seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < end and not errors:
            id_ = dice.choice(IDS)
            try:
                dice.choice([start_and_end, vanish, see, stop, fetch])(dice, id_)
            except Refused:
                pass  # it is closed, or has ended
            except Exception as error:  # noqa: BLE001  told below
                errors.append(error)

    def start_and_end(dice: random.Random, id_: str) -> None:
        scan = ordered(database, id_)
        found = [finding(name) for name in "abcdef" if dice.random() < 0.5]
        results.take(database, FLEET, result(scan, report(found)), now())

    def vanish(_: random.Random, id_: str) -> None:
        digests = {one: digest(instance(one)) for one in IDS if one != id_}
        estate.compare(database, FLEET, Compare(place=PLACE, listed=now(), complete=True, digests=digests), now())

    def see(_: random.Random, id_: str) -> None:
        estate.sight(database, FLEET, Sighting(instances=tuple(map(instance, (id_, *IDS[:3]))), seen=now()), now())

    def stop(_: random.Random, id_: str) -> None:
        with database.write() as connection:
            table = tables.scan
            scan = connection.execute(
                sa.select(table.c.id).where(table.c.machine == key(id_), table.c.ended.is_(None)).limit(1)
            ).scalar()
            if scan is not None:
                scans.tell(connection, scan, "stop", "me", now())

    def fetch(_: random.Random, __: str) -> None:
        orders.fetch(database, FLEET, 0, now())

    threads = [threading.Thread(target=repeat, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database.read() as connection:
        done = connection.execute(
            sa.select(sa.func.count()).select_from(tables.scan).where(tables.scan.c.state == ScanState.DONE.value)
        ).scalar()
        reports = connection.execute(sa.select(sa.func.count()).select_from(tables.report)).scalar()
        numbers = connection.execute(sa.select(tables.order.c.number)).scalars().all()
        last = connection.execute(sa.select(tables.order_counter.c.last)).scalar()
    assert done == reports and done
    assert max(numbers) <= (last or 0) and len(set(numbers)) == len(numbers)


def test_a_result_of_a_machine_that_is_gone_is_taken(database: Database) -> None:
    enrol(database, "i-1", seen=now() - timedelta(seconds=5))
    scan = ordered(database)
    orders.fetch(database, FLEET, 0, now())
    estate.compare(database, FLEET, Compare(place=PLACE, listed=now(), complete=True, digests={}), now())
    assert results.take(database, FLEET, result(scan, report([finding("a")])), now()).new
