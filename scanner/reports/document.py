"""Our own format, `kumomori.report/1`: all that a report holds. `docs/report.schema.json` is its JSON Schema."""

from __future__ import annotations

from datetime import UTC

from core.findings import Finding, Gap, Package
from core.text import escape
from scanner.report import Coverage, Report, VolumeReport
from scanner.reports.values import Json, clean, location, plain

SCHEMA = "kumomori.report/1"


def to_json(report: Report) -> dict[str, Json]:
    """The report as JSON values. Paths are escaped as `core.text.escape` says, so `unescape` gives the bytes back."""
    return {
        "schema": SCHEMA,
        "tool": {"name": "kumomori", "version": clean(report.version)},
        "rules": {
            "digest": clean(report.rules.digest),
            "count": report.rules.count,
            "ids": [clean(one) for one in report.rules.ids],
        },
        "started": report.started.astimezone(UTC).isoformat(),
        "target": [clean(disk) for disk in report.target],
        "result": report.result,
        "volumes": [_volume(volume) for volume in report.volumes],
        "findings": [
            _finding(finding, fingerprint)
            for finding, fingerprint in zip(report.findings, report.fingerprints(), strict=True)
        ],
        "packages": [_package(package) for package in report.packages],
        "gaps": [_gap(gap, accepted=gap.reason in report.accepted) for gap in report.gaps],
        "stats": {
            "files": report.stats.files,
            "bytes_total": report.stats.bytes_total,
            "bytes_read": report.stats.bytes_read,
            "cpu_seconds": round(report.stats.cpu_seconds, 3),
            "wall_seconds": round(report.stats.wall_seconds, 3),
        },
        "coverage": _coverage(report.coverage),
        "guards": [
            {"name": clean(guard.name), "active": guard.active, "detail": clean(guard.detail)}
            for guard in report.guards
        ],
    }


def _coverage(coverage: Coverage) -> dict[str, Json]:
    return {
        "mode": coverage.mode,
        "base_refused": clean(coverage.base_refused),
        "files_carried": coverage.files_carried,
        "files_hashed": coverage.files_hashed,
        "bytes_hashed": coverage.bytes_hashed,
        "files_scanned": coverage.files_scanned,
        "bytes_scanned": coverage.bytes_scanned,
        "verdicts_known": coverage.verdicts_known,
        "inodes_gone": coverage.inodes_gone,
        "blocks_read": coverage.blocks_read,
        "blocks_total": coverage.blocks_total,
    }


def _volume(volume: VolumeReport) -> dict[str, Json]:
    return {
        "index": volume.index,
        "disk": volume.disk,
        "kind": clean(volume.kind),
        "filesystem": None if volume.filesystem is None else clean(volume.filesystem),
        "label": clean(volume.label),
        "uuid": clean(volume.uuid),
        "files": volume.files,
        "bytes": volume.bytes,
        "start": volume.start,
        "length": volume.length,
    }


def _finding(finding: Finding, fingerprint: str) -> dict[str, Json]:
    return {
        "fingerprint": fingerprint,
        "rule": clean(finding.rule.id),
        "title": clean(finding.rule.title),
        "severity": finding.rule.severity.value,
        "volume": finding.where.volume,
        "path": escape(finding.where.path),
        "subject": clean(finding.subject),
        "evidence": plain(finding.evidence),
        "remedy": clean(finding.rule.remedy),
    }


def _package(package: Package) -> dict[str, Json]:
    return {
        "type": clean(package.type),
        "name": clean(package.name),
        "version": clean(package.version),
        "architecture": clean(package.architecture),
        "source": clean(package.source),
        "source_version": clean(package.source_version),
        "distro": clean(package.distro),
        "volume": package.where.volume,
        "path": escape(package.where.path),
    }


def _gap(gap: Gap, *, accepted: bool) -> dict[str, Json]:
    return {
        "where": location(gap.where),
        "reason": gap.reason.value,
        "detail": clean(gap.detail),
        "count": gap.count,
        "accepted": accepted,
    }
