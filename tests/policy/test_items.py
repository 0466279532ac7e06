"""Of merged settings, each item is explained by itself."""

from __future__ import annotations

from core.findings import Finding, Gap, GapReason, InFile, Machine, Rule, Severity
from policy.decide import decide, decide_gaps
from policy.resolve import Resolved, resolve
from policy.settings import CATALOGUE, DEFAULTS, Action
from tests.policy.documents import NOW, machine, policy, tree

TOP = policy(
    "top",
    """settings:
  exclusions:
    paths:
      - /a/*
      - /b/*
    sha256: [abababababababababababababababababababababababababababababababab]
  actions:
    by_rule:
      x/a: [alert]
      x/b: [tag]
  network: {inbound: [{port: tcp/22, from: 10.0.0.0/8}]}
  gaps: {accepted: [swap]}""",
)
BELOW = policy(
    "below",
    """settings:
  exclusions:
    paths: [/b/*, /c/*]
  actions:
    by_rule: {x/a: [isolate], x/b: [tag]}
  network: {inbound: [{from: 10.0.0.0/8, port: tcp/22}, {port: tcp/80, from: 10.0.0.0/8}]}""",
    "top",
)


def held(*texts: str) -> Resolved:
    found = resolve(tree(*texts), machine(), NOW)
    assert isinstance(found, Resolved)
    return found


def explained(found: Resolved, setting: str) -> list[tuple[object, list[str], list[str]]]:
    return [
        (item.value, [str(source.at) for source in item.decided], [str(source.at) for source in item.overridden])
        for item in found.values[setting].items()
    ]


def test_lists() -> None:
    found = held(TOP, BELOW)
    assert explained(found, "exclusions.paths") == [
        ("/a/*", ["p.yaml:8:9"], []),
        ("/b/*", ["p.yaml:9:9", "p.yaml:23:13"], []),
        ("/c/*", ["p.yaml:23:19"], []),
    ]
    inbound = explained(found, "network.inbound")
    assert inbound[0] == ({"port": "tcp/22", "from": "10.0.0.0/8"}, ["p.yaml:15:23", "p.yaml:26:23"], [])
    assert len(inbound) == 2
    assert found.values["scan.depth"].items() == []


def test_mappings() -> None:
    found = held(TOP, BELOW)
    assert explained(found, "actions.by_rule") == [
        ("x/a", ["p.yaml:25:15"], ["p.yaml:13:7"]),
        ("x/b", ["p.yaml:14:7", "p.yaml:25:31"], []),
    ]
    assert [source.name for source in found.values["actions.by_rule"].decided] == ["top", "below"]


def test_who_is_overridden_as_a_whole_did_not_decide() -> None:
    def by_rule(name: str, action: str, parent: str = "") -> str:
        return policy(name, f"settings: {{actions: {{by_rule: {{x/a: [{action}]}}}}}}", parent)

    one = held(by_rule("a", "alert"), by_rule("b", "tag", "a"), by_rule("c", "alert", "b")).values["actions.by_rule"]
    assert [source.name for source in one.decided] == ["c"]
    assert [source.name for source in one.overridden] == ["a", "b"]
    (item,) = one.items()
    assert [source.name for source in item.overridden] == ["a", "b"]


def test_no_default_is_merged() -> None:
    """Items of built-in defaults would stand in no line."""
    assert not any(CATALOGUE[name].merged for name in DEFAULTS)


def test_reasons_name_the_item() -> None:
    found = held(TOP, BELOW)
    gaps = [Gap(Machine(), GapReason.SWAP, "")]
    assert [one.reason for one in decide_gaps(gaps, found)] == ["policy top (p.yaml:16:21)"]
    findings = [
        Finding(Rule("x/a", "", Severity.LOW, ""), InFile(0, b"/x")),
        Finding(Rule("y", "", Severity.LOW, ""), InFile(0, b"/c/x")),
        Finding(Rule("y", "", Severity.LOW, ""), InFile(0, b"/d/x"), evidence={"sha256": "ab" * 32}),
    ]
    assert [one.reason for one in decide(findings, found, Action)] == [
        "rule x/a, policy below (p.yaml:25:15)",
        "left out by exclusions.paths /c/*, policy below (p.yaml:23:19)",
        f"left out by exclusions.sha256 {'ab' * 32}, policy top (p.yaml:10:14)",
    ]
