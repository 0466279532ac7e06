"""`check` names each missing permission and the statement to add, and never says "fine" of what it could not try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import boto3
import pytest

from cloud.aws.accounts import Role, Sessions
from cloud.aws.check import Checked, check
from cloud.aws.connector import AwsConnector, connect
from cloud.aws.sharing import ScannerAccount
from demo.aws.emulator import EmulatedAws
from infra.aws import policies
from infra.aws.policies import Setup
from tests.cloud.aws.conftest import INSTALLATION, launch

ALL = {
    "ec2:DescribeRegions",
    "ec2:DescribeInstances",
    "ec2:DescribeVolumes",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeSnapshots",
    "ec2:DescribeImages",
    "ec2:CreateSnapshots",
    "ec2:DeleteSnapshot",
    "ec2:ModifySnapshotAttribute",
    "ebs:ListSnapshotBlocks",
    "ebs:ListChangedBlocks",
    "ebs:GetSnapshotBlock",
    "kms:DescribeKey",
    "kms:Decrypt",
}


@pytest.fixture
def full(connector: AwsConnector, ec2: Any, emulator: EmulatedAws, backdoor: Callable[[str], Any]) -> AwsConnector:
    """A connector in an account with a machine on an encrypted disk, and a snapshot of it."""
    key = backdoor("kms").create_key()["KeyMetadata"]["Arn"]
    ebs = {"VolumeSize": 1, "Encrypted": True, "KmsKeyId": key}
    ec2.run_instances(
        ImageId="ami-12c6146b",
        InstanceType="t3.micro",
        MinCount=1,
        MaxCount=1,
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": ebs}],
    )
    (instance,) = connector.instances()
    emulator.volume(instance.disks[0].id, connector.account).write(0, b"x")
    connector.snapshot(instance.disks, token="t")
    list(connector.owned())
    return replace(connector, scanner=ScannerAccount("222222222222", connector.session))


def results(connector: AwsConnector) -> dict[str, Checked]:
    return {one.permission: one for one in check(connector)}


def test_all_is_fine(full: AwsConnector, emulator: EmulatedAws) -> None:
    found = results(full)
    assert {name for name, one in found.items() if one.ok} == set(found) == ALL
    assert len(list(full.owned())) == 1, "a check changes nothing"
    assert not [
        call for call in emulator.log.calls("ec2:ModifySnapshotAttribute") if call.status == 200 and not call.dry_run
    ]


@pytest.mark.parametrize("action", sorted(ALL))
def test_each_missing_permission_is_named(full: AwsConnector, emulator: EmulatedAws, action: str) -> None:
    emulator.deny(action)
    denied = [one for one in check(full) if one.ok is False]
    assert denied
    assert {one.permission for one in denied} == {action}
    for one in denied:
        assert "add the statement Kumomori" in one.advice
        assert action in one.detail


def test_a_key_that_refuses_does_not_hide_what_can_be_read(full: AwsConnector, ec2: Any, emulator: EmulatedAws) -> None:
    machine = launch(ec2)
    (plain,) = [one for one in full.instances() if one.id == machine]
    emulator.volume(plain.disks[0].id, full.account).write(0, b"x")
    full.snapshot(plain.disks, token="u")
    list(full.owned())
    emulator.deny("kms:Decrypt")
    found = results(full)
    assert {name for name, one in found.items() if one.ok is not True} == {"kms:Decrypt"}
    assert found["kms:Decrypt"].ok is False


def test_tags_on_creation(full: AwsConnector, emulator: EmulatedAws) -> None:
    emulator.deny("ec2:CreateTags")
    (denied,) = [one for one in check(full) if one.ok is False]
    assert (denied.permission, "KumomoriTagOnCreate" in denied.advice) == ("ec2:CreateTags", True)


def test_untried_is_not_fine(connector: AwsConnector) -> None:
    found = results(connector)
    untried = {name for name, one in found.items() if one.ok is None}
    assert untried == {
        "ec2:CreateSnapshots",
        "ec2:DeleteSnapshot",
        "ebs:ListSnapshotBlocks",
        "ebs:ListChangedBlocks",
        "ebs:GetSnapshotBlock",
    }
    assert all(found[name].detail for name in untried)


def test_machine_without_a_snapshot_yet(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2)
    found = results(connector)
    assert found["ec2:CreateSnapshots"].ok
    assert found["ec2:DeleteSnapshot"].ok is None


def test_disabled_key(full: AwsConnector, backdoor: Callable[[str], Any]) -> None:
    (key,) = {disk.key for instance in full.instances() for disk in instance.disks}
    backdoor("kms").disable_key(KeyId=key.rpartition("/")[2])
    found = results(full)
    assert found["kms:DescribeKey"].ok is False
    assert "is disabled" in found["kms:DescribeKey"].detail


def test_wrong_credentials(full: AwsConnector, emulator: EmulatedAws) -> None:
    of = Sessions(
        boto3.Session("AKIAIOSFODNN7EXAMPLE", "x" * 40, region_name=full.region), endpoint_url=emulator.endpoint
    )
    wrong = connect(of, of.base, full.account, full.region, "test-1")
    found = list(check(wrong))
    assert all(one.ok is not True for one in found)
    assert any("does not know these credentials" in one.detail for one in found)


def test_by_the_scanner_policy(full: AwsConnector, sessions: Callable[[str], Sessions], emulator: EmulatedAws) -> None:
    """Whoever has exactly the policy of the docs is told that all is fine; with a statement less, which one."""
    of = sessions("scanner")
    policy = policies.scanner(Setup(INSTALLATION, scanner_account="222222222222"))

    def by(document: dict[str, Any]) -> list[Checked]:
        emulator.calm()
        emulator.restrict("KumomoriScanner", document)
        session = of.assume(full.account, Role("KumomoriScanner"), full.region)
        made = connect(of, session, full.account, full.region, INSTALLATION, scanner=full.scanner)
        return list(check(made))

    assert [one for one in by(policy) if one.ok is not True] == []
    for sid in ("KumomoriDelete", "KumomoriShare", "KumomoriDecrypt", "KumomoriSnapshotSource", "KumomoriReadBlocks"):
        less = {**policy, "Statement": [one for one in policy["Statement"] if one["Sid"] != sid]}
        denied = [one for one in by(less) if one.ok is False]
        assert denied
        assert all(sid in one.advice for one in denied), denied
