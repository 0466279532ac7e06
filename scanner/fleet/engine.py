"""The durable engine: which steps of a scan are done, and going on from there after a crash. The only module that knows DBOS.

A *workflow* is a function that calls *steps*; a step that ended is never run again, a step that was cut off is run again from
its beginning. So a workflow decides only by what its steps returned, and each effect belongs into a step and can be repeated
(ADR 0012). What steps take and return is JSON. https://docs.dbos.dev/python/tutorials/workflow-tutorial

One engine to a process, as DBOS has it; its name is the slot's.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from enum import StrEnum
from typing import Final, ParamSpec, Protocol, TypeVar

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, PortableWorkflowError, SetWorkflowID
from dbos._error import DBOSException, DBOSInitializationError  # they have no public names
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from core.errors import ConfigError, Error, Unavailable
from scanner.fleet.database import Database, postgres_engine, prepare_file, set_up_sqlite

# Only workflows of the same version are gone on with. It changes when running workflows could not go on in new code.
APPLICATION_VERSION: Final = "1"
SCHEMA: Final = "dbos"
_BUSY_SECONDS: Final = 30
_PAUSE_SECONDS: Final = 1.0
_MOST_FORGOTTEN: Final = 500  # at once
_MAX_RECOVERIES: Final = 20  # a scan that takes its worker down each time must not do so for ever

P = ParamSpec("P")
R = TypeVar("R")


class Status(StrEnum):
    RUNNING = "running"  # or to be gone on with when its slot has a worker again
    DONE = "done"
    FAILED = "failed"  # it raised, or took its worker down too often


class StepFailed(Error):
    """A step raised; the same now and when the workflow is run again from memory. `kind` is the name of the error's class."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Fencing(Protocol):
    """What the engine needs of `slots.Fence`."""

    def check(self) -> None: ...
    def guard(self, connection: Connection) -> None: ...


class _Gate(AbstractContextManager[None]):
    """Each step passes here. Closed, it holds back what wants to begin, for ever: the process is about to end.

    Nothing is raised into a workflow instead: its `finally` would then take away what it is still to use.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._closed = False
        self.check: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._running += 1
        try:
            self.check()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def close(self, timeout_seconds: float) -> bool:
        """True if no step is left running."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: not self._running, timeout_seconds)

    def open(self, check: Callable[[], None]) -> None:
        with self._changed:
            self.check, self._closed = check, False


_GATE: Final = _Gate()


def durable(function: Callable[P, R]) -> Callable[P, R]:
    """Registers a workflow, under its qualified name: once per name, before `launch`."""
    return DBOS.workflow(max_recovery_attempts=_MAX_RECOVERIES)(function)


def step(function: Callable[P, R]) -> Callable[P, R]:
    """A step of a workflow. It begins only while the slot is ours; whatever it raises becomes `StepFailed`.

    While the fleet's database is away (`Unavailable`) it is run again until it is back or the slot is lost.
    """

    @functools.wraps(function)
    def patient(*args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                return function(*args, **kwargs)
            except Unavailable:
                time.sleep(_PAUSE_SECONDS)
                _GATE.check()

    recorded = DBOS.step()(patient)

    @functools.wraps(function)
    def passed(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _GATE:
                return recorded(*args, **kwargs)
        except DBOSException:
            raise
        except PortableWorkflowError as error:  # from memory
            raise StepFailed(error.name, str(error.message)) from error
        except Exception as error:
            raise StepFailed(type(error).__name__, str(error)) from error

    return passed


def sleep(seconds: float) -> None:
    """In a workflow: wait; what is left of it is waited after a crash."""
    DBOS.sleep(seconds)


def launch(database: Database, name: str, fence: Fencing, *, migrate: bool = True) -> None:
    """Start the engine called `name`: it goes on with all workflows that it had begun. `fence` is asked before each step and
    each commit. Raises `ConfigError`, also if its tables would have to be made or changed and it may not `migrate`.

    The name is both DBOS's executor and its application. In 3.4.0 recovery puts workflows on a queue from which *any* process
    of the same application takes them; with the slot as application, only the slot's own does.
    """
    if os.environ.get("DBOS__CLOUD") == "true":
        raise ConfigError("DBOS__CLOUD is set: this engine runs on its own database only; unset it")
    engine = _engine(database)

    @event.listens_for(engine, "commit")
    def before_commit(connection: Connection) -> None:
        if database.is_sqlite:
            fence.check()
        else:
            fence.guard(connection)

    config = DBOSConfig(
        name=f"kumomori-{name}",
        executor_id=name,
        application_version=f"{APPLICATION_VERSION}/{name}",  # DBOS wants it to be of one application only
        system_database_url=engine.url.render_as_string(hide_password=False),
        system_database_engine=engine,
        dbos_system_schema=SCHEMA,
        serializer=DBOSPortableJSONSerializer(),
        use_listen_notify=False,
        run_migrations=migrate,
        enable_otlp=False,
        log_level="ERROR",
    )
    DBOS(config=config)
    _GATE.open(fence.check)
    try:
        DBOS.launch()
    except DBOSInitializationError as error:
        if migrate:
            raise
        raise ConfigError("the fleet's engine is of another version of Kumomori: upgrade the fleet first") from error


def _engine(database: Database) -> Engine:
    return sqlite_engine(engine_file(database.url)) if database.is_sqlite else postgres_engine(database.url)


def engine_file(url: URL) -> URL:
    """Beside the fleet's own file: DBOS takes its write lock for long enough to be in the way."""
    return url.set(database=os.path.join(os.path.dirname(str(url.database)), "engine.sqlite"))  # noqa: PTH118, PTH120


def sqlite_engine(url: URL) -> Engine:
    """As DBOS makes its own (it begins its transactions by itself), with WAL, which it does not set."""
    prepare_file(url)
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        set_up_sqlite(connection)
        connection.isolation_level = "IMMEDIATE"

    return engine


def start(workflow_id: str, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Begin a workflow, once: with an id that is known already nothing happens. Waits while the database is away."""
    with SetWorkflowID(workflow_id):
        DBOS.start_workflow(function, *args, **kwargs)


def status(workflow_id: str) -> Status | None:
    """None: no such workflow was begun. Waits while the database is away."""
    found = DBOS.get_workflow_status(workflow_id)
    match found and found.status:
        case None:
            return None
        case "SUCCESS":
            return Status.DONE
        case "PENDING" | "ENQUEUED" | "DELAYED":
            return Status.RUNNING
    return Status.FAILED


def forget(before: datetime) -> int:
    """Delete up to 500 workflows of this engine that ended before then, with their steps; how many."""
    found = DBOS.list_workflows(
        completed_before=before.isoformat(),
        status=["SUCCESS", "ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "CANCELLED"],
        executor_id=DBOS.executor_id,
        limit=_MOST_FORGOTTEN,
        load_input=False,
        load_output=False,
    )
    DBOS.delete_workflows([one.workflow_id for one in found])
    return len(found)


def shutdown(timeout_seconds: float) -> bool:
    """No new step begins; True as soon as those that run have ended and are written down, False if some still run then.

    Workflows are held where they are, and their threads do not end: the process must, by `os._exit`.
    """
    return _GATE.close(timeout_seconds)
