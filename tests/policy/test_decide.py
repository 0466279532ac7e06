from __future__ import annotations

import pytest

from core.findings import Finding, Gap, GapReason, InFile, Machine, Rule, Severity
from policy.decide import decide, decide_gaps, path_matches, possible
from policy.resolve import Resolved, resolve
from policy.settings import Action, Mode
from tests.policy.documents import NOW, machine, policy, tree

TEXT = """settings:
  actions: {critical: [isolate, alert], high: [disinfect], by_rule: {"linux/*": [stop], linux/x: [tag, alert]}}
  exclusions: {rules: [known/*], paths: [/srv/**/*.log]}
  gaps: {accepted: [swap]}"""


def held() -> Resolved:
    found = resolve(tree(policy("a", TEXT)), machine(), NOW)
    assert isinstance(found, Resolved)
    return found


@pytest.mark.parametrize(
    ("rule", "severity", "path", "can", "expected"),
    [
        pytest.param("m/a", Severity.CRITICAL, b"/x", {Action.ISOLATE}, [Action.ISOLATE, Action.ALERT], id="can"),
        pytest.param("m/a", Severity.CRITICAL, b"/x", set(), [Action.ALERT], id="only-alert"),
        pytest.param("m/a", Severity.HIGH, b"/x", {Action.BLOCK}, [Action.BLOCK], id="weaker"),
        pytest.param("linux/y", Severity.LOW, b"/x", {Action.ISOLATE}, [Action.ISOLATE], id="by-rule"),
        pytest.param("linux/x", Severity.LOW, b"/x", {Action.TAG}, [Action.TAG, Action.ALERT], id="longest-pattern"),
        pytest.param("m/a", Severity.INFO, b"/x", set(), [Action.ALERT], id="default"),
        pytest.param("known/a", Severity.CRITICAL, b"/x", {Action.ISOLATE}, [None], id="rule-left-out"),
        pytest.param("m/a", Severity.CRITICAL, b"/srv/a/b.log", set(), [None], id="path-left-out"),
    ],
)
def test_decisions(rule: str, severity: Severity, path: bytes, can: set[Action], expected: list[Action | None]) -> None:
    finding = Finding(Rule(rule, "", severity, ""), InFile(0, path))
    found = list(decide([finding], held(), can))
    assert [one.action for one in found] == expected
    for one in found:
        assert "policy a (p.yaml:" in one.reason or one.reason.endswith("built-in default")
        assert one.reason.startswith("wanted") == (one.action != one.wanted)


@pytest.mark.parametrize(
    ("wanted", "can", "reasons"),
    [
        pytest.param("alert, isolate", set(), ["wanted isolate, could only alert"], id="alert-first"),
        pytest.param(
            "quarantine, isolate",
            set(),
            ["wanted quarantine and isolate, could only alert"],
            id="both-weaker",
        ),
        pytest.param("tag, isolate", {Action.TAG}, ["wanted isolate, could only tag"], id="tag-first"),
        pytest.param("isolate, alert", set(), ["wanted isolate, could only alert"], id="said-already"),
        pytest.param("alert, alert", set(), ["severity"], id="twice"),
    ],
)
def test_what_cannot_be_done_is_always_said(wanted: str, can: set[Action], reasons: list[str]) -> None:
    policies = tree(policy("a", f"settings: {{actions: {{high: [{wanted}]}}}}"))
    found = resolve(policies, machine(), NOW)
    assert isinstance(found, Resolved)
    finding = Finding(Rule("m/a", "", Severity.HIGH, ""), InFile(0, b"/x"))
    decisions = list(decide([finding], found, can))
    said = [one.reason for one in decisions]
    assert len(said) == len(reasons)
    assert all(text.startswith(words) for text, words in zip(said, reasons, strict=True))
    assert len({one.action for one in decisions}) == len(decisions)


def test_words_and_gaps() -> None:
    finding = Finding(Rule("m/a", "", Severity.CRITICAL, ""), InFile(0, b"/x"))
    (only,) = decide([finding], held(), possible("plain", Mode.AGENTLESS))
    assert only.reason.startswith("wanted isolate, could only alert: severity critical, policy a")
    gaps = [Gap(Machine(), GapReason.SWAP, ""), Gap(Machine(), GapReason.CORRUPT, "")]
    assert [one.accepted for one in decide_gaps(gaps, held())] == [True, False]
    assert Action.QUARANTINE in possible("aws", Mode.BOTH) - possible("aws", Mode.AGENTLESS)


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/b/c", False),
        ("/a/**", "/a/b/c", True),
        ("/a/**/c", "/a/c", True),
        ("/a/**/c", "/a/x/y/c", True),
        ("/a/**/c", "/a/xc", False),
        ("/a/?.log", "/a/b.log", True),
        ("/a/*.log", "/a/b.log.log", True),
        ("/" + "**a" * 20, "/" + "a" * 500 + "b", False),
    ],
)
def test_paths(pattern: str, path: str, fits: bool) -> None:
    assert path_matches(pattern, path) is fits
