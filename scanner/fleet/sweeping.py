"""The duty `sweep`: every few minutes what no live scan and no base of this fleet owns is taken away, see `sweeper.py`.

Beside it, in a thread, what the console asks for by hand, see `tasks.py`.
"""

from __future__ import annotations

import random
import threading

from core.errors import Error
from scanner.fleet import kept
from scanner.fleet.context import clouds_of, objects_of
from scanner.fleet.database import Database
from scanner.fleet.line import Said
from scanner.fleet.pruning import prune
from scanner.fleet.settings import Settings
from scanner.fleet.slots import Fence
from scanner.fleet.sweeper import sweep_clouds, sweep_objects
from scanner.fleet.tasks import Tasks


def run(settings: Settings, database: Database, fence: Fence, ended: threading.Event) -> None:
    """Until `ended`. Raises `Fenced`."""
    said = Said("sweep")
    tasks = Tasks(settings, database, fence, ended, said)
    threading.Thread(target=tasks.run, name="tasks", daemon=True).start()
    while not ended.is_set():
        try:
            sweep_once(settings, database, fence, said)
            prune(database, fence)
            said.over("sweep")
        except Error as error:
            said.problem("sweep", str(error))
        try:
            said.keep(database)
        except Error as error:
            said.note(str(error))
        ended.wait(settings.sweep_seconds * random.uniform(0.8, 1))


def sweep_once(settings: Settings, database: Database, fence: Fence, said: Said) -> None:
    """Raises `ConfigError`, `CloudError`, `Unavailable`, `Fenced`."""
    installation = kept.installation(database, settings.installation)
    clouds = clouds_of(settings, database, installation, sweeping=True)
    problems = []
    for one in sweep_clouds(database, fence, clouds):
        if one.error is not None:
            problems.append(str(one.error))
        elif one.resource is not None:
            said.note(f"{one.resource.kind} {one.place}/{one.resource.id}: deleted, nothing needs it any more")
    if problems:
        said.problem("clouds", "; ".join(problems[:5]))
    else:
        said.over("clouds")
    for name in sweep_objects(database, fence, objects_of(settings, database, installation)):
        said.note(f"manifest {name}: deleted, no base needs it any more")
