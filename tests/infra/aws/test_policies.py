"""The policies are exact: writes are bound to our tag, nothing is wider than it must be, docs show them as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cloud.aws.keys import COPYING
from cloud.aws.permissions import STATEMENTS
from demo.aws.policy import Policy
from infra.aws import policies
from infra.aws.__main__ import shown
from infra.aws.policies import Setup

ROOT = Path(__file__).resolve().parent.parent.parent.parent
QUEUE = "arn:aws:sqs:eu-central-1:111122223333:kumomori"
PLAIN = Setup("acme")
LENDING = Setup("acme", scanner_account="222222222222", copy_key="arn:aws:kms:eu-central-1:111122223333:key/1")
POLICIES = shown()
READS = ("Describe", "List", "Get", "Receive")


def statements() -> list[Any]:
    return [
        pytest.param(name, one, id=f"{name}-{one['Sid']}")
        for name, policy in POLICIES.items()
        for one in policy["Statement"]
    ]


@pytest.mark.parametrize(("name", "statement"), statements())
def test_statement(name: str, statement: dict[str, Any]) -> None:
    assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
    assert statement["Effect"] == "Allow"
    assert statement["Sid"].isalnum()
    for action in statement["Action"]:
        service, _, call = action.partition(":")
        assert "*" not in action
        reads = call.startswith(READS)
        if not reads:
            assert statement["Resource"] != "*" or service == "kms", f"{action} on everything"


def conditions(statement: dict[str, Any]) -> str:
    return json.dumps(statement.get("Condition", {}))


# Writes whose target cannot carry our tag, and what bounds them instead.
OTHERWISE_BOUND = {
    "KumomoriSnapshotSource": "kumomori:exclude",
    "KumomoriQuarantineNetwork": "",  # the VPC that a group is made in; the group itself has to carry our tag
    "KumomoriIsolateGroups": "",  # the groups and the instance; the interface itself has to carry our tag
    "KumomoriTagInstance": "kumomori:*",
    "KumomoriStop": "kumomori:exclude",
    "KumomoriAssume": "",  # by the role's name
    "KumomoriReceive": "",  # our queue
    "KumomoriListAccounts": "",
}


@pytest.mark.parametrize(("name", "statement"), statements())
def test_writes_are_bound_to_our_tag(name: str, statement: dict[str, Any]) -> None:
    writes = [action for action in statement["Action"] if not action.partition(":")[2].startswith(READS)]
    if any(action.startswith("ec2:") for action in writes) and statement["Sid"] not in OTHERWISE_BOUND:
        assert "kumomori:installation" in conditions(statement)
        assert "acme" in conditions(statement)
    else:
        assert OTHERWISE_BOUND.get(statement["Sid"], "") in conditions(statement)
    if any(action.startswith("kms:") and action != "kms:DescribeKey" for action in statement["Action"]):
        assert "kms:ViaService" in conditions(statement)
    if "kms:CreateGrant" in writes:
        assert "kms:GrantIsForAWSResource" in conditions(statement)


def test_reading_is_bound_unless_asked_otherwise() -> None:
    def reading(setup: Setup) -> dict[str, Any]:
        return next(one for one in policies.scanner(setup)["Statement"] if one["Sid"] == "KumomoriReadBlocks")

    assert "acme" in conditions(reading(PLAIN))
    assert "Condition" not in reading(Setup("acme", any_snapshot=True))


def test_lending_is_allowed_only_if_asked_for() -> None:
    plain = policies.actions(policies.scanner(PLAIN))
    assert not {"ec2:CopySnapshot", "ec2:ModifySnapshotAttribute", "kms:CreateGrant"} & plain
    assert set(COPYING) <= policies.actions(policies.scanner(LENDING))


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        pytest.param({"ec2:add/userid": ["222222222222"]}, True, id="the-scanner-account"),
        pytest.param({"ec2:remove/userid": ["222222222222"]}, True, id="taken-back"),
        pytest.param({"ec2:add/userid": ["333333333333"]}, False, id="another-account"),
        pytest.param({"ec2:add/group": ["all"]}, False, id="everybody"),
        pytest.param({"ec2:add/userid": ["222222222222"], "ec2:add/group": ["all"]}, False, id="both"),
    ],
)
def test_snapshots_are_lent_to_one_account_and_never_made_public(asked: dict[str, list[str]], *, allowed: bool) -> None:
    """Keys of the conditions as the Service Authorization Reference has them for ModifySnapshotAttribute."""
    ours = {"aws:resourcetag/kumomori:installation": ["acme"], **asked}
    policy = Policy(policies.scanner(LENDING))
    arn = "arn:aws:ec2:eu-central-1::snapshot/snap-1"
    assert policy.allows("ec2:ModifySnapshotAttribute", arn, ours) is allowed


def test_advice_names_statements_that_exist() -> None:
    for action, (name, sid) in STATEMENTS.items():
        (statement,) = [one for one in POLICIES[name]["Statement"] if one["Sid"] == sid]
        assert action in statement["Action"], action


def test_every_allowed_action_has_advice() -> None:
    for name in ("scanner", "responder", "organization", "events"):
        assert policies.actions(POLICIES[name]) <= set(STATEMENTS)


def test_no_role_has_what_another_is_for() -> None:
    assert not policies.actions(POLICIES["scanner"]) & {"ec2:StopInstances", "ec2:ModifyNetworkInterfaceAttribute"}
    assert not policies.actions(POLICIES["responder"]) & {"ec2:CreateSnapshots", "ebs:GetSnapshotBlock", "kms:Decrypt"}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_fits_into_a_managed_policy(policy: dict[str, Any]) -> None:
    assert len(json.dumps(policy, separators=(",", ":"))) <= 6144


def test_other_partitions() -> None:
    text = json.dumps(policies.scanner(Setup("acme", "aws-cn")))
    assert "arn:aws:" not in text
    assert "arn:aws-cn:ec2:*:*:snapshot/*" in text


def test_queue_and_trust() -> None:
    rule = "arn:aws:events:eu-central-1:111122223333:rule/r"
    access, only_tls = policies.queue_access(QUEUE, rule)["Statement"]
    assert (access["Principal"], access["Action"]) == ({"Service": "events.amazonaws.com"}, ["sqs:SendMessage"])
    assert access["Condition"] == {"ArnEquals": {"aws:SourceArn": rule}}
    assert (only_tls["Effect"], only_tls["Principal"], only_tls["Action"]) == ("Deny", "*", ["sqs:*"])
    assert only_tls["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert access["Resource"] == only_tls["Resource"] == QUEUE
    (trust,) = policies.trust("arn:aws:iam::111122223333:role/Fleet", "word")["Statement"]
    assert trust["Condition"] == {"StringEquals": {"sts:ExternalId": "word"}}


@pytest.mark.parametrize("name", POLICIES)
def test_docs_show_the_policies_as_they_are(name: str) -> None:
    text = (ROOT / "docs" / "aws.md").read_text()
    assert json.dumps(POLICIES[name], indent=2) in text, "run: python -m infra.aws"
