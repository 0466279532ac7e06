"""What the console does by itself, beside answering."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Self

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool

from console.api.requests import line
from console.clock import now
from console.context import Console
from console.store import filesets, findings, packages, tasks

LOG: Final = logging.getLogger("kumomori.console")
_EVERY_SECONDS: Final = 30.0


class Housekeeping:
    """An async context: while it is open, acceptances that ran out are taken back, sets of files and packages that nobody uses and old tasks removed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await run_in_threadpool(self._turn)
            except sa.exc.SQLAlchemyError as error:  # it is away or busy: the next turn is soon enough
                LOG.warning(line("housekeeping_failed", error=type(error).__name__))
            await asyncio.sleep(_EVERY_SECONDS)

    def _turn(self) -> None:
        time = now()
        filesets.prune(self._console.database, time)
        packages.prune(self._console.database, time)
        tasks.prune(self._console.database, time)
        with self._console.database.read() as connection:
            if not findings.any_lapsed(connection, time):
                return
        with self._console.database.write() as connection:
            findings.lapse(connection, time)
