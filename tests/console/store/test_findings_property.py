"""Sequences of results, late ones too, and of acceptances: what always holds of findings."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from client.model import AcceptIn
from console.clock import now
from console.problems import Refused
from console.store import findings, results, tables
from console.store.database import Database
from console.store.migrate import upgrade
from tests.console.made import FLEET, UUID, enrol, finding, gap, key, ordered, report, result, volume

OTHER = "6e6b8d1c-0000-4000-8000-000000000002"
PATHS = {"a": b"/etc/a", "b": b"/etc/b", "c": b"/srv/c"}
NAMES = st.sampled_from(sorted(PATHS))
GAPS = st.sampled_from(
    [gap("machine"), gap("disk"), gap("volume"), gap(path=b"/etc/a"), gap(path=b"/etc"), gap(path=b"/other"), gap("volume", volume=1)]
)  # fmt: skip


class Findings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self.folder.name)}/x")
        self.first_seen: dict[str, Any] = {}
        self.reports: dict[str, dict[str, Any]] = {}  # by scan, of those that were taken

    @initialize()
    def begin(self) -> None:
        upgrade(self.database)
        enrol(self.database, "i-1")

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @rule(
        seen=st.sets(NAMES),
        gaps=st.lists(GAPS, max_size=2),
        there=st.booleans(),
        late_seconds=st.sampled_from([0, 0, 0, 3600]),
        twice=st.booleans(),
    )
    def scan(self, seen: set[str], gaps: list[Any], there: bool, late_seconds: int, twice: bool) -> None:
        scan = ordered(self.database)
        with self.database.write() as connection:
            early = now() - timedelta(hours=2)
            connection.execute(tables.scan.update().where(tables.scan.c.id == scan).values(ordered=early))
        volumes = [volume(), volume(1, OTHER)] if there else [volume(1, OTHER)]
        document = report([finding(name, path=PATHS[name]) for name in sorted(seen)] if there else [], gaps, volumes)
        sent = result(scan, document, started=now() - timedelta(seconds=late_seconds))
        first = results.take(self.database, FLEET, sent, now())
        self.reports[scan] = document
        if twice:
            assert results.take(self.database, FLEET, sent, now()).scan == first.scan

    @rule(name=NAMES, days=st.none() | st.just(1))
    def accept(self, name: str, days: int | None) -> None:
        until = None if days is None else now() + timedelta(days=days)
        try:
            with self.database.write() as connection:
                findings.accept(
                    connection, key(), finding(name)["fingerprint"], AcceptIn(why="x", until=until), "me", now()
                )
        except Refused as refused:
            assert refused.status in {404, 409}

    @rule(name=NAMES)
    def reopen(self, name: str) -> None:
        try:
            with self.database.write() as connection:
                findings.reopen(connection, key(), finding(name)["fingerprint"], "me", now())
        except Refused as refused:
            assert refused.status in {404, 409}

    @precondition(lambda self: self.reports)
    @rule()
    def time_passes(self) -> None:
        with self.database.write() as connection:
            findings.lapse(connection, now() + timedelta(days=2))

    @invariant()
    def what_always_holds(self) -> None:
        if not self.reports:
            return
        with self.database.read() as connection:
            rows = connection.execute(sa.select(tables.finding)).all()
            findings.listed(connection, after="", state=None, severity=None, instance="", limit=10)
        assert len({(row.instance, row.id) for row in rows}) == len(rows)
        for row in rows:
            assert row.first_seen <= row.last_seen
            assert row.first_seen == self.first_seen.setdefault(row.id, row.first_seen)
            assert (row.state == "accepted") == bool(row.accepted_by)
            if row.state == "fixed":
                self.looked(row)

    def looked(self, row: Any) -> None:
        """The scan that made it fixed was at its place, without a gap there."""
        document = self.reports[row.fixed_scan]
        assert row.fixed >= row.last_seen
        assert row.id not in {one["fingerprint"] for one in document["findings"]}
        assert UUID in {one["uuid"] for one in document["volumes"]}
        for one in document["gaps"]:
            where = one["where"]
            assert where["scope"] not in {"machine", "disk"}
            assert (where["scope"], where["volume"]) != ("volume", 0)
            if where["scope"] == "file":
                path = where["path"].encode()
                assert row.path != path and not row.path.startswith(path + b"/")


Findings.TestCase.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
TestFindings = pytest.mark.slow(Findings.TestCase)
