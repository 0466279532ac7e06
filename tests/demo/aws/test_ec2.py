"""The snapshot actions of EC2 by boto3 over a socket: states, late listing, paging, sharing, copies, keys, images."""

from __future__ import annotations

from typing import Any

import pytest

from demo.aws import ACCOUNT, EmulatedAws
from demo.aws.content import BLOCK
from tests.demo.aws.tools import OTHER, as_role, block, get, indexes, listed, refused, run, snap, written

Views = list[dict[str, Any]]


def mine(ec2: Any, **query: Any) -> Views:
    views: Views = ec2.describe_snapshots(OwnerIds=["self"], **query)["Snapshots"]
    return views


def tagged(**tags: str) -> list[dict[str, Any]]:
    return [{"ResourceType": "snapshot", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]


def test_all_volumes_of_an_instance_at_one_moment(aws: EmulatedAws, ec2: Any, ebs: Any) -> None:
    instance, volumes = run(aws, 1, 2)
    for volume in volumes:
        aws.volume(volume).write(0, block(1))
    made = ec2.create_snapshots(InstanceSpecification={"InstanceId": instance}, TagSpecifications=tagged(token="t-1"))
    views = made["Snapshots"]
    assert [(view["VolumeId"], view["VolumeSize"]) for view in views] == list(zip(volumes, (1, 2), strict=True))
    assert all(view["State"] == "pending" and view["OwnerId"] == ACCOUNT for view in views)
    found = mine(ec2, Filters=[{"Name": "tag:token", "Values": ["t-1"]}])
    assert {view["SnapshotId"] for view in found} == {view["SnapshotId"] for view in views}
    assert all(view["Tags"] == [{"Key": "token", "Value": "t-1"}] for view in found)
    assert all(indexes(ebs, view["SnapshotId"]) == [0] for view in views)
    boot, data = volumes
    without = ec2.create_snapshots(InstanceSpecification={"InstanceId": instance, "ExcludeBootVolume": True})
    assert [view["VolumeId"] for view in without["Snapshots"]] == [data]
    only = {"InstanceId": instance, "ExcludeDataVolumeIds": [data]}
    assert [view["VolumeId"] for view in ec2.create_snapshots(InstanceSpecification=only)["Snapshots"]] == [boot]


def test_none_of_the_snapshots_that_nobody_made(aws: EmulatedAws) -> None:
    assert mine(aws.client("ec2", "777788889999")) == []


def test_pending_then_completed(aws: EmulatedAws, ec2: Any) -> None:
    aws.rules.snapshot_seconds = 100
    aws.rules.snapshot_polls = 2
    snapshot = snap(aws, written(aws, [1]))
    seen = []
    for _ in range(4):
        (view,) = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
        seen.append((view["State"], view["Progress"]))
        aws.clock.advance(50)
    assert [state for state, _ in seen] == ["pending", "pending", "completed", "completed"]
    assert [percent for _, percent in seen] == ["0%", "50%", "100%", "100%"]


def test_snapshots_are_listed_late(aws: EmulatedAws, ec2: Any) -> None:
    aws.rules.late_polls = 2
    snapshot = snap(aws, written(aws, [1]))
    seen = [snapshot in {view["SnapshotId"] for view in mine(ec2)} for _ in range(4)]
    assert seen == [False, False, True, True]
    aws.rules.late_polls, aws.rules.late_seconds = 0, 30
    later = snap(aws, written(aws, [1]))
    with refused("InvalidSnapshot.NotFound"):
        ec2.describe_snapshots(SnapshotIds=[later])
    aws.clock.advance(31)
    assert ec2.describe_snapshots(SnapshotIds=[later])["Snapshots"]


def test_snapshots_that_fail_or_never_end(aws: EmulatedAws, ec2: Any, ebs: Any) -> None:
    volume = written(aws, [1])
    aws.rules.snapshot_failures.append("the disk is on fire")
    failed = snap(aws, volume)
    aws.rules.stuck_snapshots = 1
    stuck, good = snap(aws, volume), snap(aws, volume)
    aws.clock.advance(1e6)
    views = {view["SnapshotId"]: view for view in mine(ec2)}
    assert (views[failed]["State"], views[failed]["StateMessage"]) == ("error", "the disk is on fire")
    assert views[stuck]["State"] == "pending"
    assert views[good]["State"] == "completed"
    for snapshot in (failed, stuck):
        with refused("ValidationException", "INVALID_SNAPSHOT_ID"):
            listed(ebs, snapshot)


def test_snapshots_are_paged(aws: EmulatedAws) -> None:
    account = "888899990000"
    ec2 = aws.client("ec2", account)
    volume = written(aws, [], account=account)
    made = [snap(aws, volume, account) for _ in range(12)]
    pages = list(ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], PaginationConfig={"PageSize": 5}))
    assert [len(page["Snapshots"]) for page in pages] == [5, 5, 2]
    assert [view["SnapshotId"] for page in pages for view in page["Snapshots"]] == made
    with refused("InvalidParameterValue"):
        ec2.describe_snapshots(OwnerIds=["self"], NextToken="garbage")
    with refused("InvalidParameterCombination"):
        ec2.describe_snapshots(SnapshotIds=made[:1], MaxResults=5)


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        pytest.param("volume-size", ["2"], ["b"], id="size"),
        pytest.param("tag:name", ["?"], ["a", "b"], id="tag-wildcard"),
        pytest.param("tag:name", ["c"], [], id="tag-without-match"),
        pytest.param("tag-key", ["name"], ["a", "b"], id="tag-key"),
        pytest.param("status", ["completed"], ["a", "b"], id="status"),
        pytest.param("encrypted", ["true"], [], id="encrypted"),
    ],
)
def test_filters(name: str, values: list[str], found: list[str], aws: EmulatedAws) -> None:
    account = "999900001111"
    ec2 = aws.client("ec2", account)
    for view in mine(ec2):
        ec2.delete_snapshot(SnapshotId=view["SnapshotId"])
    for number, label in enumerate("ab", 1):
        volume = written(aws, [], size_gib=number, account=account)
        ec2.create_snapshot(VolumeId=volume, TagSpecifications=tagged(name=label))
    views = mine(ec2, Filters=[{"Name": name, "Values": values}])
    assert [view["Tags"][0]["Value"] for view in views] == found
    with refused("InvalidParameterValue"):
        mine(ec2, Filters=[{"Name": "no-such-filter", "Values": ["x"]}])


