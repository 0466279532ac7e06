"""What is kept as evidence, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from client.model import ScanKind
from core.estate import Place
from scanner.fleet import evidence
from scanner.fleet.clouds import usd_month
from scanner.fleet.tables import resource
from tests.scanner.fleet.test_admission import HERE, an_order
from tests.scanner.fleet.test_sweeper import GIB, Yard


@pytest.fixture
def yard(url: str) -> Iterator[Yard]:
    made = Yard(url)
    yield made
    made.database.close()


@pytest.mark.parametrize(
    ("worst", "settings", "fields", "wanted"),
    [
        ("high", {}, {}, True),
        ("info", {}, {}, True),
        ("", {}, {}, False),
        ("high", {"evidence.keep_snapshot": False}, {}, False),
        ("high", {"evidence.keep_snapshot": 1}, {}, False),
        ("high", {"evidence.minimum_severity": "high"}, {}, True),
        ("medium", {"evidence.minimum_severity": "high"}, {}, False),
        ("critical", {"evidence.minimum_severity": "high"}, {}, True),
        ("critical", {}, {"kind": ScanKind.IMAGE}, False),
        ("critical", {}, {"place": Place("file", "site", "here")}, False),
    ],
)
def test_when_it_is_kept(worst: str, settings: dict[str, Any], fields: dict[str, Any], wanted: bool) -> None:
    order = an_order("a", settings={"evidence.keep_snapshot": True} | settings, **fields)
    assert evidence.is_wanted(order, worst) is wanted


def test_it_outlives_scan_and_base_and_then_goes(yard: Yard) -> None:
    token = yard.begin("a", machine="i-1")
    made = yard.make("snap-1", token)
    kept = {"evidence.keep_snapshot": True}
    yard.do(evidence.keep, an_order("a", settings=kept | {"evidence.keep_seconds": 3600}), token)
    first = until(yard)
    yard.do(evidence.keep, an_order("a", settings=kept | {"evidence.keep_seconds": 7200}), token)
    assert until(yard) == first, "the step may run twice"
    yard.keep(token, made)
    yard.end("a")
    with yard.database.write() as connection:
        evidence_usd = evidence.usd(connection, 0)
        assert evidence_usd == 0, "a base is counted as one"
        connection.execute(resource.update().values(kept_for=None))
        assert evidence.usd(connection, 0) == pytest.approx(usd_month(HERE.cloud, [GIB]))
        assert "snap-1" in evidence.words(connection, token)
    assert yard.ledger.of_token(token) == []
    yard.sweep()
    assert set(yard.cloud.there) == {"snap-1"}
    with yard.database.write() as connection:
        connection.execute(resource.update().values(evidence_until_ms=1))
    yard.sweep()
    assert yard.cloud.there == {}
    assert yard.entries() == []


def until(yard: Yard) -> int:
    with yard.database.read() as connection:
        return int(connection.execute(resource.select()).one().evidence_until_ms)
