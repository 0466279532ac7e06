"""What all parts of a running console share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Protocol

from fastapi import Depends, Request
from sqlalchemy import Connection

from client.model import Scope
from console.guesses import Guesses
from console.metrics import Metrics
from console.settings import Settings
from console.store.database import Database
from console.store.tokens import Caller
from console.surveys import Surveys
from console.wake import Wake
from core.estate import Instance

MOST_LARGE: Final = 4  # each may take some hundred MB while it is read


@dataclass(frozen=True, slots=True)
class Settled:
    """What the policies say of an instance: the name of the one that counts, and its effective settings by full name.

    `unprotected` says why it must not be scanned; empty if it may be.
    """

    policy: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    unprotected: str = ""


class Policies(Protocol):
    def version(self, connection: Connection) -> int:
        """Of the policies that hold now; 0 if there are none yet."""
        ...

    def settle(self, connection: Connection, instances: Sequence[Instance]) -> Sequence[Settled]:
        """What holds for each of `instances`, in their order."""
        ...


@dataclass(frozen=True)
class Console:
    settings: Settings
    database: Database
    policies: Policies
    wake: Wake = field(default_factory=Wake)
    metrics: Metrics = field(default_factory=Metrics)
    guesses: Guesses = field(default_factory=Guesses)
    surveys: Surveys = field(default_factory=Surveys)
    uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_LARGE))  # large bodies at once
    reading: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(MOST_LARGE)
    )  # reports at once
    problems: dict[str, str] = field(default_factory=dict)  # by what has them; `GET /health` tells them


async def _console(request: Request) -> Console:
    console: Console = request.app.state.console
    return console


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


TheConsole = Annotated[Console, Depends(_console)]
TheCaller = Annotated[Caller, Depends(_caller)]


def may_be(caller: Caller, fleet: str) -> bool:
    """`caller` may speak for `fleet`."""
    return caller.may(Scope.FLEET) and caller.may_be(fleet)
