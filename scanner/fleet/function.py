"""A worker of a fleet for a quarter of an hour: a container function of AWS Lambda, started by a schedule.

It takes scans that begin from a base (`Settings.small_scans`), in slots of its own (`function-1` …), beside the workers of the
fleet, which do all others and send the results. Nothing due: it returns at once. Its time over: what runs puts away what it made and
waits for a worker that has time. Killed: the next function in that slot goes on where it was, or after an hour without one the
fleet's sweeper lets the scan wait anew. It is the fleet's guest: it changes no table of the database.

The worker is a process of its own, as everywhere; Lambda freezes the one that it started between two runs.
Source: AWS Lambda developer guide, "Lambda execution environment", "Python context object".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from cloud.aws.accounts import Sessions
from cloud.aws.secrets import read_secret
from core.errors import ConfigError
from scanner.fleet import admission
from scanner.fleet.context import serving
from scanner.fleet.database import Database, checked_url
from scanner.fleet.migrations import check
from scanner.fleet.settings import PREFIX, Settings

Answer = dict[str, Any]

POOL: Final = "function"
LEAVE_SECONDS: Final = 90.0  # before the deadline: time to put away what was made
KILL_SECONDS: Final = 10.0  # before the deadline: whatever still runs then is gone on with by the next one
LEAST_SECONDS: Final = LEAVE_SECONDS + 30.0
_OURS: Final = "KUMOMORI_FUNCTION_"
_POLL_SECONDS: Final = 0.1
_MOST_SLOTS: Final = 1000


class Context(Protocol):
    """What the runtime tells of this run."""

    def get_remaining_time_in_millis(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Visit:
    """What the environment says: a worker's settings, and how many functions may run at once. `keys`: text of manifest.keys."""

    settings: Settings
    slots: int
    keys: str

    def __repr__(self) -> str:
        return f"Visit(slots={self.slots})"  # the others are secrets


def handler(_: object, context: Context) -> Answer:
    """`worker`: `none` (nothing was due), `ended`, `left` (its time was over), `killed` or `failed`. Writes the same as a line of JSON.

    Raises `ConfigError`, `CloudError`, and `Unavailable` if the database is away or the fleet has to be upgraded first.
    """
    deadline = time.monotonic() + context.get_remaining_time_in_millis() / 1000
    visit = read(os.environ)
    began = time.monotonic()
    if not _is_work(visit) or deadline - time.monotonic() < LEAST_SECONDS:
        return _said("none", began)
    _keep_keys(visit)
    process = _started(visit)
    try:
        return _said(*_ended(process, deadline, began))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def read(environment: Mapping[str, str]) -> Visit:
    """`KUMOMORI_FLEET_…` as a worker has them, but the database and the keys, which are secrets:

    * `KUMOMORI_FUNCTION_DATABASE_SECRET`, an ARN in Secrets Manager: the URL of the database; or, beside `KUMOMORI_FLEET_DATABASE`, its
      password, alone or as RDS keeps it (JSON with `password`). Without the secret that URL is all there is;
    * `KUMOMORI_FUNCTION_KEYS_SECRET`, likewise, the text of the fleet's `manifest.keys`;
    * `KUMOMORI_FUNCTION_SLOTS`: as many as there may be functions at once.

    Raises `ConfigError` that names the variable, `CloudError`.
    """
    slots = environment.get(f"{_OURS}SLOTS", "1")
    if not (slots.isascii() and slots.isdigit() and len(slots) < 5 and 1 <= int(slots) <= _MOST_SLOTS):
        raise ConfigError(f"{_OURS}SLOTS is not a number from 1 to {_MOST_SLOTS}")
    sessions = Sessions()
    given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    given[f"{PREFIX}DATABASE"] = _database(sessions, environment)
    data = given.setdefault(f"{PREFIX}DATA", "/tmp/kumomori")  # noqa: S108  all else is read-only there, and nobody else's
    # A worker says nothing to the console: the fleet's duties do. The settings of a fleet have to have one all the same.
    given.setdefault(f"{PREFIX}CONSOLE", "https://console.invalid")
    given.setdefault(f"{PREFIX}TOKEN_FILE", str(Path(data) / "token"))
    settings = Settings.from_environment({**given, f"{PREFIX}SLOTS": "1", f"{PREFIX}SMALL_SCANS": "true"})
    if settings.database.get_secret_value().startswith("sqlite"):
        raise ConfigError("the fleet's database is on another machine: PostgreSQL is needed")
    if not settings.objects:
        raise ConfigError(f"{PREFIX}OBJECTS is not set: a function's own folder is gone with it")
    return Visit(settings, int(slots), _secret(sessions, environment, "KEYS_SECRET"))


def _database(sessions: Sessions, environment: Mapping[str, str]) -> str:
    url = environment.get(f"{PREFIX}DATABASE", "")
    if url and not environment.get(f"{_OURS}DATABASE_SECRET"):
        return url
    secret = _secret(
        sessions, environment, "DATABASE_SECRET"
    ).strip()  # a file that was put there ends with a line's end
    if not url:
        return secret
    if secret.startswith("{"):
        try:
            secret = str(json.loads(secret)["password"])
        except (ValueError, KeyError, RecursionError):
            raise ConfigError(f"{_OURS}DATABASE_SECRET: it is JSON without a password") from None
    return checked_url(url).set(password=secret).render_as_string(hide_password=False)


def _secret(sessions: Sessions, environment: Mapping[str, str], name: str) -> str:
    arn = environment.get(_OURS + name, "")
    if not arn:
        raise ConfigError(f"{_OURS}{name} is not set")
    return read_secret(sessions, arn)


def _is_work(visit: Visit) -> bool:
    database = Database(visit.settings.database.get_secret_value())
    try:
        check(database)
        slots = [f"{POOL}-{number}" for number in range(1, visit.slots + 1)]
        return admission.is_left(database, slots) or admission.is_due(database, serving(visit.settings))
    finally:
        database.close()


def _keep_keys(visit: Visit) -> None:
    """Where a worker looks for them; written anew each time, since they may have been rotated."""
    folder = visit.settings.data
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "manifest.keys"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as out:
        out.write(visit.keys)


def _started(visit: Visit) -> subprocess.Popen[bytes]:
    """Its settings are in its environment, never on the command line; those that are for this process alone stay here."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith((_OURS, PREFIX))}
    settings = visit.settings
    options = {
        "pool": POOL,
        "slots": visit.slots,
        "lease": settings.lease_seconds,
        "poll": settings.poll_seconds,
        "grace": LEAVE_SECONDS,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "scanner.fleet.worker", "--visit", *(f"--{name}={value}" for name, value in options.items())],
        stdin=subprocess.DEVNULL,
        env={**inherited, **settings.environment()},
    )  # fmt: skip


def _ended(process: subprocess.Popen[bytes], deadline: float, began: float) -> tuple[str, float]:
    if _wait(process, deadline - LEAVE_SECONDS):
        return ("ended" if process.returncode == 0 else "failed"), began
    process.terminate()
    if _wait(process, deadline - KILL_SECONDS):
        return ("left" if process.returncode == 0 else "failed"), began
    return "killed", began


def _wait(process: subprocess.Popen[bytes], until: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(_POLL_SECONDS, until - time.monotonic()))
    return process.poll() is not None


def _said(worker: str, began: float) -> Answer:
    answer = {"function": "scan", "worker": worker, "seconds": round(time.monotonic() - began, 1)}
    sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
    sys.stdout.flush()
    return answer
