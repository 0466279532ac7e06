"""What IAM policies allow, by themselves and as the bounds of a role."""

from __future__ import annotations

from typing import Any

import pytest

from demo.aws import EmulatedAws
from demo.aws.policy import Policy
from tests.demo.aws.tools import as_role, get, listed, refused, run, snap

SNAPSHOT = "arn:aws:ec2:eu-central-1::snapshot/snap-1"


Condition = dict[str, dict[str, Any]]


def statement(action: Any, resource: Any = "*", condition: Condition | None = None) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, "Condition": condition or {}}


def on(operator: str, key: str, *values: Any) -> Condition:
    return {operator: {key: list(values)}}


@pytest.mark.parametrize(
    ("statements", "allowed"),
    [
        pytest.param([], False, id="nothing"),
        pytest.param([statement("ebs:GetSnapshotBlock")], True, id="exact"),
        pytest.param([statement(["ec2:*", "EBS:get*"])], True, id="wildcard-and-case"),
        pytest.param([statement("ebs:List*")], False, id="other-action"),
        pytest.param([statement("*", "arn:aws:ec2:*::snapshot/*")], True, id="resource-wildcard"),
        pytest.param([statement("*", "arn:aws:ec2:*::volume/*")], False, id="other-resource"),
        pytest.param([statement("*"), {**statement("ebs:*"), "Effect": "Deny"}], False, id="denial-wins"),
        pytest.param([statement("*", "*", on("StringEquals", "aws:ResourceTag/owner", "us"))], True, id="tag"),
        pytest.param([statement("*", "*", on("StringEquals", "aws:ResourceTag/owner", "them"))], False, id="other-tag"),
        pytest.param([statement("*", "*", on("StringEquals", "aws:ResourceTag/none", "us"))], False, id="no-tag"),
        pytest.param(
            [statement("*", "*", on("StringEqualsIfExists", "aws:ResourceTag/none", "us"))], True, id="if-exists"
        ),
        pytest.param([statement("*", "*", on("StringLike", "aws:ResourceTag/owner", "u?"))], True, id="like"),
        pytest.param(
            [statement("*", "*", on("StringNotEquals", "aws:ResourceTag/owner", "us"))], False, id="not-equals"
        ),
        pytest.param([statement("*", "*", on("Null", "aws:ResourceTag/none", "true"))], True, id="null"),
        pytest.param([statement("*", "*", on("Bool", "kms:GrantIsForAWSResource", True))], False, id="bool-absent"),
        pytest.param([statement("*", "*", on("ForAllValues:StringEquals", "aws:TagKeys", "a"))], False, id="for-all"),
    ],
)
def test_policies(statements: list[Any], allowed: bool) -> None:
    context = {"aws:resourcetag/owner": ["us"], "aws:tagkeys": ["a", "b"]}
    assert Policy({"Statement": statements}).allows("ebs:GetSnapshotBlock", SNAPSHOT, context) == allowed


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"Effect": "Allow", "Action": "*"}, id="no-resource"),
        pytest.param({"Effect": "Maybe", "Action": "*", "Resource": "*"}, id="effect"),
        pytest.param({"Effect": "Allow", "Action": "*", "NotResource": "*"}, id="element"),
        pytest.param(statement("*", "*", on("DateLessThan", "aws:CurrentTime", "2027")), id="condition"),
    ],
)
def test_policies_that_are_not_understood_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a statement|a condition"):
        Policy({"Statement": [bad]})


@pytest.mark.slow
def test_a_role_is_held_to_its_policy(aws: EmulatedAws) -> None:
    """Snapshots only with our tag, deletes only what has it, reads only what has it."""
    instance, (volume,) = run(aws, 1)
    aws.volume(volume).write(0, b"x")
    foreign = snap(aws, volume)
    any_snapshot = "arn:aws:ec2:*::snapshot/*"
    ours = on("StringEquals", "aws:ResourceTag/app", "kumomori")
    tagging = on("StringEquals", "aws:RequestTag/app", "kumomori")
    creating = on("StringEquals", "ec2:CreateAction", "CreateSnapshots")
    statements = [
        statement("ec2:Describe*"),
        statement("ec2:CreateSnapshots", ["arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*:*:volume/*"]),
        statement("ec2:CreateSnapshots", any_snapshot, tagging),
        statement("ec2:CreateTags", any_snapshot, creating),
        statement(["ec2:DeleteSnapshot", "ebs:*"], any_snapshot, ours),
    ]
    aws.restrict("Scanner", {"Statement": statements})
    ec2, ebs = as_role(aws, "ec2"), as_role(aws, "ebs")
    spec = {"InstanceSpecification": {"InstanceId": instance}}

    def tags(value: str) -> Any:
        return [{"ResourceType": "snapshot", "Tags": [{"Key": "app", "Value": value}]}]

    with refused("UnauthorizedOperation") as denied:
        ec2.create_snapshots(**spec)
    assert "ec2:CreateSnapshots on resource: arn:aws:ec2:eu-central-1::snapshot/new" in denied.message
    with refused("UnauthorizedOperation"):
        ec2.create_snapshots(**spec, TagSpecifications=tags("other"))
    with refused("UnauthorizedOperation"):
        ec2.create_snapshot(VolumeId=volume, TagSpecifications=tags("kumomori"))
    made = ec2.create_snapshots(**spec, TagSpecifications=tags("kumomori"))["Snapshots"][0]["SnapshotId"]
    with refused("UnauthorizedOperation"):
        ec2.create_tags(Resources=[made], Tags=[{"Key": "app", "Value": "kumomori"}])
    assert ec2.describe_snapshots(SnapshotIds=[made])["Snapshots"]
    ((index, token),) = listed(ebs, made)
    assert get(ebs, made, index, token)
    with refused("AccessDeniedException", status=403):
        listed(ebs, foreign)
    with refused("UnauthorizedOperation"):
        ec2.delete_snapshot(SnapshotId=foreign)
    ec2.delete_snapshot(SnapshotId=made)
    as_role(aws, "sts").get_caller_identity()
    aws.client("ec2").delete_snapshot(SnapshotId=foreign)  # the administrator is not bound


def test_keys_are_part_of_a_policy(aws: EmulatedAws) -> None:
    key = aws.client("kms").create_key()["KeyMetadata"]["Arn"]
    _, (volume,) = run(aws, 1, encrypted_by=key)
    aws.volume(volume).write(0, b"x")
    snapshot = snap(aws, volume)
    aws.restrict("Scanner", {"Statement": [statement("ebs:*")]})
    ebs = as_role(aws, "ebs")
    with refused("AccessDeniedException", "DEPENDENCY_ACCESS_DENIED"):
        listed(ebs, snapshot)
    via = on("StringEquals", "kms:ViaService", "ec2.eu-central-1.amazonaws.com")
    aws.restrict("Scanner", {"Statement": [statement("kms:Decrypt", key, via)]})
    assert listed(ebs, snapshot)
