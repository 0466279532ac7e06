"""Scans of a fleet, from an order to a result, on an emulated AWS and real worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.model import ScanState
from tests.scanner.fleet.fleet import Fleet, emulated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with emulated(tmp_path_factory.mktemp("aws")) as ready:
        yield ready


@pytest.fixture
def fleet(url: str, tmp_path: Path, aws: dict[str, Any]) -> Iterator[Fleet]:
    made = Fleet(url, tmp_path, aws)
    made.remote.do("calm")
    yield made
    made.close()


def test_from_order_to_result(fleet: Fleet) -> None:
    fleet.order("shop-first", fleet.machine("shop-1"))
    fleet.order("web-first", fleet.machine("web-1"))
    fleet.order("vault-first", fleet.machine("vault-1"))
    fleet.worker()
    found = fleet.ended("shop-first", "web-first", "vault-first")
    assert {one.state for one in found.values()} == {ScanState.DONE}, found
    reports = {name: fleet.report(one) for name, one in found.items()}
    assert reports["shop-first"]["result"] == "findings"
    assert reports["web-first"]["result"] == "clean"
    assert reports["vault-first"]["result"] == "gaps", "its key may not be used: never clean"
    assert found["web-first"].usd > 0
    assert fleet.ours() == set()
    assert [one for one in fleet.ledger() if one.id] == []
    assert fleet.bases() == []
    assert fleet.sweep_objects() == []
