from __future__ import annotations

import base64
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from console import report as module
from console.problems import Refused
from console.report import MOST_EVIDENCE_BYTES, bounded, read_report, unpacked
from tests.console.made import UUID, finding, gap, packed, report, volume

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "report.schema.json").read_text())


def test_the_reports_of_these_tests_are_reports() -> None:
    made = report(
        [finding("a")], [gap(), gap("machine"), gap("disk"), gap("volume")], [volume(), volume(1, "", disk=1)]
    )
    made["coverage"] |= {
        name: 0 for name in SCHEMA["properties"]["coverage"]["required"] if name not in made["coverage"]
    }
    errors = [error for error in Draft202012Validator(SCHEMA).iter_errors(made) if "coverage" not in error.path]
    assert errors == []


def test_what_is_read_of_it() -> None:
    read = read_report(packed(report([finding("a", path=b"/\xff\x00")], [gap(path=b"/b", count=3)])))
    assert (read.result, read.mode, read.blocks_read, read.bytes_read) == ("findings", "full", 7, 4096)
    (found,) = read.findings
    assert (found.rule, found.severity.value, found.volume, found.path) == ("linux/a", "high", UUID, b"/\xff\x00")
    (unseen,) = read.gaps
    assert (unseen.where, unseen.count, unseen.path) == ("volume 0: /b", 3, b"/b")
    assert json.loads(gzip.decompress(read.compressed))["schema"] == "kumomori.report/1"


def changed(**others: Any) -> dict[str, Any]:
    return {**report([finding("a")], [gap()]), **others}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in report([finding("a")], [gap()]).items() if key != name}


