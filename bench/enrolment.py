"""From the launch of an instance to the start of its image's scan, with everything running: emulated AWS, console, fleet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.measure import ROOT, Failed
from bench.page import Section, seconds, spread
from client.api import Console
from client.model import AccountIn, PolicySet, ScanKind
from core.errors import Error
from demo.aws.control import Remote

_GOAL_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.05


def enrolment(rounds: int) -> Section:
    """Each round launches an instance of a new image. Raises `Failed` if its scan does not start."""
    with TemporaryDirectory() as name, _running(Path(name)) as (console, remote, ready):
        console.apply_policies(PolicySet(documents=_policies()), etag=None)
        account = AccountIn(
            cloud="aws",
            account=str(ready["account"]),
            regions=(str(ready["region"]),),
            role="KumomoriScanner",
            queue_url=str(remote.do("queue")),
        )
        console.add_account(account)
        _eventually(lambda: _idle(console), "the first scans")
        took = [_launch(console, remote) for _ in range(rounds)]
    return Section(
        "Enrolment",
        f"An instance of a new image is launched in the emulated AWS while nothing else is to do; {rounds} rounds. Wall seconds from before the call "
        f"of RunInstances until the console tells that the image is being scanned, looked at every {_LOOK_SECONDS * 1000:g} ms.",
        ["", "median", "all", "goal"],
        [["launch to the start of its image's scan, s", seconds(median(took)), spread(took), seconds(_GOAL_SECONDS)]],
        ["Event, queue, fleet, console, order and worker are in it; EventBridge's own delay in AWS is not."],
    )


def _launch(console: Console, remote: Remote) -> float:
    known = {one.id for one in console.scans()}
    begun = time.monotonic()
    remote.do("clones", count=1)

    def started() -> bool:
        fresh = [one for one in console.scans() if one.id not in known and one.kind is ScanKind.IMAGE]
        return any(one.started is not None for one in fresh)

    _eventually(started, "the scan of a new image")
    took = time.monotonic() - begun
    _eventually(lambda: _idle(console), "the scans of a new instance")
    return took


def _idle(console: Console) -> bool:
    """All instances are scanned, and no scan is left but those that wait for the night."""
    instances = list(console.instances())
    left = [one for one in console.scans() if one.ended is None and one.why != "schedule"]
    return bool(instances) and all(one.last_scan for one in instances) and not left


def _eventually(is_so: Any, what: str) -> None:
    ends = time.monotonic() + _PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > ends:
            raise Failed(f"{what}: not within {_PATIENCE_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS)


def _policies() -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((ROOT / "demo" / "policies").glob("*.yaml"))}


@contextmanager
def _running(folder: Path) -> Iterator[tuple[Console, Remote, dict[str, Any]]]:
    ready = folder / "ready.json"
    emulator = [sys.executable, "-m", "demo.aws", "--estate", "--with-parent", "--ready-file", str(ready)]
    with subprocess.Popen(emulator, cwd=ROOT, stdout=subprocess.DEVNULL) as aws:
        try:
            _eventually(ready.exists, "the emulated AWS")
            told = json.loads(ready.read_text())
            environment = os.environ | {
                "AWS_ENDPOINT_URL": told["endpoint"],
                "AWS_ACCESS_KEY_ID": told["access_key"],
                "AWS_SECRET_ACCESS_KEY": told["secret_key"],
                "AWS_DEFAULT_REGION": told["region"],
                "XDG_STATE_HOME": str(folder / "state"),
            }
            up = [
                str(Path(sys.executable).with_name("kumomori")),
                "up",
                "--data",
                str(folder / "up"),
                "--listen",
                "127.0.0.1:0",
            ]
            with subprocess.Popen(up, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
                try:
                    saved = folder / "up" / "client.json"
                    _eventually(saved.exists, "kumomori up")
                    where = json.loads(saved.read_text())
                    with Console(where["console"], where["token"]) as console:
                        _eventually(lambda: _answers(console), "the console")
                        yield console, Remote(told), told
                finally:
                    process.terminate()
        finally:
            aws.terminate()


def _answers(console: Console) -> bool:

    try:
        return console.health().status == "ok"
    except Error:
        return False
