"""Exactly what Kumomori needs at AWS: IAM policies as plain data, `json.dumps` makes them documents.

Every write is bound to the installation's tag where AWS offers a condition for it; keys are used through EBS only. A test
holds every call that the connector makes against these policies. Source: Service Authorization Reference for EC2, EBS, KMS,
SQS, Organizations and STS; AWS Storage blog on resource-level permissions for CopySnapshot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Statement = dict[str, Any]
Policy = dict[str, Any]

INSTALLATION: Final = "kumomori:installation"
EXCLUDE: Final = "kumomori:exclude"
TAGS: Final = "kumomori:*"
_VERSION: Final = "2012-10-17"


@dataclass(frozen=True, slots=True)
class Setup:
    """What the policies depend on.

    `any_snapshot`: blocks of snapshots that we did not make may be read too (`kumomori scan snapshot`, image snapshots).
    `scanner_account`: the account that snapshots are lent to, if blocks are read there. `copy_key`: ARN of the customer's key
    that copies are encrypted with, if AWS's own key has to be worked around. `keys`: ARNs of keys that disks may be
    encrypted with; "*" is any key whose own policy lets this role in. `exclude`: keys of tags that leave a machine out;
    one that carries any of them cannot be snapshotted, stopped or tagged even by mistake.
    """

    installation: str
    partition: str = "aws"
    any_snapshot: bool = False
    scanner_account: str = ""
    copy_key: str = ""
    keys: Sequence[str] = ("*",)
    exclude: Sequence[str] = (EXCLUDE,)

    def ours(self) -> Mapping[str, str]:
        return {f"aws:ResourceTag/{INSTALLATION}": self.installation}

    def made_ours(self) -> Mapping[str, str]:
        return {f"aws:RequestTag/{INSTALLATION}": self.installation}

    def not_excluded(self) -> Mapping[str, Any]:
        return {"Null": {f"aws:ResourceTag/{key}": "true" for key in self.exclude}}

    def ec2(self, kind: str) -> str:
        return f"arn:{self.partition}:ec2:*:*:{kind}/*"

    def via_ebs(self) -> Mapping[str, Any]:
        return {"StringLike": {"kms:ViaService": "ec2.*.amazonaws.com*"}}


def scanner(setup: Setup) -> Policy:
    """The role in every scanned account: see instances, make, read and delete its own snapshots."""
    snapshots = setup.ec2("snapshot")
    statements = [
        _allow(
            "KumomoriInventory",
            (
                "ec2:DescribeImages",
                "ec2:DescribeInstanceTypes",
                "ec2:DescribeInstances",
                "ec2:DescribeRegions",
                "ec2:DescribeSnapshots",
                "ec2:DescribeVolumes",
                "sts:GetCallerIdentity",
            ),
            "*",  # AWS offers no narrower resource for these
        ),
        _allow(
            "KumomoriSnapshotSource",
            ("ec2:CreateSnapshots",),
            [setup.ec2("instance"), setup.ec2("volume")],
            setup.not_excluded(),
        ),
        _allow(
            "KumomoriSnapshotMade",
            ("ec2:CreateSnapshots",),
            snapshots,
            {"StringEquals": setup.made_ours(), "ForAllValues:StringLike": {"aws:TagKeys": [TAGS]}},
        ),
        _allow(
            "KumomoriTagOnCreate",
            ("ec2:CreateTags",),
            snapshots,
            {"StringEquals": {**setup.made_ours(), "ec2:CreateAction": ["CreateSnapshots", "CopySnapshot"]}},
        ),
        _allow("KumomoriDelete", ("ec2:DeleteSnapshot",), snapshots, {"StringEquals": setup.ours()}),
        _allow(
            "KumomoriReadBlocks",
            ("ebs:GetSnapshotBlock", "ebs:ListChangedBlocks", "ebs:ListSnapshotBlocks"),
            snapshots,
            None if setup.any_snapshot else {"StringEquals": setup.ours()},
        ),
        _allow("KumomoriDescribeKeys", ("kms:DescribeKey",), list(setup.keys)),
        _allow("KumomoriDecrypt", ("kms:Decrypt",), list(setup.keys), setup.via_ebs()),
    ]
    return _policy(statements + _lending(setup))


def _lending(setup: Setup) -> list[Statement]:
    """Sharing with a scanner account, and copies where a key forbids that."""
    snapshots = setup.ec2("snapshot")
    statements = []
    if setup.scanner_account:
        statements.append(
            _allow(
                "KumomoriShare",
                ("ec2:ModifySnapshotAttribute",),
                snapshots,
                {
                    "StringEquals": setup.ours(),
                    "StringEqualsIfExists": {"ec2:Add/userId": setup.scanner_account},  # absent when it is taken back
                    "Null": {"ec2:Add/group": "true"},  # the only group is `all`: everybody
                },
            )
        )
    if setup.copy_key:
        keys = sorted({*setup.keys, setup.copy_key}) if "*" not in setup.keys else ["*"]
        statements += [
            _allow(
                "KumomoriCopySource",
                ("ec2:CopySnapshot",),
                snapshots,
                None if setup.any_snapshot else {"StringEquals": setup.ours()},
            ),
            _allow("KumomoriCopyMade", ("ec2:CopySnapshot",), snapshots, {"StringEquals": setup.made_ours()}),
            _allow(
                "KumomoriCopyKeys",
                ("kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo"),
                keys,
                setup.via_ebs(),
            ),
            _allow(
                "KumomoriCopyGrant",
                ("kms:CreateGrant",),
                keys,
                {**setup.via_ebs(), "Bool": {"kms:GrantIsForAWSResource": "true"}},
            ),
        ]
    return statements


def reader(setup: Setup) -> Policy:
    """The role in the scanner account that reads blocks lent to it. Their tags are not visible there, so it cannot be narrower."""
    snapshots = setup.ec2("snapshot")
    return _policy(
        [
            _allow(
                "KumomoriReadLent",
                ("ebs:GetSnapshotBlock", "ebs:ListChangedBlocks", "ebs:ListSnapshotBlocks"),
                snapshots,
            ),
            _allow("KumomoriDecryptLent", ("kms:Decrypt",), list(setup.keys), setup.via_ebs()),
        ]
    )


def responder(setup: Setup) -> Policy:
    """The role that answers to findings: isolate, release, tag, stop. Never given to the scanner."""
    group, card = setup.ec2("security-group"), setup.ec2("network-interface")
    instance = setup.ec2("instance")
    not_excluded = setup.not_excluded()
    return _policy(
        [
            _allow("KumomoriLook", ("ec2:DescribeNetworkInterfaces", "ec2:DescribeSecurityGroups"), "*"),
            _allow("KumomoriQuarantineNetwork", ("ec2:CreateSecurityGroup",), setup.ec2("vpc")),
            _allow("KumomoriQuarantineGroup", ("ec2:CreateSecurityGroup",), group, {"StringEquals": setup.made_ours()}),
            _allow(
                "KumomoriTagQuarantine",
                ("ec2:CreateTags",),
                group,
                {"StringEquals": {**setup.made_ours(), "ec2:CreateAction": "CreateSecurityGroup"}},
            ),
            _allow(
                "KumomoriQuarantineRules",
                ("ec2:RevokeSecurityGroupEgress", "ec2:RevokeSecurityGroupIngress"),
                group,
                {"StringEquals": setup.ours()},
            ),
            _allow(
                "KumomoriRemember",
                ("ec2:CreateTags",),
                card,
                {"StringEquals": setup.made_ours(), "ForAllValues:StringLike": {"aws:TagKeys": [TAGS]}},
            ),
            _allow(
                "KumomoriForget",
                ("ec2:DeleteTags",),
                card,
                {"StringEquals": setup.ours(), "ForAllValues:StringLike": {"aws:TagKeys": [TAGS]}},
            ),
            _allow(
                "KumomoriIsolateInterface",
                ("ec2:ModifyNetworkInterfaceAttribute",),
                card,
                {"StringEquals": setup.ours()},
            ),
            # the groups it is put into, and, when it is released, those it had: any of them
            _allow("KumomoriIsolateGroups", ("ec2:ModifyNetworkInterfaceAttribute",), [group, instance]),
            _allow(
                "KumomoriTagInstance",
                ("ec2:CreateTags",),
                instance,
                {**not_excluded, "ForAllValues:StringLike": {"aws:TagKeys": [TAGS]}},
            ),
            _allow("KumomoriStop", ("ec2:StopInstances",), instance, not_excluded),
        ]
    )


def organization(setup: Setup, roles: Sequence[str]) -> Policy:
    """Lists the accounts of the organisation, and takes `roles` (their names, the same in every account)."""
    return _policy(
        [
            _allow("KumomoriListAccounts", ("organizations:ListAccounts",), "*"),
            _allow(
                "KumomoriAssume", ("sts:AssumeRole",), [f"arn:{setup.partition}:iam::*:role/{role}" for role in roles]
            ),
        ]
    )


def events(queue: str) -> Policy:
    """Reads the event queue with the ARN `queue`."""
    return _policy([_allow("KumomoriReceive", ("sqs:DeleteMessage", "sqs:ReceiveMessage"), queue)])


def queue_access(queue: str, rule: str) -> Policy:
    """The queue's own policy: only the EventBridge rule with the ARN `rule` may put messages into `queue`; nobody goes without TLS.

    The rule's whole ARN names its account, so aws:SourceAccount would say nothing more.
    """
    events = _allow("KumomoriEvents", ("sqs:SendMessage",), queue, {"ArnEquals": {"aws:SourceArn": rule}})
    only_tls = {
        "Sid": "KumomoriOnlyTls",
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["sqs:*"],
        "Resource": queue,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return _policy([{**events, "Principal": {"Service": "events.amazonaws.com"}}, only_tls])


def trust(principal: str, external_id: str) -> Policy:
    """Who may take a role: the one with the ARN `principal`, and only with `external_id`."""
    return _policy(
        [
            {
                "Sid": "KumomoriTrust",
                "Effect": "Allow",
                "Principal": {"AWS": principal},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
            }
        ]
    )


def event_pattern() -> dict[str, Any]:
    """The EventBridge rule: launches and state changes of instances."""
    return {"source": ["aws.ec2"], "detail-type": ["EC2 Instance State-change Notification"]}


def actions(policy: Policy) -> frozenset[str]:
    """Every action that `policy` allows."""
    return frozenset(action for statement in policy["Statement"] for action in statement["Action"])


def _policy(statements: Sequence[Statement]) -> Policy:
    return {"Version": _VERSION, "Statement": list(statements)}


def _allow(
    sid: str, allowed: Sequence[str], resource: str | Sequence[str], condition: Mapping[str, Any] | None = None
) -> Statement:
    statement: Statement = {"Sid": sid, "Effect": "Allow", "Action": list(allowed), "Resource": resource}
    return {**statement, "Condition": dict(condition)} if condition else statement
