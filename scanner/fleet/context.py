"""What the steps of a worker's scans work with; set once, when the worker has its slot."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from client.model import ScanState
from core.errors import ConfigError
from scanner.fleet import admission, engine, kept
from scanner.fleet.admission import Serving
from scanner.fleet.binding import bind
from scanner.fleet.clouds import AccountClouds, Clouds
from scanner.fleet.database import Database
from scanner.fleet.ledger import FleetLedger
from scanner.fleet.migrations import upgrade
from scanner.fleet.objects import Objects
from scanner.fleet.patience import lasting
from scanner.fleet.sealing import Keys
from scanner.fleet.settings import Settings
from scanner.fleet.slots import Fence
from scanner.fleet.turn import Limits

_START_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Context:
    """`folder` is this machine's: verdicts, and what is under way. `jobs`: parser processes of one scan. `sites`: see `Settings`.

    `leaving` is set when the worker's time is over: running scans put away what they made and wait for another worker.
    """

    database: Database
    fence: Fence
    clouds: Clouds
    ledger: FleetLedger
    objects: Objects
    folder: Path
    jobs: int
    sites: tuple[Path, ...] = ()
    leaving: threading.Event = field(default_factory=threading.Event)


class _Holder:
    def __init__(self) -> None:
        self._is_set = threading.Event()
        self._context: Context | None = None

    def set(self, context: Context) -> None:
        self._context = context
        self._is_set.set()

    def get(self) -> Context:
        """Waits: the engine goes on with scans before its worker is ready."""
        if not self._is_set.wait(_START_SECONDS) or self._context is None:
            raise ConfigError("the worker did not get ready")
        return self._context


_HOLDER: Final = _Holder()
current: Final = _HOLDER.get


def objects_of(settings: Settings, database: Database, installation: str) -> Objects:
    """A folder is the fleet's own, and bound to its database; what has a URL may be another's, too. Raises `ConfigError`, `Unavailable`."""
    keys = Keys.kept_in(settings.data / "manifest.keys")
    where: Path | str = settings.objects
    if settings.folder is not None:
        where = settings.folder
        bind(database, where)
    owner = installation if settings.objects else ""
    return Objects(where, keys, scratch=settings.data / "work", owner=owner)


def clouds_of(settings: Settings, database: Database, installation: str, *, sweeping: bool = False) -> AccountClouds:
    return AccountClouds(
        database,
        installation,
        endpoint_url=settings.endpoint_url,
        home_region=settings.home_region,
        sweeping=sweeping,
    )


class Claims:
    """See `worker.Work`."""

    def __init__(self, database: Database, serving: Serving, leaving: threading.Event | None = None) -> None:
        self._database = database
        self._serving = serving
        self._leaving = leaving or threading.Event()

    def claimed(self, fence: Fence) -> Sequence[str]:
        found = list(admission.held(self._database, fence))
        if self._leaving.is_set():
            return found
        while len(found) < self._serving.capacity and admission.is_due(self._database, self._serving):
            taken = admission.claim(self._database, fence, self._serving)
            if taken is None:
                break
            found.append(taken)
        return found

    def leave(self) -> None:
        self._leaving.set()

    def ended(self, fence: Fence, scan_id: str, status: engine.Status) -> None:
        """Its workflow ended without ending the scan: it fails for good if it took its worker down each time."""
        scan, _ = admission.scan_of(scan_id)
        with self._database.write() as connection:
            fence.guard(connection)
            if not admission.is_live(connection, scan_id):
                return
            if status is engine.Status.FAILED:
                words = "its worker died in it each time it was gone on with"
                admission.end(self._database, connection, scan, ScanState.FAILED, words)
            else:
                admission.again(self._database, connection, scan, "it ended without a result")


def begin(database: Database, fence: Fence) -> Claims:
    """Read the settings, make ready what scans need. Raises `ConfigError`."""
    settings = Settings.from_environment(os.environ)
    lasting(lambda: upgrade(database))
    installation = lasting(lambda: kept.installation(database, settings.installation))
    cpus = len(os.sched_getaffinity(0))
    context = Context(
        database,
        fence,
        clouds_of(settings, database, installation),
        FleetLedger(database, fence, installation),
        lasting(lambda: objects_of(settings, database, installation)),
        settings.data,
        max(1, cpus // settings.slots),
        settings.sites,
    )
    _HOLDER.set(context)
    return Claims(database, serving(settings), context.leaving)


def serving(settings: Settings) -> Serving:
    """What a worker with these settings takes."""
    limits = Limits(settings.most_scans, settings.most_scans_per_region)
    return Serving(1, settings.clouds, settings.regions, limits, settings.small_scans)
