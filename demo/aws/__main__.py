"""An emulated AWS in a process of its own: `python -m demo.aws --help`. Runs until SIGTERM, Ctrl-C or `--parent` is gone.

When it serves, the ready file holds one JSON object: `endpoint`, `account`, `region`, `access_key`, `secret_key`, `control`
and, with `--estate`, `scanner_role`, `key` and `machines` (by name: `instance`, and `volumes` by device).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.aws.control import Control
from demo.aws.emulator import ACCOUNT, REGION, EmulatedAws
from demo.aws.estate import fill


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 if it could not start."""
    options = _parser().parse_args(arguments)
    aws = EmulatedAws(port=options.port, folder=options.folder)
    try:
        aws.start()
    except OSError as error:
        sys.stderr.write(f"the emulated AWS could not start: {error}\n")
        return 2
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    try:
        limits = aws.rules.limits
        limits.block_latency_seconds = options.latency_ms / 1000
        limits.blocks_per_account = options.blocks_per_account
        limits.blocks_per_snapshot = options.blocks_per_snapshot
        ready = _ready(aws, estate=options.estate)
        _say(options.ready_file, _shell(ready) if options.shell else json.dumps(ready, indent=2) + "\n")
        parent = os.getppid()
        while not done.wait(1):
            if options.with_parent and os.getppid() != parent:
                break
    finally:
        aws.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.aws", description="Run an emulated AWS on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--ready-file", type=Path, help="written when it serves; else standard output has it")
    parser.add_argument("--folder", type=Path, help="for contents of volumes; a temporary one if not given")
    parser.add_argument("--estate", action="store_true", help="with the three machines of the demo")
    parser.add_argument("--shell", action="store_true", help="say it as lines for a shell, instead of JSON")
    parser.add_argument("--with-parent", action="store_true", help="end when the process that started it is gone")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of each GetSnapshotBlock")
    parser.add_argument("--blocks-per-account", type=float, help="quota of GetSnapshotBlock a second")
    parser.add_argument("--blocks-per-snapshot", type=float, help="quota of GetSnapshotBlock a second")
    return parser


def _ready(aws: EmulatedAws, *, estate: bool) -> dict[str, Any]:
    keys = aws.credentials()
    ready: dict[str, Any] = {"endpoint": aws.endpoint, "account": ACCOUNT, "region": REGION}
    ready |= {"access_key": keys.access_key, "secret_key": keys.secret_key}
    filled = fill(aws) if estate else None
    if filled:
        machines = {
            machine.name: {
                "instance": machine.instance,
                "volumes": {device: volume.id for device, volume in machine.volumes.items()},
            }
            for machine in filled
        }
        ready |= {"scanner_role": filled.scanner, "key": filled.key, "machines": machines}
    control = Control(aws, filled)
    aws.hear(control)
    return ready | {"control": control.secret}


def _shell(ready: dict[str, Any]) -> str:
    """What commands need to find it, to be pasted into one."""
    variables = {
        "AWS_ENDPOINT_URL": ready["endpoint"],
        "AWS_ACCESS_KEY_ID": ready["access_key"],
        "AWS_SECRET_ACCESS_KEY": ready["secret_key"],
        "AWS_DEFAULT_REGION": ready["region"],
        "ACCOUNT": ready["account"],
        "REGION": ready["region"],
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    return "".join(lines) + "# The emulated account is there until Ctrl-C. Paste these lines into another terminal.\n"


def _say(path: Path | None, text: str) -> None:
    if path is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    unfinished = path.with_suffix(".unfinished")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main())