def test_tags_are_set_later_too(aws: EmulatedAws, ec2: Any) -> None:
    snapshot = snap(aws, written(aws, []))
    ec2.create_tags(Resources=[snapshot], Tags=[{"Key": "late", "Value": "1"}])
    (view,) = mine(ec2, Filters=[{"Name": "tag:late", "Values": ["1"]}])
    assert view["SnapshotId"] == snapshot


@pytest.mark.parametrize(
    ("call", "how", "code"),
    [
        pytest.param("create_snapshot", {"VolumeId": "vol-0123456789abcdef0"}, "InvalidVolume.NotFound", id="volume"),
        pytest.param(
            "create_snapshots",
            {"InstanceSpecification": {"InstanceId": "i-0123456789abcdef0"}},
            "InvalidInstanceID.NotFound",
            id="instance",
        ),
        pytest.param(
            "delete_snapshot", {"SnapshotId": "snap-0123456789abcdef0"}, "InvalidSnapshot.NotFound", id="snapshot"
        ),
        pytest.param(
            "describe_snapshots",
            {"SnapshotIds": ["snap-0123456789abcdef0"]},
            "InvalidSnapshot.NotFound",
            id="described",
        ),
        pytest.param(
            "describe_volumes",
            {"VolumeIds": ["vol-0123456789abcdef0"]},
            "InvalidVolume.NotFound",
            id="described-volume",
        ),
    ],
)
def test_what_is_not_there(call: str, how: dict[str, Any], code: str, ec2: Any) -> None:
    with refused(code):
        getattr(ec2, call)(**how)


def test_an_instance_that_ended_or_has_no_volume_is_not_snapshotted(aws: EmulatedAws, ec2: Any) -> None:
    instance, (volume,) = run(aws, 1)
    path = aws.volume(volume).path
    ec2.terminate_instances(InstanceIds=[instance])
    with refused("IncorrectInstanceState"):
        ec2.create_snapshots(InstanceSpecification={"InstanceId": instance})
    with refused("InvalidVolume.NotFound"):
        ec2.create_snapshot(VolumeId=volume)
    assert not path.exists()
    bare, _ = run(aws, 1)
    aws.make_instance_store(bare)
    found = ec2.describe_instances(InstanceIds=[bare])["Reservations"][0]["Instances"][0]
    assert (found["RootDeviceType"], found["BlockDeviceMappings"]) == ("instance-store", [])
    with refused("InvalidParameterValue"):
        ec2.create_snapshots(InstanceSpecification={"InstanceId": bare})


def test_a_volume_made_of_a_snapshot_holds_the_same(aws: EmulatedAws, ec2: Any, ebs: Any) -> None:
    snapshot = snap(aws, written(aws, [1, 5]))
    made = ec2.create_volume(SnapshotId=snapshot, AvailabilityZone="eu-central-1a", Size=2)["VolumeId"]
    ec2.delete_snapshot(SnapshotId=snapshot)
    assert aws.volume(made).read(5 * BLOCK, BLOCK) == block(5)
    assert indexes(ebs, snap(aws, made)) == [1, 5]


