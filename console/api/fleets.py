"""What fleets fetch and send."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool

from client.model import (
    MOST_REPORT_BYTES,
    Compare,
    Compared,
    FleetIn,
    FleetOut,
    FleetStatus,
    Pull,
    ResultIn,
    ScanOut,
    Scope,
    Sighting,
)
from console.api.params import NameInPath
from console.api.routes import needs, ring, router
from console.clock import now
from console.context import Console, TheCaller, TheConsole
from console.problems import Refused
from console.store import accounts, estate, fleets, orders, results, scans

api = router("fleets")
_MIB = 1 << 20
_MOST_RESULT = MOST_REPORT_BYTES // 3 * 4 + _MIB
_MOST_COMPARE = 32 * _MIB
_MOST_SIGHTING = 16 * _MIB
_MOST_STATUS = 4 * _MIB


@api.get("/v1/fleets", **needs(Scope.READ))
def list_fleets(console: TheConsole) -> list[FleetOut]:
    with console.database.read() as connection:
        return fleets.everything(connection)


@api.put("/v1/fleets/{fleet}", **needs(Scope.FLEET, 413))
def register_fleet(fleet: NameInPath, wanted: FleetIn, console: TheConsole, caller: TheCaller) -> FleetOut:
    if wanted.name != fleet:
        raise Refused(422, "name: it is not that of the address")
    with console.database.write() as connection:
        return fleets.register(connection, wanted, caller.name, now())


@api.get("/v1/fleets/{fleet}/orders", **needs(Scope.FLEET))
async def get_orders(
    fleet: NameInPath,
    request: Request,
    console: TheConsole,
    after: Annotated[int, Query(ge=0, le=1 << 60)] = 0,
    wait_seconds: Annotated[float, Query(ge=0, le=60, allow_inf_nan=False)] = 20.0,
) -> Pull:
    """Waits until there is an order, at most `wait_seconds`; no thread is held meanwhile."""
    end = time.monotonic() + wait_seconds
    with console.wake.listen(f"orders/{fleet}") as bell:
        while True:
            pull = await run_in_threadpool(_pull, console, fleet, after)
            left = end - time.monotonic()
            if pull.orders or left <= 0 or console.wake.closed or await request.is_disconnected():
                return pull
            await bell.wait(min(left, console.settings.look_seconds))  # another console may have written an order


def _pull(console: Console, fleet: str, after: int) -> Pull:
    found = orders.fetch(console.database, fleet, after, now())
    with console.database.read() as connection:
        entered = accounts.of_fleet(connection, fleet)
    return Pull(now=now(), orders=found, accounts=entered)


@api.post("/v1/fleets/{fleet}/status", status_code=204, **needs(Scope.FLEET, 404, 413, most_body_bytes=_MOST_STATUS))
def put_status(fleet: NameInPath, status: FleetStatus, console: TheConsole) -> None:
    time_now = now()
    with console.database.write() as connection:
        fleets.seen(connection, fleet, status, time_now)
        scans.progress(connection, fleet, status)


@api.post("/v1/fleets/{fleet}/results", **needs(Scope.FLEET, 404, 409, 413, most_body_bytes=_MOST_RESULT))
def put_result(fleet: NameInPath, result: ResultIn, console: TheConsole) -> ScanOut:
    """A second time: the same answer, and nothing changes. A later attempt at a scan that has ended is ignored."""
    taken = results.take(console.database, fleet, result, now(), console.reading)
    console.metrics.results.labels("taken" if taken.new else "known").inc()
    if taken.new:
        ring(console, plan=True)
    return taken.scan


@api.post("/v1/fleets/{fleet}/compare", **needs(Scope.FLEET, 404, 413, most_body_bytes=_MOST_COMPARE))
def compare_instances(fleet: NameInPath, listing: Compare, console: TheConsole) -> Compared:
    compared, told = estate.compare(console.database, fleet, listing, now())
    ring(console, told, plan=bool(compared.closed))
    return compared


@api.post(
    "/v1/fleets/{fleet}/sightings", status_code=204, **needs(Scope.FLEET, 404, 409, 413, most_body_bytes=_MOST_SIGHTING)
)
def put_sightings(fleet: NameInPath, sighting: Sighting, console: TheConsole) -> None:
    told = estate.sight(console.database, fleet, sighting, now())
    ring(console, told.fleets, plan=bool(told.changed))
