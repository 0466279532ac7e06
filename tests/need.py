"""What a test needs of the machine: said loudly when it is missing, and an error in CI, where nothing is skipped."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"CI must have it: {what}")
    pytest.skip(what)


def need_tool(*names: str) -> None:
    """Every named program is on the PATH (`/usr/sbin` included)."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    for name in names:
        if shutil.which(name, path=path) is None:
            _missing(f"{name} is not installed: run scripts/system-packages.sh")


def need_npm(name: str, folder: str) -> Path:
    """Where the commands are that `make .venv/NAME` installs by npm into `.venv/FOLDER`, once for all runs."""
    need_tool("npm", "make")
    with (ROOT / ".venv" / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = subprocess.run(
            ["make", "--no-print-directory", f".venv/{name}"], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=500
        )
    if made.returncode:
        _missing(f"{name} cannot be installed: {'; '.join(made.stderr.splitlines()[:2])[:300]}")
    return ROOT / ".venv" / folder / "node_modules" / ".bin"


def need_root() -> None:
    """Loop mounts and device nodes need root."""
    if os.geteuid() != 0:
        _missing("this test mounts filesystems, which needs root")


def need_shared(relative: str) -> Path:
    """A folder or file of the shared test data."""
    found = SHARED_DATA / relative
    if not found.exists():
        _missing(f"../shared/data/{relative} is not beside the repository")
    return found
