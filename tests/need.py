"""What a test needs of the machine: said loudly when it is missing, and an error in CI, where nothing is skipped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


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
