"""What is kept as evidence, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from client.model import ScanKind
from core.estate import Place
from scanner.fleet import evidence
from scanner.fleet.clouds import usd_month
from scanner.fleet.tables import resource
from tests.scanner.fleet.fleet import Fleet
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


@pytest.fixture
def fleet(url: str, tmp_path: Path, aws: dict[str, Any]) -> Iterator[Fleet]:
    made = Fleet(url, tmp_path, aws)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 1])
def test_snapshots_of_a_machine_with_findings_are_kept_as_evidence(fleet: Fleet, keep: int) -> None:
    """Until their time is over, also when the base that they were is given up; then the sweeper takes them."""
    wanted = {"base_snapshots.keep": keep, "evidence.keep_snapshot": True, "evidence.keep_seconds": 3600}
    fleet.order("clean", settings=wanted)
    fleet.order("found", fleet.machine("shop-1"), settings=wanted)
    fleet.order("mild", fleet.machine("shop-1"), settings=wanted | {"evidence.keep_snapshot": False})
    fleet.worker()
    found = fleet.ended("clean", "found", "mild")
    assert fleet.report(found["clean"])["result"] == "clean"
    assert "evidence" not in found["clean"].detail + found["mild"].detail
    names = {row.id for row in fleet.ledger() if row.evidence_until_ms}
    bases = keep * (1 + len(names))  # of both machines; those of `found` were given up for those of `mild`
    assert names and "kept as evidence until" in found["found"].detail
    assert all(name in found["found"].detail for name in names)
    assert names <= fleet.ours()
    assert len(fleet.ours()) == bases + len(names)
    assert not [one for one in fleet.sweep() if one.resource and one.resource.id in names]
    assert names <= fleet.ours()
    with fleet.database.write() as connection:
        connection.execute(update(resource).where(resource.c.id.in_(names)).values(evidence_until_ms=1))
    fleet.sweep()
    assert not names & fleet.ours()
    assert len(fleet.ours()) == bases
