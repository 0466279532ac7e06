"""Answers of EC2, hostile ones beside good ones: never anything but our errors, and bounded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.aws.inventory import (
    LocalDisks,
    Rules,
    Volume,
    attached,
    iter_instances,
    to_image,
    to_instance,
    to_local,
    to_snapshot,
    to_volume,
)
from core.errors import CloudError
from core.estate import Disk, InstanceState, Place, SnapshotState

PLACE = Place("aws", "111122223333", "eu-central-1")
RAW: dict[str, Any] = {
    "InstanceId": "i-1",
    "ImageId": "ami-1",
    "State": {"Code": 16, "Name": "running"},
    "InstanceType": "m5.large",
    "Architecture": "arm64",
    "PlatformDetails": "Red Hat Enterprise Linux",
    "LaunchTime": datetime(2026, 1, 2, tzinfo=UTC),
    "Placement": {"AvailabilityZone": "eu-central-1a"},
    "VpcId": "vpc-1",
    "SubnetId": "subnet-1",
    "PrivateIpAddress": "10.0.0.1",
    "PublicIpAddress": "203.0.113.1",
    "NetworkInterfaces": [{"PrivateIpAddresses": [{"PrivateIpAddress": "10.0.0.1"}, {"PrivateIpAddress": "10.0.0.2"}]}],
    "SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web"}],
    "RootDeviceName": "/dev/xvda",
    "BlockDeviceMappings": [
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeId": "vol-2"}},
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeId": "vol-1"}},
    ],
    "Tags": [{"Key": "Name", "Value": "db"}, {"Key": "team", "Value": "red"}],
}


def test_everything_of_an_instance() -> None:
    volumes = {"vol-1": Volume(8 << 30, "gp3", encrypted=True, key="arn:key")}
    found = to_instance(RAW, PLACE, Rules(), volumes, [LocalDisks(2, 75 * 10**9, "ssd")])
    assert (found.id, found.name, found.state, found.image, found.kind) == (
        "i-1",
        "db",
        InstanceState.RUNNING,
        "ami-1",
        "m5.large",
    )
    assert (found.os, found.architecture, found.owner, found.launched) == (
        "linux",
        "arm64",
        "111122223333",
        datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert (found.zone, found.network, found.subnet) == ("eu-central-1a", "vpc-1", "subnet-1")
    assert found.addresses == ("10.0.0.1", "203.0.113.1", "10.0.0.2")
    assert found.security_groups == ("sg-1",)
    assert found.tags == {"Name": "db", "team": "red"}
    data, boot, *local = found.disks
    assert (data.id, data.boot, data.size_bytes) == ("vol-2", False, 0)
    assert (boot.id, boot.boot, boot.size_bytes, boot.kind, boot.encrypted, boot.key) == (
        "vol-1",
        True,
        8 << 30,
        "gp3",
        True,
        "arn:key",
    )
    assert [disk.id for disk in local] == ["i-1:local0", "i-1:local1"]
    assert str(found) == "aws://111122223333/eu-central-1/i-1"


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        pytest.param({"State": {"Name": "shutting-down"}}, "state", InstanceState.TERMINATED, id="shutting-down"),
        pytest.param({"State": {"Name": "exploding"}}, "state", InstanceState.UNKNOWN, id="new-state"),
        pytest.param({"State": None}, "state", InstanceState.UNKNOWN, id="no-state"),
        pytest.param({"State": []}, "state", InstanceState.UNKNOWN, id="state-is-a-list"),
        pytest.param({"Platform": "windows"}, "os", "windows", id="windows"),
        pytest.param({"PlatformDetails": "Windows with SQL Server"}, "os", "windows", id="windows-by-details"),
        pytest.param({"PlatformDetails": None, "Architecture": "arm64_mac"}, "os", "macos", id="mac"),
        pytest.param({"PlatformDetails": None, "Architecture": None}, "os", "", id="no-platform"),
        pytest.param({"LaunchTime": "yesterday"}, "launched", None, id="time-is-text"),
        pytest.param({"LaunchTime": datetime(2026, 1, 2)}, "launched", datetime(2026, 1, 2, tzinfo=UTC), id="time-without-zone"),  # noqa: DTZ001
        pytest.param({"Tags": "Name=web"}, "tags", {}, id="tags-are-text"),
        pytest.param({"Tags": [None, {}, {"Key": 1, "Value": 2}, {"Key": "a"}]}, "tags", {}, id="tags-are-odd"),
        pytest.param({"Tags": [{"Key": "k" * 9999, "Value": "v" * 9999}]}, "tags", {"k" * 128: "v" * 256}, id="tags-are-long"),
        pytest.param({"ImageId": "x" * 10_000}, "image", "x" * 512, id="long-text"),
        pytest.param({"BlockDeviceMappings": "none"}, "disks", (), id="disks-are-text"),
        pytest.param({"BlockDeviceMappings": [None, {}, {"Ebs": 1}, {"Ebs": {"VolumeId": 7}}]}, "disks", tuple(Disk(PLACE, f"i-1:{at}", "i-1", obstacle="AWS does not say which volume it is") for at in (1, 2, 3)), id="disks-are-odd-and-not-passed-over"),
        pytest.param({"NetworkInterfaces": [1, {"PrivateIpAddresses": [1]}], "PublicIpAddress": 7}, "addresses", ("10.0.0.1",), id="addresses-are-odd"),
        pytest.param({"SecurityGroups": [{"GroupId": None}, 3]}, "security_groups", (), id="groups-are-odd"),
    ],
)  # fmt: skip
def test_odd_answers(change: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(to_instance({**RAW, **change}, PLACE, Rules(), {}), field) == value


def test_many_tags_and_disks_are_bounded() -> None:
    tags = [{"Key": str(at), "Value": ""} for at in range(10_000)]
    disks = [{"DeviceName": str(at), "Ebs": {"VolumeId": f"vol-{at}"}} for at in range(10_000)]
    found = to_instance({"InstanceId": "i", "Tags": tags, "BlockDeviceMappings": disks}, PLACE, Rules(), {})
    assert (len(found.tags), len(found.disks)) == (100, 200)


def test_root_on_instance_storage() -> None:
    (disk,) = to_instance({"InstanceId": "i-1", "RootDeviceType": "instance-store"}, PLACE, Rules(), {}).disks
    assert (disk.boot, disk.obstacle) == (True, "instance storage: it has no snapshots")


@pytest.mark.parametrize("raw", [{}, {"InstanceId": None}, {"InstanceId": ""}, {"InstanceId": 7}])
def test_without_an_id(raw: dict[str, Any]) -> None:
    for convert in (
        lambda: to_instance(raw, PLACE, Rules(), {}),
        lambda: to_snapshot(raw, PLACE),
        lambda: to_image(raw, PLACE),
    ):
        with pytest.raises(CloudError, match="without an id"):
            convert()


@pytest.mark.parametrize(
    ("size", "found"),
    [(1, 1 << 30), (16384, 16 << 40), (0, 0), (-5, 0), ("8", 0), (True, 0), (None, 0), (1 << 60, 0), (1.5, 0)],
)
def test_sizes(size: Any, found: int) -> None:
    volume = to_volume({"VolumeId": "vol-1", "Size": size})
    assert volume
    assert volume[1].size_bytes == found
    assert to_snapshot({"SnapshotId": "snap-1", "VolumeSize": size}, PLACE).size_bytes == found


@pytest.mark.parametrize(
    ("text", "percent"), [("45%", 45), ("", 0), ("x", 0), ("²%", 0), ("999%", 100), ("99999999%", 0), (None, 0)]
)
def test_progress(text: Any, percent: int) -> None:
    assert to_snapshot({"SnapshotId": "snap-1", "Progress": text}, PLACE).progress_percent == percent


def test_a_copy_has_no_disk() -> None:
    raw = {"SnapshotId": "snap-2", "VolumeId": "vol-ffffffff", "Tags": [{"Key": "kumomori:of", "Value": "snap-1"}]}
    assert to_snapshot(raw, PLACE).disk == ""


def test_image() -> None:
    raw = {
        "ImageId": "ami-1",
        "Name": "golden",
        "CreationDate": "2026-01-02T03:04:05.000Z",
        "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/sdb", "Ebs": {"SnapshotId": "snap-2"}},
            {"DeviceName": "/dev/sdc", "VirtualName": "ephemeral0"},
            {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-1"}},
        ],
    }
    found = to_image(raw, PLACE)
    assert found.snapshots == ("snap-1", "snap-2")
    assert found.created == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert to_image({**raw, "CreationDate": "never", "BlockDeviceMappings": 5}, PLACE).created is None


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ({"InstanceType": "t3.micro"}, ("t3.micro", ())),
        ({"InstanceType": "x", "InstanceStorageInfo": {"Disks": [{"Count": 2, "SizeInGB": 10, "Type": "ssd"}]}}, ("x", (LocalDisks(2, 10**10, "ssd"),))),
        ({"InstanceType": "x", "InstanceStorageInfo": {"Disks": [{"Count": 10**9, "SizeInGB": -1}, 3]}}, ("x", (LocalDisks(64, 0, ""),))),
        ({}, None),
        (None, None),
    ],
)  # fmt: skip
def test_instance_types(raw: Any, found: Any) -> None:
    assert to_local(raw) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [*RAW, "SnapshotId", "VolumeId", "VolumeSize", "Progress", "CreationDate", "InstanceStorageInfo", "Ipv6Address"]
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(FIELDS, JSON))
def test_any_answer(raw: dict[str, Any]) -> None:
    conversions: list[Callable[[], Any]] = [
        lambda: to_instance({**RAW, **raw}, PLACE, Rules(), {}),
        lambda: attached({**RAW, **raw}),
        lambda: to_snapshot(raw, PLACE),
        lambda: to_image(raw, PLACE),
        lambda: to_volume(raw),
        lambda: to_local(raw),
        lambda: list(iter_instances({"Reservations": [raw, {"Instances": [raw]}]})),
    ]
    for convert in conversions:
        try:
            convert()
        except CloudError:
            pass


def test_states_of_snapshots_are_all_known() -> None:
    import botocore.session

    shape: Any = botocore.session.get_session().get_service_model("ec2").shape_for("SnapshotState")
    states = shape.enum
    for state in states:
        assert to_snapshot({"SnapshotId": "s", "State": state}, PLACE).state in SnapshotState
