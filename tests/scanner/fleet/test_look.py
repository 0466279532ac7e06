"""From an order's settings to a scan's options, and from a report to what is sent."""

from __future__ import annotations

import base64
import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.errors import LimitExceeded
from core.findings import Finding, Gap, GapReason, InFile, Package, Rule, Severity
from scanner.fleet import look
from scanner.fleet.context import Context
from scanner.fleet.look import blocks_per_second, fitting, options_of, packed
from scanner.report import Report
from scanner.reports.document import to_json
from tests.scanner.fleet.test_admission import an_order
from tests.scanner.reports.samples import make


def options(tmp_path: Path, **settings: Any) -> Any:
    context = cast(Context, SimpleNamespace(jobs=1, folder=tmp_path))
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return options_of(an_order("one", settings=named), context, tmp_path / "work")


def test_settings(tmp_path: Path) -> None:
    found = options(
        tmp_path,
        scan__max_file_bytes=5000,
        scan__timeout_seconds=60,
        scan__file_timeout_seconds=7,
        scan__scan_ends_bytes=9,
        gaps__accepted=["encrypted", "of a later version"],
    )
    assert (found.max_file_bytes, found.timeout_seconds, found.file_timeout_seconds, found.ends_bytes) == (
        5000,
        60,
        7,
        9,
    )
    assert found.accepted == {GapReason.ENCRYPTED}
    assert (found.cache, found.manifest) == (tmp_path / "verdicts", tmp_path / "work" / "manifest")


@pytest.mark.parametrize("bad", [-1, True, "60", None])
def test_settings_that_are_none(tmp_path: Path, bad: Any) -> None:
    assert options(tmp_path, scan__timeout_seconds=bad).timeout_seconds == options(tmp_path).timeout_seconds


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, None),
        ({"limits.blocks_per_second": 100}, 100),
        ({"limits.blocks_per_second": 100, "limits.scans_per_account": 5}, 20),
        ({"limits.blocks_per_second": 0}, 0.1),
        ({"limits.blocks_per_second": True}, None),
    ],
)
def test_blocks_per_second(settings: dict[str, Any], share: float | None) -> None:
    assert blocks_per_second(an_order("one", settings=settings)) == share


def document(count: int = 1, text: str = "x") -> dict[str, Any]:
    return {
        "schema": "kumomori.report/1",
        "findings": [{"subject": "s", "evidence": {"text": text, "number": one}} for one in range(count)],
    }


def unpacked(report: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(report, validate=True)))


def test_a_report_goes_masked() -> None:
    found = unpacked(packed(document(text="https://user:hunter22@host/ \x00 \ud800")))
    assert "hunter22" not in str(found)
    assert found["findings"][0]["evidence"]["number"] == 0
    assert packed(document()) == packed(document()), "the same each time"


def test_a_report_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "MOST_REPORT_JSON_BYTES", 5000)
    found = unpacked(packed(document(20, "y" * 900)))
    assert len(found["findings"]) == 20, "evidence goes, findings stay"
    assert "left_out" in found["findings"][0]["evidence"]
    with pytest.raises(LimitExceeded):
        packed(document(2000))


def drowned(count: int, bytes_each: int) -> Report:
    """One finding that matters, after many of no weight under long names that do not compress."""
    light = Rule("r.light", "x", Severity.INFO, "y")
    noise = random.Random(1)
    findings = [Finding(light, InFile(0, noise.randbytes(bytes_each))) for _ in range(count)]
    findings.append(Finding(Rule("r.worst", "x", Severity.CRITICAL, "y"), InFile(0, b"/malware")))
    packages = tuple(
        Package(InFile(0, b"/status"), "deb", noise.randbytes(200).hex(), "1", "amd64", "", "", "")
        for _ in range(count)
    )
    gaps = tuple(Gap(InFile(0, noise.randbytes(bytes_each)), GapReason.CORRUPT, "x") for _ in range(count))
    return replace(make(), findings=tuple(findings), packages=packages, gaps=gaps)


@pytest.mark.slow
def test_the_worst_finding_is_not_drowned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "MOST_REPORT_BYTES", 1 << 20)
    found = unpacked(fitting(drowned(2_000, 1_000)))
    assert found["findings"][0]["rule"] == "r.worst"
    assert len(found["findings"]) == 100
    (left_out,) = [one for one in found["gaps"] if one["reason"] == "limit"]
    assert "1,901 findings, 1,900 packages and 1,900 gaps are left out" in left_out["detail"]
    assert left_out["accepted"] is False
    assert found["result"] == "findings"


def test_a_report_that_fits_stays_whole() -> None:
    report = drowned(200, 1_000)
    assert fitting(report) == packed(to_json(report))


def test_what_cannot_be_cut_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "MOST_REPORT_JSON_BYTES", 1000)
    with pytest.raises(LimitExceeded):
        fitting(drowned(10, 10))
