"""`python -m demo.tour`: a console and a fleet on an emulated AWS account, by the commands a person would type. Used by `make run`.

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
_SCAN_SECONDS: Final = 90.0
_POLICIES: Final = Path(__file__).with_name("policies")
_KUMOMORI: Final = Path(sys.executable).with_name("kumomori")


def main() -> int:
    """Exit 0 if every command ended as it should; else the number of those that did not."""
    with tempfile.TemporaryDirectory(prefix="kumomori-demo-") as name, _emulated(Path(name)) as ready:
        tour = _Tour(ready, Path(name))
        with tour.up():
            _walk(tour, Remote(ready), ready)
        return tour.failed


def _walk(tour: _Tour, remote: Remote, ready: Mapping[str, Any]) -> None:
    account = f"aws://{ready['account']}"
    tour.say("Policies say what is scanned, and when. They stand in files, and are applied as one.")
    tour.run("policy", "apply", str(_POLICIES))
    tour.say(
        "An emulated AWS account with three machines is added (docs/aws.md tells how to point this at a real one)."
    )
    queue = str(remote.do("queue"))
    tour.run(
        *("cloud", "add", "aws", str(ready["account"]), "--role", "KumomoriScanner"),
        *("--region", str(ready["region"]), "--queue-url", queue),
    )
    tour.say(
        "The fleet lists it, and scans what is new: snapshot all disks, read the blocks it needs, delete or keep as base."
    )
    tour.wait(3)
    tour.run("estate")
    tour.say(
        "shop-1 was broken into. vault-1 is encrypted with a key that the scanner may not use: a gap, never clean."
    )
    tour.run("findings", "--severity", "critical", codes=(1,))
    tour.run("gaps", "--instance", "vault-1", codes=(3,))
    tour.say("Two machines are made of an image of web-1. Events tell of them; the image is scanned once for both.")
    remote.do("clones", count=2)
    tour.wait(5)
    tour.run("scans", "--state", "done", "--most", "3")
    tour.say("Somebody writes a web shell to web-1. The next scan reads only blocks that changed, and finds it.")
    shell = "<?php @eval(base64_decode($_POST['q'])); ?>"
    remote.do("change", machine="web-1", files={"/var/www/html/health.php": shell})
    tour.run("scan", "start", "web-1", "--wait", codes=(1,))
    tour.run("findings", "--instance", "web-1", codes=(1,))
    tour.say("Nothing is left in the account but the bases of the next scans.")
    tour.run("sweep", "--dry-run")
    tour.run("estate")
    tour.say(f"{account} stays protected for as long as `kumomori up` runs. Here it ends now.")


class _Tour:
    def __init__(self, ready: Mapping[str, Any], folder: Path) -> None:
        self._folder = folder
        self._environment = os.environ | {
            "AWS_ENDPOINT_URL": ready["endpoint"],
            "AWS_ACCESS_KEY_ID": ready["access_key"],
            "AWS_SECRET_ACCESS_KEY": ready["secret_key"],
            "AWS_DEFAULT_REGION": ready["region"],
            "XDG_STATE_HOME": str(folder / "state"),
            "COLUMNS": str(min(120, shutil.get_terminal_size((120, 40)).columns)),
        }
        for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "KUMOMORI_CONSOLE", "KUMOMORI_TOKEN_FILE"):
            self._environment.pop(name, None)
        self.failed = 0

    def say(self, text: str) -> None:
        sys.stdout.write(f"\n# {text}\n")
        sys.stdout.flush()

    @contextmanager
    def up(self) -> Iterator[None]:
        """While `kumomori up` runs. Raises `RuntimeError` if it does not start."""
        words = ("up", "--listen", "127.0.0.1:0")
        self.say("A console and a fleet on this machine.")
        sys.stdout.write(f"$ kumomori {shlex.join(words)} &\n\n")
        said = self._folder / "up.log"
        with (
            said.open("wb") as log,
            subprocess.Popen(
                [_KUMOMORI, *words], cwd=self._folder, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            ) as process,
        ):
            try:
                ends = time.monotonic() + _START_SECONDS
                while b"Ctrl-C" not in said.read_bytes():
                    if process.poll() is not None or time.monotonic() > ends:
                        raise RuntimeError(f"kumomori up did not start: {said.read_text(errors='replace')[-2000:]}")
                    time.sleep(0.05)
                sys.stdout.write(said.read_text(errors="replace").partition("\n\n")[0] + "\n")
                yield
            finally:
                process.terminate()
                process.wait()

    def wait(self, instances: int) -> None:
        """Until so many instances have been scanned, and none is under way or about to be; what is due at night is not waited for."""
        ends = time.monotonic() + _SCAN_SECONDS
        while time.monotonic() < ends:
            rows = {name: self._rows(name) for name in ("estate", "scans")}
            scanned = sum(one["last_scan"] is not None for one in rows["estate"])
            if scanned >= instances and all(one["ended"] or one["why"] == "schedule" for one in rows["scans"]):
                return
            time.sleep(0.5)
        sys.stdout.write(f"after {_SCAN_SECONDS:.0f} s not all was scanned\n")
        self.failed += 1

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._done(name, "--format", "jsonl").stdout.splitlines()]

    def run(self, *words: str, codes: Sequence[int] = (0,)) -> None:
        shown = (os.path.relpath(word) if word == str(_POLICIES) else word for word in words)
        sys.stdout.write(f"$ kumomori {shlex.join(shown)}\n\n")
        sys.stdout.flush()
        done = self._done(*words, stderr=subprocess.STDOUT)
        sys.stdout.write(done.stdout.rstrip() + "\n\n")
        if done.returncode not in codes:
            sys.stdout.write(f"exit code {done.returncode}, not {' or '.join(map(str, codes))}\n")
            self.failed += 1
        sys.stdout.flush()

    def _done(self, *words: str, stderr: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_KUMOMORI, *words],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
        )


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
