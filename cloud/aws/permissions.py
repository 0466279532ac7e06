"""Which statement of the policies (`docs/aws.md`) allows an action: what an operator has to add when it is denied."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# Named here and not read from `infra`, which is a program of its own; a test holds both together.
_BY_STATEMENT: Final = {
    ("scanner", "KumomoriInventory"): (
        "ec2:DescribeImages",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeInstances",
        "ec2:DescribeRegions",
        "ec2:DescribeSnapshots",
        "ec2:DescribeVolumes",
        "sts:GetCallerIdentity",
    ),
    ("scanner", "KumomoriSnapshotSource"): ("ec2:CreateSnapshots",),
    ("scanner", "KumomoriTagOnCreate"): ("ec2:CreateTags",),
    ("scanner", "KumomoriDelete"): ("ec2:DeleteSnapshot",),
    ("scanner", "KumomoriReadBlocks"): ("ebs:GetSnapshotBlock", "ebs:ListChangedBlocks", "ebs:ListSnapshotBlocks"),
    ("scanner", "KumomoriDecrypt"): ("kms:Decrypt",),
    ("scanner", "KumomoriDescribeKeys"): ("kms:DescribeKey",),
    ("scanner", "KumomoriShare"): ("ec2:ModifySnapshotAttribute",),
    ("scanner", "KumomoriCopySource"): ("ec2:CopySnapshot",),
    ("scanner", "KumomoriCopyKeys"): (
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncryptFrom",
        "kms:ReEncryptTo",
    ),
    ("scanner", "KumomoriCopyGrant"): ("kms:CreateGrant",),
    ("organization", "KumomoriListAccounts"): ("organizations:ListAccounts",),
    ("organization", "KumomoriAssume"): ("sts:AssumeRole",),
    ("events", "KumomoriReceive"): ("sqs:DeleteMessage", "sqs:ReceiveMessage"),
    ("responder", "KumomoriLook"): ("ec2:DescribeNetworkInterfaces", "ec2:DescribeSecurityGroups"),
    ("responder", "KumomoriQuarantineGroup"): ("ec2:CreateSecurityGroup",),
    ("responder", "KumomoriQuarantineRules"): ("ec2:RevokeSecurityGroupEgress", "ec2:RevokeSecurityGroupIngress"),
    ("responder", "KumomoriIsolateInterface"): ("ec2:ModifyNetworkInterfaceAttribute",),
    ("responder", "KumomoriForget"): ("ec2:DeleteTags",),
    ("responder", "KumomoriStop"): ("ec2:StopInstances",),
}

STATEMENTS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {action: where for where, actions in _BY_STATEMENT.items() for action in actions}
)
"""Action → (policy, Sid)."""


def advice(action: str) -> str:
    """What to do when `action` is denied, in one clause."""
    policy, sid = STATEMENTS.get(action, ("", ""))
    if not sid:
        return f"allow {action} for this role"
    if action.startswith("kms:"):
        return (
            f"add the statement {sid} of the {policy} policy (docs/aws.md), and let the key's own policy allow it too"
        )
    return f"add the statement {sid} of the {policy} policy (docs/aws.md)"
