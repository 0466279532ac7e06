"""Servers that several tests share: one of each to a pytest process, so that parallel ones do not meet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import Postgres, server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with server() as running:
        yield running
