"""What is locked stays so: nobody below takes a finding away from an action that is locked above."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.findings import Finding, InFile, Rule, Severity
from policy.decide import decide
from policy.document import Refused
from policy.resolve import Resolved, resolve
from policy.settings import LOCKED_WITH, Action
from policy.tree import Tree
from policy.typed import locked_with
from tests.policy.documents import NOW, machine, policy, problems, tree

SHA256 = "ab" * 32
FINDINGS = [
    Finding(Rule(rule, "", severity, ""), InFile(0, path), evidence={"sha256": SHA256})
    for rule in ("linux/x", "web/y")
    for severity in Severity
    for path in (b"/srv/a/b", b"/etc/passwd")
]
SAID = st.fixed_dictionaries(
    {},
    optional={
        "exclusions": st.fixed_dictionaries(
            {},
            optional={
                "paths": st.sampled_from([["/srv/**"], ["/etc/*"], ["**/b", "/etc/passwd"]]),
                "sha256": st.just([SHA256]),
                "rules": st.sampled_from([["linux/*"], ["web/y", "*/x"]]),
                "processes": st.just(["/usr/bin/x"]),
            },
        ),
        "actions": st.fixed_dictionaries(
            {},
            optional={
                **{severity.value: st.sampled_from([["alert"], ["tag"]]) for severity in Severity},
                "by_rule": st.sampled_from([{"linux/*": ["alert"]}, {"*": ["tag"]}, {"web/y": ["alert"]}]),
            },
        ),
        "gaps": st.just({"accepted": ["swap"]}),
        "scan": st.just({"depth": "full"}),
    },
)
LOCKS = st.sampled_from(["actions.critical", "actions.low", "actions", "actions.by_rule"])
TOP = {"actions": {"critical": ["stop"], "low": ["tag", "alert"], "by_rule": {"linux/x": ["isolate"]}}}


def _done(planted: Tree, local: str = "") -> list[tuple[str, str, Action | None]]:
    found = resolve(planted, machine(), NOW, planted.local[local] if local else None)
    assert isinstance(found, Resolved)
    return [
        (one.finding.rule.id, one.finding.rule.severity.value, one.action) for one in decide(FINDINGS, found, Action)
    ]


def _kept(lock: str, rule: str, severity: str) -> bool:
    """Is the action of such a finding locked by `lock`?"""
    by_rule = rule == "linux/x"
    return lock == "actions" or (by_rule if lock == "actions.by_rule" else lock == f"actions.{severity}")


@settings(max_examples=200, deadline=None)
@given(LOCKS, st.lists(st.tuples(st.sampled_from(["Policy", "Profile"]), SAID), max_size=3), SAID)
@pytest.mark.slow
def test_no_child_takes_a_finding_away(lock: str, below: list[tuple[str, Any]], local: Any) -> None:
    top = policy("top", f"lock: [{lock}]\nsettings: {json.dumps(TOP)}")
    texts = [top]
    parent = "top"
    for number, (kind, said) in enumerate(below):
        name = f"p{number}"
        texts.append(policy(name, "", parent))
        rest = f"settings: {json.dumps(said)}"
        texts.append(policy(f"s{number}", f"until: never\n{rest}" if kind == "Profile" else rest, name, kind))
        parent = name if kind == "Profile" else f"s{number}"
    texts.append(policy("mine", f"settings: {json.dumps(local)}", kind="Local"))
    said_below = {f"{section}.{name}" for _, said in below for section in said for name in said[section]}
    try:
        planted = tree(*texts)
    except Refused as error:
        assert said_below & _locked(lock)
        assert all("is locked by top (p.yaml:5:8)" in one.text for one in error.problems)
        return
    assert not said_below & _locked(lock)
    before, after = _done(tree(top)), _done(planted, "mine")
    assert [one for one in before if _kept(lock, *one[:2])] == [one for one in after if _kept(lock, *one[:2])]


def _locked(lock: str) -> set[str]:
    names = {lock} if lock != "actions" else {"actions.by_rule", *(f"actions.{one.value}" for one in Severity)}
    return names | {other for name in names for other in LOCKED_WITH[name]}


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ("exclusions: {paths: [/srv/**]}", True),
        (f"exclusions: {{sha256: ['{SHA256}']}}", True),
        ("exclusions: {rules: [linux/*]}", True),
        ("exclusions: {processes: [/usr/bin/x]}", False),
        ("gaps: {accepted: [swap]}", False),
        ("actions: {high: [alert]}", False),
    ],
)
@pytest.mark.parametrize("kind", ["Policy", "Profile"])
def test_what_is_locked_together(said: str, refused: bool, kind: str) -> None:
    """What the lock's owner says for some in a profile of its own is not refused, whatever it is."""
    until = "until: never\n" if kind == "Profile" else ""
    top = policy("top", "lock: [actions.critical]")
    texts = [
        top,
        policy("team", "selector: {cloud: aws}", "top"),
        policy("x", f"{until}settings: {{{said}}}", "team", kind),
    ]
    if refused:
        (text,) = problems(*texts)
        assert (
            "is locked by top (p.yaml:5:8) together with `actions.critical`: take it out here, say it in `top`" in text
        )
    else:
        tree(*texts)
    tree(top, policy("x", f"when: {{role: db}}\nuntil: never\nsettings: {{{said}}}", "top", "Profile"))


@pytest.mark.parametrize(
    ("lock", "setting", "cause"),
    [
        (["actions.critical"], "exclusions.paths", "actions.critical"),
        (["actions"], "exclusions.rules", "actions"),
        (["exclusions", "actions"], "exclusions.rules", ""),
        (["actions.by_rule"], "actions.by_rule", ""),
        (["protection.mode"], "protection.why", "protection.mode"),
    ],
)
def test_the_cause_of_a_lock(lock: list[str], setting: str, cause: str) -> None:
    assert locked_with(lock, setting) == cause
