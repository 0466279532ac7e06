"""What fleets are asked to do once, and what they answer: sweeps, the end of all that they keep in an account, and checks of what their roles may."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool

from client.model import CheckIn, ClearIn, FleetTasks, Scope, SweepIn, TaskAnswer, TaskOut, Tasks
from console.api.params import NameInPath, ScanInPath
from console.api.routes import needs, router
from console.clock import now
from console.context import Console, TheCaller, TheConsole
from console.store import tasks
from console.store.tokens import Caller

api = router("tasks")
_MOST_ANSWER = 8 << 20


@api.post("/v1/sweeps", **needs(Scope.ADMIN, 404, 409, 413))
def start_sweeps(wanted: SweepIn, console: TheConsole, caller: TheCaller) -> Tasks:
    """Fleets do so by themselves every few minutes; this is for who wants to know."""
    return _sweeps(console, caller, wanted, dry_run=False)


@api.post("/v1/sweeps/dry-run", **needs(Scope.SCAN, 404, 409, 413))
def start_dry_sweeps(wanted: SweepIn, console: TheConsole, caller: TheCaller) -> Tasks:
    """What would be deleted; nothing is."""
    return _sweeps(console, caller, wanted, dry_run=True)


@api.post("/v1/clears", **needs(Scope.ADMIN, 409, 413))
def start_clears(wanted: ClearIn, console: TheConsole, caller: TheCaller) -> Tasks:
    """Fleets do so by themselves an hour after an account was removed; this is for who takes their role away now."""
    with console.database.write() as connection:
        asked = tasks.clear(connection, wanted, caller.name, now())
    _ring(console, *asked)
    return Tasks(items=tuple(asked))


@api.post("/v1/checks", **needs(Scope.SCAN, 404, 413))
def start_check(wanted: CheckIn, console: TheConsole, caller: TheCaller) -> TaskOut:
    """The fleet tries each permission that a scan needs in every region of the account, and changes nothing."""
    with console.database.write() as connection:
        asked = tasks.check(connection, wanted, caller.name, now())
    _ring(console, asked)
    return asked


@api.get("/v1/tasks/{id}", **needs(Scope.READ, 404))
def get_task(id: ScanInPath, console: TheConsole) -> TaskOut:  # noqa: A002  its name in the address
    with console.database.read() as connection:
        return tasks.get(connection, id)


@api.get("/v1/fleets/{fleet}/tasks", **needs(Scope.FLEET))
async def get_tasks(
    fleet: NameInPath,
    request: Request,
    console: TheConsole,
    wait_seconds: Annotated[float, Query(ge=0, le=60, allow_inf_nan=False)] = 20.0,
) -> FleetTasks:
    """Waits until there is one, at most `wait_seconds`. What was not answered is handed out again."""
    end = time.monotonic() + wait_seconds
    with console.wake.listen(f"tasks/{fleet}") as bell:
        while True:
            found = await run_in_threadpool(tasks.fetch, console.database, fleet, now())
            left = end - time.monotonic()
            if found or left <= 0 or console.wake.closed or await request.is_disconnected():
                return FleetTasks(items=found)
            await bell.wait(min(left, console.settings.look_seconds))  # another console may have been asked


@api.post(
    "/v1/fleets/{fleet}/tasks/{id}", status_code=204, **needs(Scope.FLEET, 404, 413, most_body_bytes=_MOST_ANSWER)
)
def answer_task(fleet: NameInPath, id: ScanInPath, answer: TaskAnswer, console: TheConsole) -> None:  # noqa: A002  its name in the address
    """A second time: nothing changes."""
    with console.database.write() as connection:
        tasks.answer(connection, fleet, id, answer, now())


def _sweeps(console: Console, caller: Caller, wanted: SweepIn, *, dry_run: bool) -> Tasks:
    with console.database.write() as connection:
        asked = tasks.sweep(connection, wanted, caller.name, now(), dry_run=dry_run)
    _ring(console, *asked)
    return Tasks(items=tuple(asked))


def _ring(console: Console, *asked: TaskOut) -> None:
    for one in asked:
        console.wake.ring(f"tasks/{one.fleet}")
