"""Figures of the estate for Prometheus, counted when they are asked for."""

from __future__ import annotations

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import Connection

from client.model import FindingState, ScanState
from console.store import tables
from console.store.findings import WORST_FIRST


def of(connection: Connection) -> CollectorRegistry:
    """Every state and severity is there, also with 0."""
    registry = CollectorRegistry()
    scans = Gauge("kumomori_scans", "Scans by state.", ["state"], registry=registry)
    counted = _counts(connection, tables.scan, "state")
    for state in ScanState:
        scans.labels(state.value).set(counted.get(state.value, 0))
    _findings(connection, registry)
    instances = Gauge("kumomori_instances", "Machines that are there.", ["protected"], registry=registry)
    table = tables.instance
    unprotected = table.c.unprotected != ""
    counts: dict[bool, int] = {
        bool(flag): count
        for flag, count in connection.execute(
            sa.select(unprotected, sa.func.count()).where(table.c.closed.is_(None)).group_by(unprotected)
        )
    }
    instances.labels("yes").set(counts.get(False, 0))
    instances.labels("no").set(counts.get(True, 0))
    gaps = Gauge("kumomori_gaps", "Things that the last scans did not look at.", ["reason"], registry=registry)
    gap = tables.gap
    for reason, count in connection.execute(sa.select(gap.c.reason, sa.func.sum(gap.c.count)).group_by(gap.c.reason)):
        gaps.labels(reason).set(float(count))
    contact = Gauge(
        "kumomori_fleet_last_contact_timestamp_seconds",
        "When the fleet was last heard of.",
        ["fleet"],
        registry=registry,
    )
    for name, seen in connection.execute(sa.select(tables.fleet.c.name, tables.fleet.c.seen)):
        contact.labels(name).set(seen.timestamp() if seen is not None else 0)
    return registry


def _findings(connection: Connection, registry: CollectorRegistry) -> None:
    findings = Gauge("kumomori_findings", "Findings by severity and state.", ["severity", "state"], registry=registry)
    table = tables.finding
    counted = {
        (severity, state): count
        for severity, state, count in connection.execute(
            sa.select(table.c.severity, table.c.state, sa.func.count()).group_by(table.c.severity, table.c.state)
        )
    }
    for rank, severity in enumerate(WORST_FIRST):
        for state in FindingState:
            findings.labels(severity.value, state.value).set(counted.get((rank, state.value), 0))


def _counts(connection: Connection, table: sa.Table, column: str) -> dict[str, int]:
    named = table.c[column]
    return {word: int(count) for word, count in connection.execute(sa.select(named, sa.func.count()).group_by(named))}
