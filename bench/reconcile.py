"""Holding an account of 50,000 instances against what the console knows: the first time all are sent, the second time nothing.

`python -m bench.reconcile console|listing|whole` are the commands that are measured; `console` is the one of the tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import boto3

from bench.inventory import REGION, canned
from bench.measure import ROOT, Failed, run_watched
from bench.page import Section, megabytes, seconds
from client.api import Console
from client.model import AccountIn
from cloud.aws.accounts import Sessions
from scanner.fleet.inventory import Inventory, Listing
from scanner.fleet.reconcile import Teller, Told, reconcile
from scanner.fleet.settings import Settings
from scanner.fleet.spool import Spool

_ACCOUNT: Final = AccountIn(cloud="aws", account="111122223333", regions=(REGION,), role="KumomoriScanner")
_FLEET: Final = "default"
_SAID: Final = "said.json"
_GOAL_SECONDS: Final = 60.0


def reconciling(instances: int) -> Section:
    """One account of `instances`. Raises `Failed` if the second reconcile sends anything."""
    with canned(instances) as cloud, _console() as console, TemporaryDirectory() as folder:
        command = partial(_command, cloud=cloud, console=console, folder=folder)
        measured = {}
        for name, way, sent in (
            ("listing alone", "listing", 0),
            ("first reconcile", "whole", instances),
            ("second reconcile, no change", "whole", 0),
        ):
            measured[name] = run_watched(command(way))
            said = json.loads((Path(folder) / _SAID).read_text())
            if said != {"instances": instances, "sent": sent, "problems": 0}:
                raise Failed(f"{name}: {said}")
    walls = {name: usage.wall_seconds for name, (usage, _) in measured.items()}
    cpus = {name: usage.cpu_seconds for name, (usage, _) in measured.items()}
    beyond, cpu = (found["second reconcile, no change"] - found["listing alone"] for found in (walls, cpus))
    rows = [
        [name, seconds(usage.wall_seconds), seconds(usage.cpu_seconds), megabytes(memory.largest)]
        for name, (usage, memory) in measured.items()
    ]
    notes = [
        f"The second reconcile takes {beyond:.1f} s ({cpu:.1f} s of CPU) beyond listing (goal {_GOAL_SECONDS:g} s), and sends one request: all digests. "
        "The console of the tests writes nothing for it."
    ]
    about = (
        f"{instances:,} instances of one account in one region, two disks and five tags each; answers of EC2's shape and a console on "
        "loopback, whose CPU is not counted; one round. `listing alone` lists, writes down and digests, but asks no console."
    )
    return Section("Reconciling an account", about, ["", "wall s", "CPU s", "peak MB"], rows, notes)


def _command(way: str, *, cloud: str, console: str, folder: str) -> list[str]:
    return [sys.executable, "-m", "bench.reconcile", way, cloud, console, folder]


@contextmanager
def _console() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "bench.reconcile", "console"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def _inventory(cloud: str, folder: str) -> Inventory:
    given: dict[str, Any] = {
        "database": "sqlite:////none",
        "data": folder,
        "console": "http://127.0.0.1",
        "token_file": "none",
        "home_region": REGION,
    }
    base = boto3.Session("none", "none", region_name=REGION)
    return Inventory(Settings.model_validate(given), Sessions(base, endpoint_url=cloud))


def _listing(cloud: str, _: str, folder: str) -> Told:
    with Spool(Path(folder)) as spool:
        for one in _inventory(cloud, folder).listings(_ACCOUNT):
            assert isinstance(one, Listing), one
            for instance in one.instances:
                spool.add(instance)
            return Told((one.place,), len(spool.digests(one.place)))
    raise AssertionError("nothing was listed")


def _whole(cloud: str, console: str, folder: str) -> Told:
    from tests.scanner.fleet.console import TOKEN  # noqa: PLC0415

    with Console(console, TOKEN, timeout_seconds=120) as line:
        teller = Teller(partial(line.compare, _FLEET), partial(line.sightings, _FLEET), lambda: datetime.now(UTC))
        return reconcile(_inventory(cloud, folder).listings(_ACCOUNT), teller, folder=Path(folder))


def main(arguments: list[str]) -> int:
    if arguments[0] == "console":
        from tests.scanner.fleet.console import FakeConsole, served  # noqa: PLC0415  the tests' own

        with served(FakeConsole()) as address:
            print(address, flush=True)
            threading.Event().wait()
    told = {"listing": _listing, "whole": _whole}[arguments[0]](*arguments[1:4])
    said = {"instances": told.instances, "sent": told.sent, "problems": len(told.problems)}
    (Path(arguments[3]) / _SAID).write_text(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
