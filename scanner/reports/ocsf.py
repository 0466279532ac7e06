"""OCSF 1.8.0: one Scan Activity event (class 6007) with the totals and the gaps, then a Detection Finding (2004) each.

Only attributes that version 1.5.0 has as well are used, so that consumers of older schemas read the events. Times are
milliseconds since 1970. The document is one JSON array, not JSON Lines: `--output` writes one document whatever the format.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from core.findings import Finding, Severity
from core.text import escape, printable
from scanner.report import Report
from scanner.reports.document import to_json
from scanner.reports.values import Json, clean, plain

VERSION = "1.8.0"
SEVERITIES: Mapping[Severity, tuple[int, str]] = {
    Severity.INFO: (1, "Informational"),
    Severity.LOW: (2, "Low"),
    Severity.MEDIUM: (3, "Medium"),
    Severity.HIGH: (4, "High"),
    Severity.CRITICAL: (5, "Critical"),
}
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def to_ocsf(report: Report) -> list[dict[str, Json]]:
    """The events of one scan; they share `metadata.correlation_uid`."""
    ids = report.volume_ids()
    return [
        _scan_activity(report),
        *(
            _detection(report, finding, fingerprint, ids.get(finding.where.volume, f"volume-{finding.where.volume}"))
            for finding, fingerprint in zip(report.findings, report.fingerprints(), strict=True)
        ),
    ]


def _event(report: Report, class_uid: int, activity: tuple[int, str], class_name: str) -> dict[str, Json]:
    """What the two classes share. `type_uid` is `class_uid * 100 + activity_id`."""
    number, activity_name = activity
    return {
        "metadata": _metadata(report),
        "category_uid": class_uid // 1000,
        "category_name": {2: "Findings", 6: "Application Activity"}[class_uid // 1000],
        "class_uid": class_uid,
        "class_name": class_name,
        "activity_id": number,
        "activity_name": activity_name,
        "type_uid": class_uid * 100 + number,
        "type_name": f"{class_name}: {activity_name}",
        "time": _milliseconds(report.ended),
    }


def _metadata(report: Report) -> dict[str, Json]:
    product = {"name": "Kumomori", "vendor_name": "Kumomori", "version": clean(report.version)}
    return {"version": VERSION, "product": product, "correlation_uid": _scan_uid(report)}


def _scan_activity(report: Report) -> dict[str, Json]:
    whole = not report.open_gaps
    details = to_json(report)
    return {
        **_event(report, 6007, (2, "Completed"), "Scan Activity"),
        "severity_id": 1,
        "severity": "Informational",
        # 99 is "Other", and then the caption is ours: neither success nor failure says that a part was not looked at
        "status_id": 1 if whole else 99,
        "status": "Success" if whole else "Incomplete",
        "status_code": str(report.exit_code),
        "scan": {"uid": _scan_uid(report), "name": "Kumomori snapshot scan", "type_id": 1, "type": "Manual"},
        "start_time": _milliseconds(report.started),
        "end_time": _milliseconds(report.ended),
        "duration": _milliseconds(report.ended) - _milliseconds(report.started),
        "num_files": report.stats.files,
        "num_detections": len(report.findings),
        "num_skipped_items": report.gap_count,
        "unmapped": {
            key: details[key] for key in ("target", "volumes", "gaps", "guards", "stats", "coverage", "rules")
        },
    }


def _detection(report: Report, finding: Finding, fingerprint: str, volume_id: str) -> dict[str, Json]:
    number, severity = SEVERITIES[finding.rule.severity]
    rule_id = clean(finding.rule.id)
    return {
        **_event(report, 2004, (1, "Create"), "Detection Finding"),
        "severity_id": number,
        "severity": severity,
        "status_id": 1,
        "status": "New",
        "is_alert": True,
        "message": printable(f"{finding.rule.title} ({finding.where})"),
        "finding_info": {
            "uid": fingerprint,
            "title": clean(finding.rule.title),
            "created_time": _milliseconds(report.ended),
            "types": [rule_id],
            "analytic": {"uid": rule_id, "name": clean(finding.rule.title), "type_id": 1, "type": "Rule"},
        },
        "remediation": {"desc": clean(finding.rule.remedy)},
        "resources": [{"uid": volume_id, "type": "volume"}],
        "evidences": [
            {
                "file": _file(finding, volume_id),
                "data": {"subject": clean(finding.subject), "evidence": plain(finding.evidence)},
            }
        ],
    }


def _file(finding: Finding, volume_id: str) -> dict[str, Json]:
    path = finding.where.path
    result: dict[str, Json] = {
        "name": escape(path.rpartition(b"/")[2]) or "/",
        "path": escape(path),
        "volume": volume_id,
        "type_id": 0,
        "type": "Unknown",
    }
    sha256 = finding.evidence.get("sha256")
    if isinstance(sha256, str) and _SHA256.fullmatch(sha256):
        # what has been hashed is a regular file; a finding says no more about the kind of its file
        result |= {"type_id": 1, "type": "Regular File"}
        result["hashes"] = [{"algorithm_id": 3, "algorithm": "SHA-256", "value": sha256.lower()}]
    return result


def _scan_uid(report: Report) -> str:
    """32 hex digits, the same in every event of one scan."""
    words = [*report.target, report.started.astimezone(UTC).isoformat()]
    return hashlib.sha256("\0".join(clean(word) for word in words).encode()).hexdigest()[:32]


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
