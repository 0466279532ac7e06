from __future__ import annotations

from typing import Any

import pytest
from py_ocsf_models.events.findings.detection_finding import DetectionFinding

from core.findings import Gap, GapReason, InVolume, Rule, Severity
from scanner.report import Report
from scanner.reports.ocsf import to_ocsf
from tests.scanner.reports.samples import EICAR, UUID, found, hostile, make

# what "Required" is in the specification, written down by hand beside the schemas of test_formats.py
BASE = {"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}


@pytest.mark.parametrize("report", [pytest.param(make(), id="nothing"), pytest.param(hostile(), id="hostile")])
def test_required_attributes(report: Report) -> None:
    scan, *findings = to_ocsf(report)
    assert set(scan) >= BASE | {"scan"}
    assert (scan["class_uid"], scan["category_uid"], scan["type_uid"]) == (6007, 6, 600702)
    assert len(findings) == len(report.findings)
    for event in findings:
        assert set(event) >= BASE | {"finding_info"}
        assert (event["class_uid"], event["category_uid"], event["type_uid"]) == (2004, 2, 200401)
    assert {event["metadata"]["version"] for event in [scan, *findings]} == {"1.8.0"}
    assert len({event["metadata"]["correlation_uid"] for event in [scan, *findings]}) == 1


def test_findings_fit_independent_models() -> None:
    events = to_ocsf(hostile())[1:]
    for event in events:
        model = DetectionFinding.model_validate(event)
        assert model.finding_info.uid == event["finding_info"]["uid"]
        assert model.severity_id.name == event["severity"]


@pytest.mark.parametrize(
    ("severity", "number"),
    [
        pytest.param(Severity.INFO, 1, id="info"),
        pytest.param(Severity.LOW, 2, id="low"),
        pytest.param(Severity.MEDIUM, 3, id="medium"),
        pytest.param(Severity.HIGH, 4, id="high"),
        pytest.param(Severity.CRITICAL, 5, id="critical"),
    ],
)
def test_severity(severity: Severity, number: int) -> None:
    (_, event) = to_ocsf(make((found(Rule("a/b", "A", severity, "B"), b"/x"),)))
    assert event["severity_id"] == number


@pytest.mark.parametrize(
    ("path", "sha256", "expected"),
    [
        pytest.param(b"/a/b", "A" * 64, {"name": "b", "path": "/a/b", "type_id": 1, "hash": "a" * 64}, id="hashed"),
        pytest.param(
            b"/a/\xff", None, {"name": "\\xff", "path": "/a/\\xff", "type_id": 0, "hash": None}, id="not-utf8"
        ),
        pytest.param(b"/", "nonsense", {"name": "/", "path": "/", "type_id": 0, "hash": None}, id="root-bad-hash"),
        pytest.param(b"/a", b"a" * 64, {"name": "a", "path": "/a", "type_id": 0, "hash": None}, id="hash-not-text"),
    ],
)
def test_file(path: bytes, sha256: object, expected: dict[str, Any]) -> None:
    (_, event) = to_ocsf(make((found(EICAR, path, sha256=sha256),)))
    file = event["evidences"][0]["file"]
    hashes = file.get("hashes", [{"value": None}])
    assert {key: file[key] for key in ("name", "path", "type_id")} | {"hash": hashes[0]["value"]} == expected
    assert file["volume"] == event["resources"][0]["uid"] == UUID


@pytest.mark.parametrize(
    ("accepted", "status"),
    [
        pytest.param(frozenset(), (99, "Incomplete"), id="open"),
        pytest.param({GapReason.SWAP}, (1, "Success"), id="accepted"),
    ],
)
def test_gaps_are_in_the_scan_activity(accepted: set[GapReason], status: tuple[int, str]) -> None:
    gaps = (Gap(InVolume(1), GapReason.SWAP, "swap", 5),)
    (scan,) = to_ocsf(make((), gaps, frozenset(accepted)))
    assert (scan["status_id"], scan["status"]) == status
    assert (scan["num_files"], scan["num_detections"], scan["num_skipped_items"]) == (48_211, 0, 5)
    assert scan["unmapped"]["gaps"][0]["reason"] == "swap"
    assert (scan["duration"], scan["end_time"] - scan["start_time"]) == (12_500, 12_500)
