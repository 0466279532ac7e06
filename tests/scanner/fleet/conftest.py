"""A fleet's database of each kind, new for each test; an emulated AWS, new for each module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scanner.fleet.fleet import emulated
from tests.scanner.fleet.workers import Site


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/fleet/fleet.sqlite"
        return
    server = request.getfixturevalue("postgres")
    made = server.database()
    yield made
    server.drop(made)


@pytest.fixture
def site(url: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(url, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One to which no test of another module writes: there `web-1` has no findings."""
    with emulated(tmp_path_factory.mktemp("aws")) as ready:
        yield ready
