"""One set of policies governs machines in AWS and machines of a site that are listed in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from console.actions import actions
from console.policies import Resolution
from console.report import Found
from core.estate import Instance, Place
from core.findings import Finding, Gap, GapReason, InFile, Machine, Rule, Severity
from policy.decide import decide, decide_gaps, possible
from policy.estate import instance
from policy.resolve import Resolved, resolve
from policy.settings import Action, Mode
from policy.tree import load_texts
from tests.policy.documents import NOW

DOCS = Path(__file__).parents[2] / "docs" / "policies"
TREE = load_texts({str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.rglob("*.yaml"))})
# What the policy `aws` says of its own: what AWS bills, and how much of its API may be used
BILLED = {
    "limits.scans_per_account",
    "limits.blocks_per_second",
    "limits.scan_usd",
    "limits.month_usd",
    "base_snapshots.keep",
    "base_snapshots.max_age_seconds",
}
FACTS: list[dict[str, Any]] = [
    {"os": "linux"},
    {"os": "windows", "name": "files", "tags": {"role": "files", "team": "office"}},
    {"os": "linux", "tags": {"mobile": "true"}, "addresses": ["203.0.113.9"]},
    {"os": "linux", "tags": {"mobile": "true"}, "addresses": ["10.0.1.10"]},
]


def both(facts: dict[str, Any]) -> tuple[Instance, Instance]:
    """One in AWS and one from a line of a file, of which the same is known."""
    aws = Instance(Place("aws", "999988887777", "eu-central-1"), "i-1", **facts)
    line = {"place": {"cloud": "file", "account": "hall-2", "region": "hall-2"}, "id": "rack-7", **facts}
    return aws, instance(json.loads(json.dumps(line)))


def resolved(one: Instance) -> Resolved:
    found = resolve(TREE, one, NOW)
    assert isinstance(found, Resolved)
    return found


def rule(severity: Severity, name: str = "linux/something") -> Rule:
    return Rule(name, "Something", severity, "Repair it.")


@pytest.mark.parametrize("facts", FACTS)
def test_the_same_settings_hold_but_for_what_the_cloud_bills(facts: dict[str, Any]) -> None:
    in_aws, on_site = (Resolution.at(1, TREE, NOW).rules(one) for one in both(facts))
    assert (in_aws.policy, on_site.policy) == ("aws", "company")
    assert in_aws.problem == on_site.problem == ""
    differing = {
        name
        for name in in_aws.settings.keys() | on_site.settings.keys()
        if in_aws.settings.get(name) != on_site.settings.get(name)
    }
    assert differing <= BILLED
    mobile = facts.get("tags") == {"mobile": "true"} and facts["addresses"] == ["203.0.113.9"]
    assert (in_aws.settings.get("network.firewall") == "enforce") == mobile
    assert on_site.settings.get("network.firewall") == in_aws.settings.get("network.firewall")


@pytest.mark.parametrize("facts", FACTS)
def test_the_same_is_decided_but_for_what_the_platform_can_do(facts: dict[str, Any]) -> None:
    findings = [Finding(rule(severity), InFile(0, b"/etc/shadow"), severity.value) for severity in Severity]
    left_out = Finding(
        rule(Severity.CRITICAL),
        InFile(0, b"/opt/monitoring/eicar.com"),
        evidence={"sha256": "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"},
    )
    findings.append(left_out)
    decided = {}
    for one in both(facts):
        found = resolved(one)
        able = possible(one.place.cloud, Mode(found.get("protection.mode")))
        decided[one.place.cloud] = (found, able, list(decide(findings, found, able)))
    (aws, aws_able, in_aws), (site, site_able, on_site) = decided["aws"], decided["file"]
    same_able = [list(decide(findings, found, aws_able)) for found in (aws, site)]
    assert same_able[0] == same_able[1]
    assert site_able == {Action.ALERT}
    for severity in Severity:
        wanted = [
            {done.wanted for done in some if done.finding.rule.severity is severity} for some in (in_aws, on_site)
        ]
        assert wanted[0] >= wanted[1]
    for decision in on_site:
        if decision.action is not None and decision.action is not decision.wanted:
            assert "wanted " in decision.reason
            assert "could only alert" in decision.reason
    assert [done.action for done in in_aws if done.finding is left_out] == [None]
    assert [done.action for done in on_site if done.finding is left_out] == [None]
    gaps = [Gap(Machine(), reason, "") for reason in GapReason]
    assert list(decide_gaps(gaps, aws)) == list(decide_gaps(gaps, site))


def test_what_the_console_writes_to_a_finding_is_that() -> None:
    """`console.actions` has the settings of an order, not the tree: the same comes out."""
    found = [Found("0" * 64, "linux/x", "X", Severity.CRITICAL, "Repair it.", "v", b"/x", "s", {})]
    said = {}
    for one in both(FACTS[0]):
        rules = Resolution.at(1, TREE, NOW).rules(one)
        settings = json.loads(json.dumps(rules.settings))
        mode = rules.settings["protection.mode"]
        ((*texts,),) = actions(found, settings, one.place.cloud, mode, rules.policy)
        said[one.place.cloud] = texts
    assert said["aws"] == ["alert", "isolate"]
    (text,) = said["file"]
    assert text.startswith("wanted isolate, could only alert")


def test_what_is_left_out_says_by_whom() -> None:
    found = [Found("0" * 64, "linux/x", "X", Severity.CRITICAL, "Repair it.", "v", b"/var/cache/x", "s", {})]
    settings = {"exclusions.paths": ["/var/cache/*"], "actions.by_rule": {"linux/*": ["alert", "stop"]}}
    ((text,),) = actions(found, settings, "aws", "agentless", "company")
    assert text == "left out by exclusions.paths /var/cache/*, policy company (as ordered)"
    del settings["exclusions.paths"]
    assert actions(found, settings, "aws", "agentless", "company") == [["alert", "stop"]]