def test_shared_snapshots_are_seen_without_their_tags(aws: EmulatedAws, ec2: Any) -> None:
    snapshot = ec2.create_snapshot(VolumeId=written(aws, [1]), TagSpecifications=tagged(a="b"))["SnapshotId"]
    theirs = aws.client("ec2", OTHER)
    with refused("InvalidSnapshot.NotFound"):
        theirs.describe_snapshots(SnapshotIds=[snapshot])
    share = {"CreateVolumePermission": {"Add": [{"UserId": OTHER}]}}
    ec2.modify_snapshot_attribute(SnapshotId=snapshot, Attribute="createVolumePermission", **share)
    answer = ec2.describe_snapshot_attribute(SnapshotId=snapshot, Attribute="createVolumePermission")
    assert answer["CreateVolumePermissions"] == [{"UserId": OTHER}]
    (view,) = theirs.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert (view["OwnerId"], view.get("Tags", [])) == (ACCOUNT, [])
    assert snapshot not in {one["SnapshotId"] for one in mine(theirs)}
    shared = theirs.describe_snapshots(RestorableByUserIds=["self"])["Snapshots"]
    assert snapshot in {one["SnapshotId"] for one in shared}
    with refused("UnauthorizedOperation", status=403):
        theirs.delete_snapshot(SnapshotId=snapshot)
    ec2.reset_snapshot_attribute(SnapshotId=snapshot, Attribute="createVolumePermission")
    with refused("InvalidSnapshot.NotFound"):
        theirs.describe_snapshots(SnapshotIds=[snapshot])
    with refused("InvalidUserID.Malformed"):
        ec2.modify_snapshot_attribute(SnapshotId=snapshot, OperationType="add", UserIds=["nobody"])


def test_the_default_key_forbids_sharing_and_a_copy_under_an_own_key_helps(aws: EmulatedAws, ec2: Any) -> None:
    _, (volume,) = run(aws, 1, encrypted_by="default")
    aws.volume(volume).write(0, block(1))
    snapshot = snap(aws, volume)
    with refused("OperationNotPermitted"):
        ec2.modify_snapshot_attribute(SnapshotId=snapshot, OperationType="add", UserIds=[OTHER])
    kms = aws.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    copy = ec2.copy_snapshot(SourceSnapshotId=snapshot, SourceRegion="eu-central-1", Encrypted=True, KmsKeyId=key)
    copy_id = copy["SnapshotId"]
    (view,) = ec2.describe_snapshots(SnapshotIds=[copy_id])["Snapshots"]
    assert (view["State"], view["Encrypted"], view["KmsKeyId"]) == ("completed", True, key)
    with refused("OperationNotPermitted"):
        ec2.modify_snapshot_attribute(SnapshotId=copy_id, OperationType="add", GroupNames=["all"])
    ec2.modify_snapshot_attribute(SnapshotId=copy_id, OperationType="add", UserIds=[OTHER])
    theirs = aws.client("ebs", OTHER)
    with refused("AccessDeniedException", "DEPENDENCY_ACCESS_DENIED", 403):
        listed(theirs, copy_id)
    kms.create_grant(KeyId=key, GranteePrincipal=f"arn:aws:iam::{OTHER}:root", Operations=["Decrypt"])
    ((index, token),) = listed(theirs, copy_id)
    assert get(theirs, copy_id, index, token) == block(1)


def test_a_key_policy_lets_another_account_read(aws: EmulatedAws, ec2: Any) -> None:
    kms = aws.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    _, (volume,) = run(aws, 1, encrypted_by=key)
    aws.volume(volume).write(0, block(1))
    snapshot = snap(aws, volume)
    ec2.modify_snapshot_attribute(SnapshotId=snapshot, OperationType="add", UserIds=[OTHER])
    theirs = aws.client("ebs", OTHER)
    with refused("AccessDeniedException", "DEPENDENCY_ACCESS_DENIED"):
        listed(theirs, snapshot)
    statement = (
        f'{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{OTHER}:root"}},"Action":"kms:*","Resource":"*"}}'
    )
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=f'{{"Statement":[{statement}]}}')
    assert indexes(theirs, snapshot) == [0]
    kms.disable_key(KeyId=key.rpartition("/")[2])
    with refused("AccessDeniedException", "DEPENDENCY_ACCESS_DENIED"):
        listed(theirs, snapshot)


