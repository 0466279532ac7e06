from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.findings import Gap, GapReason, InFile, InVolume
from scanner.report import Report
from scanner.reports.sarif import relative_uri, to_sarif
from tests.scanner.reports.samples import EICAR, MARKUP, SUDO, found, hostile, make


def _run(report: Report) -> Any:
    (run,) = to_sarif(report)["runs"]
    return run


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        pytest.param(b"/etc/shadow", "etc/shadow", id="plain"),
        pytest.param(b"/a b/\xff", "a%20b/%FF", id="not-utf8"),
        pytest.param("/日".encode(), "%E6%97%A5", id="wide"),
        pytest.param(b"/javascript:x", "javascript%3Ax", id="scheme"),
        pytest.param(b"//localhost/x", "%2Flocalhost/x", id="authority"),
        pytest.param(b"///x", "%2F%2Fx", id="slashes"),
        pytest.param(b"/a?b#c%41", "a%3Fb%23c%2541", id="reserved"),
        pytest.param(b"/", ".", id="root"),
        pytest.param(b"", ".", id="empty"),
    ],
)
def test_relative_uri(path: bytes, uri: str) -> None:
    assert relative_uri(path) == uri


@given(st.binary(max_size=40))
def test_relative_uri_loses_nothing_and_stays_relative(tail: bytes) -> None:
    uri = relative_uri(b"/" + tail)
    assert uri.isascii()
    assert not urlsplit(uri).scheme
    assert not urlsplit(uri).netloc
    assert unquote_to_bytes(uri) == (tail or b".")
    if b"." not in tail:
        assert urljoin("http://localhost/volume/", uri).startswith("http://localhost/volume/")


def test_results_name_their_rules() -> None:
    findings = (found(SUDO, b"/a"), found(EICAR, b"/b", "x"), found(EICAR, b"/c"))
    run = _run(make(findings))
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["malware/eicar", "linux/sudo-nopasswd"]
    assert [rule["properties"]["security-severity"] for rule in rules] == ["9.5", "5.5"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert [result["level"] for result in run["results"]] == ["error", "error", "warning"]
    assert run["results"][0]["message"]["text"] == "EICAR test file: x (volume 0: /b)"
    fingerprints = [result["partialFingerprints"]["kumomori/v1"] for result in run["results"]]
    assert fingerprints == make(findings).fingerprints()


def test_every_base_is_declared() -> None:
    run = _run(hostile())
    located = [*run["results"], *run["invocations"][0]["toolExecutionNotifications"]]
    used = {
        place["physicalLocation"]["artifactLocation"]["uriBaseId"]
        for item in located
        for place in item.get("locations", [])
    }
    assert used == {"VOLUME0", "VOLUME2", "VOLUME7"}
    assert used <= set(run["originalUriBaseIds"])


def test_messages_give_viewers_nothing_to_interpret() -> None:
    run = _run(hostile())
    rules = run["tool"]["driver"]["rules"]
    texts = [item["message"]["text"] for item in run["results"]]
    texts += [item["message"]["text"] for item in run["invocations"][0]["toolExecutionNotifications"]]
    texts += [rule[key]["text"] for rule in rules for key in ("shortDescription", "help")]
    texts += [base["description"]["text"] for base in run["originalUriBaseIds"].values()]
    assert any("\\x5blink\\x5d" in text for text in texts)
    for text in texts:
        assert text.isprintable()
        assert not set(text) & set("[]{}")


@pytest.mark.parametrize(
    ("gaps", "accepted", "success", "code", "level"),
    [
        pytest.param((), frozenset(), True, 0, None, id="none"),
        pytest.param((Gap(InVolume(0), GapReason.SWAP, "x"),), frozenset(), False, 3, "warning", id="open"),
        pytest.param(
            (Gap(InVolume(0), GapReason.SWAP, "x"),), frozenset({GapReason.SWAP}), True, 0, "note", id="accepted"
        ),
    ],
)
def test_gaps_are_notifications(
    gaps: tuple[Gap, ...], accepted: frozenset[GapReason], success: bool, code: int, level: str | None
) -> None:
    (invocation,) = _run(make((), gaps, accepted))["invocations"]
    assert invocation["executionSuccessful"] is success
    assert invocation["exitCode"] == code
    assert [item["level"] for item in invocation["toolExecutionNotifications"]] == ([level] if level else [])
    assert invocation["startTimeUtc"] == "2026-03-04T05:06:07.890Z"
    assert invocation["endTimeUtc"] == "2026-03-04T05:06:20.390Z"


def test_notifications_name_their_descriptors() -> None:
    gaps = (Gap(InFile(0, b"/x"), GapReason.CORRUPT, "bad", 9), Gap(InVolume(1), GapReason.SWAP, "swap"))
    run = _run(make((found(MARKUP, b"/"),), gaps))
    notifications = run["invocations"][0]["toolExecutionNotifications"]
    descriptors = run["tool"]["driver"]["notifications"]
    assert [descriptors[item["descriptor"]["index"]]["id"] for item in notifications] == ["corrupt", "swap"]
    assert notifications[0]["message"]["text"] == "Not looked at: volume 0: /x: bad (9 times)"
    assert "locations" not in notifications[1]
