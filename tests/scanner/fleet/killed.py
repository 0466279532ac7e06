"""A worker's scans with places to die at: `--work tests.scanner.fleet.killed`.

`FLEET_KILL` is a moment and how often it is passed before, such as `scan:progress 3`: there the process kills itself, as kill -9 would,
once (`FLEET_KILLED`, a file, says that it has), or with `FLEET_KILL_ALWAYS` each time. Moments are those of `scanner.fleet.moments`, and `before:` and `after:` each
call of the SDK by its name, and `block` when one is asked for: after it the cloud has done what it was asked for, and nobody has heard of it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from botocore.client import BaseClient

from cloud.fetcher import Fetcher
from scanner.fleet import moments
from scanner.fleet.workflow import scan, work

__all__ = ["scan", "work"]

_MOMENT, _, _BEFORE = os.environ.get("FLEET_KILL", "").partition(" ")
_MARK = Path(os.environ.get("FLEET_KILLED", "/nonexistent"))
_PASSED: Counter[str] = Counter()


def at(moment: str) -> None:
    _PASSED[moment] += 1
    if moment == _MOMENT and _PASSED[moment] > int(_BEFORE or 0):
        try:
            if "FLEET_KILL_ALWAYS" in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
            os.close(os.open(_MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def _install() -> None:
    client: Any = BaseClient
    called = client._make_api_call

    def make_api_call(self: Any, name: str, arguments: Any) -> Any:
        at(f"before:{name}")
        answer = called(self, name, arguments)
        at(f"after:{name}")
        return answer

    client._make_api_call = make_api_call
    fetcher: Any = Fetcher
    asked = fetcher.request

    def request(self: Any, block: int, done: Any) -> None:
        at("block")
        asked(self, block, done)

    fetcher.request = request
    moments.at = at


_install()
