"""Fixtures for images and mounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scanner.filesystems.machine import Mounts


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    """Loop mounts below `tmp_path`, undone after the test."""
    with Mounts(tmp_path) as held:
        yield held


@pytest.fixture
def workdir(tmp_path: Path) -> Iterator[Path]:
    """A folder for images, emptied after the test: they are large."""
    folder = tmp_path / "images"
    folder.mkdir()
    yield folder
    for image in folder.iterdir():
        if image.is_file():
            image.unlink()
