"""The schedule: what is due next, and what is held."""

from __future__ import annotations

from client.model import PAGE, Hold, HoldOut, Schedule, Scope
from console.api.params import After, KeyQuery, Limit
from console.api.routes import needs, ring, router
from console.clock import now
from console.context import TheCaller, TheConsole
from console.problems import Refused
from console.store import schedule

api = router("schedule")


@api.get("/v1/schedule", **needs(Scope.READ))
def list_schedule(console: TheConsole, after: After = "", limit: Limit = PAGE) -> Schedule:
    """By due time; holds stand on the first page."""
    with console.database.read() as connection:
        return schedule.listed(connection, now(), after=after, limit=limit)


@api.put("/v1/schedule/holds", **needs(Scope.SCAN, 404))
def put_hold(hold: Hold, console: TheConsole, caller: TheCaller) -> HoldOut:
    """Until it is taken back or its time has come, nothing that is scheduled begins there. What runs goes on."""
    if not hold.scope.isprintable():
        raise Refused(422, "scope: it has characters that cannot be printed")
    with console.database.write() as connection:
        held = schedule.hold(connection, hold, caller.name, now())
    ring(console, plan=True)
    return held


@api.delete("/v1/schedule/holds", status_code=204, **needs(Scope.SCAN, 404))
def delete_hold(console: TheConsole, caller: TheCaller, scope: KeyQuery) -> None:
    with console.database.write() as connection:
        schedule.release(connection, scope, caller.name, now())
    ring(console, plan=True)
