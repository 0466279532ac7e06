"""From an order's settings to a scan's options, and from a report to what is sent."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.errors import LimitExceeded
from core.findings import GapReason
from scanner.fleet import look
from scanner.fleet.context import Context
from scanner.fleet.look import blocks_per_second, options_of, packed
from tests.scanner.fleet.test_admission import an_order


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