def test_a_copy_without_the_right_to_the_key_fails_afterwards(aws: EmulatedAws, ec2: Any) -> None:
    key = aws.client("kms").create_key()["KeyMetadata"]["Arn"]
    _, (volume,) = run(aws, 1, encrypted_by=key)
    snapshot = snap(aws, volume)
    aws.deny("kms:Decrypt", principal="Scanner", resource=key)
    scanner = as_role(aws, "ec2")
    copy = scanner.copy_snapshot(SourceSnapshotId=snapshot, SourceRegion="eu-central-1")["SnapshotId"]
    (view,) = ec2.describe_snapshots(SnapshotIds=[copy])["Snapshots"]
    assert (view["State"], view["StateMessage"]) == ("error", "Given key ID is not accessible")


def test_copies_go_to_other_regions_and_are_a_lineage_of_their_own(aws: EmulatedAws, ec2: Any) -> None:
    volume = written(aws, [1])
    first = snap(aws, volume)
    aws.volume(volume).write(BLOCK, b"changed")
    second = snap(aws, volume)
    there = aws.client("ec2", region="us-east-1")
    copies = [
        there.copy_snapshot(SourceSnapshotId=one, SourceRegion="eu-central-1")["SnapshotId"] for one in (first, second)
    ]
    ebs = aws.client("ebs", region="us-east-1")
    page = ebs.list_changed_blocks(FirstSnapshotId=copies[0], SecondSnapshotId=copies[1])
    assert [one["BlockIndex"] for one in page["ChangedBlocks"]] == [1]
    here = ec2.copy_snapshot(SourceSnapshotId=first, SourceRegion="eu-central-1")["SnapshotId"]
    with refused("ValidationException", "UNRELATED_SNAPSHOTS"):
        aws.client("ebs").list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=here)
    with refused("InvalidSnapshot.NotFound"):
        there.copy_snapshot(SourceSnapshotId=first, SourceRegion="us-west-2")


def test_an_image_is_the_root_of_the_lineage_of_its_instances(aws: EmulatedAws, ec2: Any, ebs: Any) -> None:
    instance, volumes = run(aws, 1, 2)
    for volume in volumes:
        aws.volume(volume).write(0, block(1))
    image = ec2.create_image(InstanceId=instance, Name="golden")["ImageId"]
    (view,) = ec2.describe_images(ImageIds=[image])["Images"]
    sources = [mapping["Ebs"]["SnapshotId"] for mapping in view["BlockDeviceMappings"]]
    assert [mapping["Ebs"]["VolumeSize"] for mapping in view["BlockDeviceMappings"]] == [1, 2]
    clones = ec2.run_instances(ImageId=image, MinCount=2, MaxCount=2)["Instances"]
    for clone in clones:
        made = ec2.create_snapshots(InstanceSpecification={"InstanceId": clone["InstanceId"]})["Snapshots"]
        for source, one in zip(sources, made, strict=True):
            changed = ebs.list_changed_blocks(FirstSnapshotId=source, SecondSnapshotId=one["SnapshotId"])
            assert changed["ChangedBlocks"] == []
    with refused("InvalidSnapshot.InUse"):
        ec2.delete_snapshot(SnapshotId=sources[0])
    ec2.deregister_image(ImageId=image)
    ec2.delete_snapshot(SnapshotId=sources[0])


def test_instances_are_paged_one_by_one(aws: EmulatedAws) -> None:
    ec2 = aws.client("ec2", "121212121212")
    ec2.run_instances(ImageId="ami-0123456789abcdef0", MinCount=7, MaxCount=7)  # one reservation
    pages = list(ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
    sizes = [sum(len(one["Instances"]) for one in page["Reservations"]) for page in pages]
    assert sizes == [5, 2]
    with refused("InvalidParameterValue"):
        ec2.describe_instances(MaxResults=1)
    with refused("InvalidParameterCombination"):
        ec2.describe_instances(InstanceIds=["i-0123456789abcdef0"], MaxResults=5)


def test_regions_that_are_disabled(aws: EmulatedAws, ec2: Any) -> None:
    aws.rules.disabled_regions.add((ACCOUNT, "af-south-1"))
    names = {region["RegionName"] for region in ec2.describe_regions()["Regions"]}
    assert "eu-central-1" in names
    assert "af-south-1" not in names
    every = {one["RegionName"]: one["OptInStatus"] for one in ec2.describe_regions(AllRegions=True)["Regions"]}
    assert every["af-south-1"] == "not-opted-in"
    with refused("AuthFailure", status=401):
        aws.client("ec2", region="af-south-1").describe_instances()
    with refused("UnrecognizedClientException", status=403):
        listed(aws.client("ebs", region="af-south-1"), "snap-0123456789abcdef0")
    aws.client("ec2", OTHER, "af-south-1").describe_instances()
