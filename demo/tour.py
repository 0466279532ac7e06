"""`python -m demo.tour`: the commands on an emulated AWS account, as a person would type them. Used by `make run`.

Three machines run there: `web-1` is all right, `shop-1` was broken into, the disk of `vault-1` is encrypted with a key that the
scanner may not use.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from demo.aws.control import Remote

_START_SECONDS: Final = 60.0
_KUMOMORI: Final = Path(sys.executable).with_name("kumomori")


def main() -> int:
    """Exit 0 if every command ended as it should; else the number of those that did not."""
    with tempfile.TemporaryDirectory(prefix="kumomori-demo-") as name, _emulated(Path(name)) as ready:
        tour = _Tour(ready, Path(name))
        place = f"aws://{ready['account']}/{ready['region']}"
        web, shop, vault = (f"{place}/{ready['machines'][one]['instance']}" for one in ("web-1", "shop-1", "vault-1"))
        role = ("--role", "KumomoriScanner")
        tour.say("An emulated AWS account with three machines (docs/aws.md tells how to point this at a real one).")
        tour.run("instances", *role)
        tour.say("web-1 is all right. Its snapshot and a manifest are kept, as the base of the next scan.")
        tour.run("scan", "instance", web, *role, "--cache", "verdicts", "--manifest", "web.manifest", "--keep")
        base = tour.kept[-1]
        tour.say("shop-1 was broken into: a web shell, planted accounts and more, on two disks.")
        tour.run("scan", "instance", shop, *role, "--cache", "verdicts", codes=(1,))
        tour.say(
            "vault-1 is encrypted with a key that the scanner may not use: a gap that says what to add, never clean."
        )
        tour.run("scan", "instance", vault, *role, "--cache", "verdicts", codes=(3,))
        tour.say("Somebody writes a web shell to web-1. The next scan fetches only blocks that changed, and finds it.")
        shell = "<?php @eval(base64_decode($_POST['q'])); ?>"
        Remote(ready).do("change", machine="web-1", files={"/var/www/html/health.php": shell})
        again = ("--cache", "verdicts", "--base", "web.manifest", "--since", base)
        tour.run("scan", "instance", web, *role, *again, codes=(1,))
        tour.say("What is kept in the account is deleted, and nothing of ours is left there.")
        tour.run("cloud", "sweep", place, *role, "--kept")
        return tour.failed


class _Tour:
    def __init__(self, ready: Mapping[str, Any], folder: Path) -> None:
        self._folder = folder
        self._environment = os.environ | {
            "AWS_ENDPOINT_URL": ready["endpoint"],
            "AWS_ACCESS_KEY_ID": ready["access_key"],
            "AWS_SECRET_ACCESS_KEY": ready["secret_key"],
            "AWS_DEFAULT_REGION": ready["region"],
            "KUMOMORI_DATA": "ledger",
            "COLUMNS": str(min(120, shutil.get_terminal_size((120, 40)).columns)),
        }
        self._environment.pop("AWS_SESSION_TOKEN", None)
        self._environment.pop("AWS_PROFILE", None)
        self.kept: list[str] = []
        self.failed = 0

    def say(self, text: str) -> None:
        sys.stdout.write(f"\n# {text}\n")
        sys.stdout.flush()

    def run(self, *words: str, codes: Sequence[int] = (0,)) -> None:
        sys.stdout.write(f"$ kumomori {shlex.join(words)}\n\n")
        sys.stdout.flush()
        done = subprocess.run(
            [_KUMOMORI, *words],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        sys.stdout.write(done.stdout)
        if done.returncode not in codes:
            sys.stdout.write(f"exit code {done.returncode}, not {' or '.join(map(str, codes))}\n")
            self.failed += 1
        kept = [line for line in done.stdout.splitlines() if line.startswith("kumomori: ") and ": kept " in line]
        self.kept += [word for line in kept for word in line.rpartition(": kept ")[2].split()]
        sys.stdout.flush()


@contextmanager
def _emulated(folder: Path) -> Iterator[dict[str, Any]]:
    """What the emulator's ready file says, while it runs. Raises `RuntimeError` if it does not start."""
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "demo.aws", "--estate", "--with-parent", "--ready-file", str(ready)]
    with (folder / "emulator.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as emulator:
        try:
            ends = time.monotonic() + _START_SECONDS
            while not ready.exists():
                if emulator.poll() is not None or time.monotonic() > ends:
                    said = (folder / "emulator.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the emulated AWS did not start: {said}")
                time.sleep(0.05)
            yield json.loads(ready.read_text())
        finally:
            emulator.terminate()


if __name__ == "__main__":
    sys.exit(main())