DEEP = b'{"schema":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
WRONG_PARTS: tuple[Any, ...] = (None, 1, "x", True, [1], [[]], [{}])
WRONG_IN_FINDINGS: tuple[Any, ...] = (None, -1, 1.5, True, [], [{}])
WRONG_IN_GAPS: tuple[Any, ...] = (None, -1, 1.5, [], {})
WRONG_PLACES: tuple[Any, ...] = (
    None,
    [],
    {},
    {"scope": "moon"},
    {"scope": "disk"},
    {"scope": "file", "volume": 1},
    {"scope": "volume", "volume": -1},
)
WRONG_IN_VOLUMES: tuple[Any, ...] = (-1, 1.5, [], {}, True)
HOSTILE: list[Any] = [
    pytest.param("", id="empty"),
    pytest.param("!!!", id="no-base64"),
    pytest.param("\u00e4\ud800", id="no-ascii"),
    pytest.param(base64.b64encode(b"not gzip").decode(), id="no-gzip"),
    pytest.param(base64.b64encode(gzip.compress(b"{}")[:-6]).decode(), id="cut-short"),
    pytest.param(base64.b64encode(gzip.compress(b"{}") + b"more").decode(), id="something-follows"),
    pytest.param(base64.b64encode(gzip.compress(b"{}") * 2).decode(), id="two-members"),
    pytest.param(base64.b64encode(zlib.compress(b"{}")).decode(), id="zlib"),
    pytest.param(packed(b""), id="no-json"),
    pytest.param(packed(b"\xff\xfe{}"), id="no-utf8"),
    pytest.param(packed(DEEP), id="deep"),
    pytest.param(packed(b"[]"), id="a-list"),
    pytest.param(packed(b"null"), id="null"),
    pytest.param(packed(b"9" * 10_000), id="endless-number"),
    pytest.param(packed({}), id="nothing"),
    pytest.param(packed(changed(schema="kumomori.report/2")), id="other-version"),
    pytest.param(packed(b'{"schema":"kumomori.report/1","result":NaN}'), id="nan"),
    pytest.param(packed(b'{"schema":"kumomori.report/1","result":1e999}'), id="infinite"),
    *(
        pytest.param(packed(without(name)), id=f"no-{name}")
        for name in ("result", "volumes", "findings", "gaps", "stats", "coverage")
    ),
    *(
        pytest.param(packed(changed(**{name: value})), id=f"{name}-is-{value!r:.20}")
        for name in ("result", "volumes", "findings", "gaps", "stats", "coverage")
        for value in WRONG_PARTS
    ),
    *(
        pytest.param(packed(changed(findings=[{**finding("a"), name: value}])), id=f"finding-{name}-is-{value!r:.20}")
        for name in ("fingerprint", "rule", "title", "severity", "volume", "path", "subject", "evidence", "remedy")
        for value in WRONG_IN_FINDINGS
    ),
    pytest.param(packed(changed(findings=[finding("a", fingerprint="A" * 64)])), id="fingerprint-upper-case"),
    pytest.param(packed(changed(findings=[finding("a", fingerprint="a" * 64 + "\n")])), id="fingerprint-line-break"),
    pytest.param(packed(changed(findings=[finding("a", volume=1 << 80)])), id="volume-huge"),
    *(
        pytest.param(packed(changed(gaps=[{**gap(), name: value}])), id=f"gap-{name}-is-{value!r:.20}")
        for name in ("reason", "detail", "count", "accepted")
        for value in WRONG_IN_GAPS
    ),
    *(
        pytest.param(packed(changed(gaps=[{**gap(), "where": where}])), id=f"gap-where-is-{where!r:.40}")
        for where in WRONG_PLACES
    ),
    *(
        pytest.param(packed(changed(volumes=[{**volume(), name: value}])), id=f"volume-{name}-is-{value!r:.20}")
        for name in ("index", "disk", "uuid", "filesystem")
        for value in WRONG_IN_VOLUMES
    ),
    pytest.param(packed(changed(volumes=[volume(), volume()])), id="two-volumes-of-one-index"),
    pytest.param(packed(changed(stats={"bytes_read": 1 << 61})), id="too-many-bytes"),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_reports_are_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        read_report(text)
    assert caught.value.status == 422


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_REPORT_JSON_BYTES", 1 << 20)
    with pytest.raises(Refused, match="bytes of JSON"):
        read_report(packed(b" " * ((1 << 20) + 1)))


def test_too_many_values_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_VALUES", 1000)
    with pytest.raises(Refused, match="values"):
        read_report(packed({"schema": "kumomori.report/1", "x": [{}] * 1000}))


def test_findings_beyond_the_most_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FINDINGS", 3)
    read = read_report(packed(report([finding(str(number)) for number in range(10)])))
    assert len(read.findings) == 3
    assert len(read.seen) == 10
    assert [(one.scope, one.reason.value, one.count) for one in read.gaps] == [("machine", "limit", 7)]


def test_gaps_beyond_the_most_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_GAPS", 3)
    read = read_report(packed(report(gaps=[gap(path=b"/%d" % number) for number in range(10)])))
    assert [(one.scope, one.count) for one in read.gaps] == [("machine", 8), ("file", 1), ("file", 1)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ud800\udfff", id="lone-surrogates"),
        pytest.param("a\x00b", id="nul"),
        pytest.param("x" * 1_000_000, id="long"),
        pytest.param("\\xff\\x5cx41", id="escapes"),
    ],
)
def test_text_from_disks_is_kept_or_cut_never_refused(text: str) -> None:
    fields = dict.fromkeys(("rule", "title", "path", "subject", "remedy"), text)
    (found,) = read_report(packed(report([{**finding("a"), "evidence": {text: text}, **fields}]))).findings
    assert len(found.subject) <= 4096
    assert len(found.path) <= 16384
    assert len(json.dumps(found.evidence)) <= MOST_EVIDENCE_BYTES


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3000),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=2000), inner, max_size=20),
    max_leaves=60,
)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=5000), JSON, max_size=30))
def test_evidence_is_bounded(evidence: dict[str, Any]) -> None:
    kept = bounded(evidence)
    assert len(json.dumps(kept)) <= MOST_EVIDENCE_BYTES
    if len(json.dumps(evidence)) <= MOST_EVIDENCE_BYTES and "too deep" not in json.dumps(kept):
        assert kept == evidence


@given(JSON, st.sampled_from(["", "findings", "gaps", "volumes", "coverage", "stats"]))
def test_any_json_is_read_or_refused(value: Any, where: str) -> None:
    document: Any = {**report([finding("a")], [gap()]), where: value} if where else value
    try:
        read_report(packed(document))
    except Refused as refused:
        assert refused.status == 422


def test_a_report_is_handed_out_in_pieces() -> None:
    """Packed it may be a thousandth of its size, and many may ask for it at once, and read slowly."""
    raw = bytes(64 << 20)
    most = total = 0
    for piece in unpacked(gzip.compress(raw, 1)):
        most, total = max(most, len(piece)), total + len(piece)
    assert total == len(raw)
    assert most <= 256 << 10
    assert b"".join(unpacked(gzip.compress(b"{}"))) == b"{}"
