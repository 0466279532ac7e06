"""Scans that do nothing but take their time, for real workers on a real database: `--work bench.fleet_work`.

`FLEET_SCAN_SECONDS` is how long each takes, `FLEET_TOTAL` the limit in total, `FLEET_CAPACITY` how many a worker runs at once.
"""

from __future__ import annotations

import os
import time

from client.model import ScanState
from scanner.fleet import admission, engine
from scanner.fleet.admission import Serving
from scanner.fleet.context import Claims
from scanner.fleet.database import Database
from scanner.fleet.slots import Fence
from scanner.fleet.turn import Limits


class _State:
    database: Database
    fence: Fence


@engine.step
def pretend(token: str) -> None:
    time.sleep(float(os.environ["FLEET_SCAN_SECONDS"]))
    scan_id, _ = admission.scan_of(token)
    with _State.database.write() as connection:
        _State.fence.guard(connection)
        if admission.is_live(connection, token):
            admission.end(_State.database, connection, scan_id, ScanState.DONE)


@engine.durable
def scan(token: str) -> None:
    pretend(token)


def work(database: Database, fence: Fence) -> Claims:
    _State.database, _State.fence = database, fence
    limits = Limits(int(os.environ["FLEET_TOTAL"]))
    return Claims(database, Serving(int(os.environ["FLEET_CAPACITY"]), limits=limits))
