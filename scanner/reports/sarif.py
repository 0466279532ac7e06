"""SARIF 2.1.0 (OASIS, errata 01): findings are results, gaps are notifications of the tool.

Paths are relative URIs below one base a volume (`VOLUME0`, ...). The text of a message is what a viewer renders, and SARIF
gives brackets and braces a meaning there (3.11.5 placeholders, 3.11.6 embedded links): in what comes from a disk they are
written out as hex escapes. `properties` holds the exact values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from core.findings import Finding, Gap, GapReason, InFile, Rule, Severity
from core.text import escape, printable
from scanner.report import Report
from scanner.reports.values import Json, clean, location, plain

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS: Mapping[Severity, str] = {
    Severity.INFO: "note",
    Severity.LOW: "note",
    Severity.MEDIUM: "warning",
    Severity.HIGH: "error",
    Severity.CRITICAL: "error",
}
# Code scanning services sort by this number, from 0 to 10: over 9 is critical, from 7 high, from 4 medium.
SCORES: Mapping[Severity, str] = {
    Severity.INFO: "0.0",
    Severity.LOW: "2.5",
    Severity.MEDIUM: "5.5",
    Severity.HIGH: "8.0",
    Severity.CRITICAL: "9.5",
}
_RENDERED = str.maketrans({char: f"\\x{ord(char):02x}" for char in "[]{}"})


def to_sarif(report: Report) -> dict[str, Json]:
    """A SARIF log with one run."""
    rules = report.rules_found()
    reasons = sorted({gap.reason for gap in report.gaps})
    index = {rule.id: place for place, rule in enumerate(rules)}
    driver = {
        "name": "Kumomori",
        "version": clean(report.version),
        "rules": [_rule(rule) for rule in rules],
        "notifications": [_reason(reason) for reason in reasons],
        "properties": {"rulesDigest": clean(report.rules.digest), "rulesCount": report.rules.count},
    }
    run = {
        "tool": {"driver": driver},
        "invocations": [_invocation(report, reasons)],
        "originalUriBaseIds": _bases(report),
        "results": [
            _result(finding, fingerprint, index[finding.rule.id])
            for finding, fingerprint in zip(report.findings, report.fingerprints(), strict=True)
        ],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def relative_uri(path: bytes) -> str:
    """An absolute path as a relative URI reference (RFC 3986): each byte but letters, digits and `-._~/` is encoded.

    Never empty, never absolute, never with a scheme. `unquote_to_bytes` gives the path back, less its first `/` (for the
    root itself: `.`).
    """
    rest = path.removeprefix(b"/")
    slashes = len(rest) - len(rest.lstrip(b"/"))  # a reference that starts with `/` would leave the volume
    return "%2F" * slashes + quote(rest[slashes:], safe="/") or "."


def _rule(rule: Rule) -> dict[str, Json]:
    return {
        "id": clean(rule.id),
        "shortDescription": {"text": _rendered(rule.title)},
        "help": {"text": _rendered(rule.remedy)},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {"tags": ["security"], "security-severity": SCORES[rule.severity]},
    }


def _reason(reason: GapReason) -> dict[str, Json]:
    return {"id": reason.value, "shortDescription": {"text": f"Not looked at: {reason.value.replace('_', ' ')}"}}


def _result(finding: Finding, fingerprint: str, rule_index: int) -> dict[str, Json]:
    subject = f": {finding.subject}" if finding.subject else ""
    return {
        "ruleId": clean(finding.rule.id),
        "ruleIndex": rule_index,
        "level": LEVELS[finding.rule.severity],
        "message": {"text": _rendered(f"{finding.rule.title}{subject} ({finding.where})")},
        "locations": [_location(finding.where)],
        "partialFingerprints": {"kumomori/v1": fingerprint},
        "properties": {
            "severity": finding.rule.severity.value,
            "volume": finding.where.volume,
            "path": escape(finding.where.path),
            "subject": clean(finding.subject),
            "evidence": plain(finding.evidence),
        },
    }


def _invocation(report: Report, reasons: Sequence[GapReason]) -> dict[str, Json]:
    return {
        "executionSuccessful": not report.open_gaps,
        "exitCode": report.exit_code,
        "startTimeUtc": _utc(report.started),
        "endTimeUtc": _utc(report.ended),
        "toolExecutionNotifications": [
            _notification(gap, reasons.index(gap.reason), accepted=gap.reason in report.accepted) for gap in report.gaps
        ],
        "properties": {
            "target": [clean(disk) for disk in report.target],
            "files": report.stats.files,
            "bytesTotal": report.stats.bytes_total,
            "bytesRead": report.stats.bytes_read,
            "guards": {clean(guard.name): guard.active for guard in report.guards},
        },
    }


def _notification(gap: Gap, reason_index: int, *, accepted: bool) -> dict[str, Json]:
    times = f" ({gap.count} times)" if gap.count > 1 else ""
    result: dict[str, Json] = {
        "descriptor": {"id": gap.reason.value, "index": reason_index},
        "level": "note" if accepted else "warning",
        "message": {"text": _rendered(f"Not looked at: {gap.where}: {gap.detail}{times}")},
        "properties": {"where": location(gap.where), "count": gap.count, "accepted": accepted},
    }
    if isinstance(gap.where, InFile):
        result["locations"] = [_location(gap.where)]
    return result


def _location(where: InFile) -> dict[str, Json]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": relative_uri(where.path), "uriBaseId": f"VOLUME{where.volume}"},
        },
    }


def _bases(report: Report) -> dict[str, Json]:
    """Every base that a location names. They have no URI of their own: a snapshot is not at an address."""
    places = [finding.where for finding in report.findings]
    places += [gap.where for gap in report.gaps if isinstance(gap.where, InFile)]
    bases = {
        f"VOLUME{number}": {"description": {"text": f"Volume {number}"}}
        for number in sorted({place.volume for place in places})
    }
    for volume in report.volumes:
        words = f"Volume {volume.index}, {volume.filesystem or 'no filesystem'} {volume.label} {volume.uuid}"
        bases[f"VOLUME{volume.index}"] = {"description": {"text": _rendered(words.rstrip())}}
    return bases


def _rendered(text: str) -> str:
    return printable(text).translate(_RENDERED)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
