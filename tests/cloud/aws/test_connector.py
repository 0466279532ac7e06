"""The connector against moto: what the contract suite does not ask, because it is AWS's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from cloud.aws.connector import AwsConnector
from cloud.aws.inventory import Rules
from core.errors import AccessDenied, CloudError, ConfigError, Gone, Throttled
from core.estate import Instance, InstanceState, Resource, Snapshot, SnapshotState
from demo.aws.emulator import EmulatedAws
from tests.cloud.aws.conftest import AMI, fails, launch, over
from tests.cloud.ledger import MemoryLedger

FAR = datetime(2100, 1, 1, tzinfo=UTC)


def only(connector: AwsConnector) -> Instance:
    (found,) = connector.instances()
    return found


def test_instance_with_its_disks(connector: AwsConnector, ec2: Any) -> None:
    launched = launch(ec2, 2, {"Name": "web", "team": "blue"})
    found = only(replace(connector, rules=Rules(owner_tag="team")))
    assert (found.id, found.name, found.owner, found.state) == (launched, "web", "blue", InstanceState.RUNNING)
    assert (found.os, found.architecture, found.image) == ("linux", "x86_64", AMI)
    assert found.network.startswith("vpc-")
    assert found.addresses
    assert [(disk.device, disk.size_bytes, disk.boot, disk.obstacle) for disk in found.disks] == [
        ("/dev/sda1", 1 << 30, True, ""),
        ("/dev/sdf", 2 << 30, False, ""),
    ]


def test_one_instance_is_what_the_listing_says(connector: AwsConnector, ec2: Any) -> None:
    launched = launch(ec2, 1, {"Name": "one"}, kind="i3.large")
    launch(ec2, 1, {"Name": "other"})
    found = connector.instance(launched)
    assert [found] == [one for one in connector.instances() if one.id == launched]
    assert len(found.disks) == 2
    ec2.terminate_instances(InstanceIds=[launched])
    with suppress(Gone):
        assert connector.instance(launched).state is InstanceState.TERMINATED
    with pytest.raises(Gone):
        connector.instance("i-0123456789abcdef0")


def test_one_image(connector: AwsConnector, ec2: Any) -> None:
    image = ec2.create_image(InstanceId=launch(ec2, 1), Name="golden")["ImageId"]
    found = connector.image(image)
    assert [found] == [one for one in connector.images() if one.id == image]
    assert found.snapshots
    with pytest.raises(Gone):
        connector.image("ami-0badbadbadbadbad0")


def test_instance_storage_is_an_obstacle(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 1, kind="i3.large")
    boot, local = only(connector).disks
    assert (boot.obstacle, local.size_bytes) == ("", 475 * 10**9)
    assert local.obstacle == "instance storage: it has no snapshots"
    made, not_made = connector.snapshot([boot, local], token="t")
    assert made.id
    assert (not_made.id, not_made.state, not_made.detail) == ("", SnapshotState.FAILED, local.obstacle)


@pytest.mark.parametrize(
    ("exclude", "tags", "said"),
    [
        pytest.param(("kumomori:exclude",), {"kumomori:exclude": ""}, "tag kumomori:exclude=", id="key"),
        pytest.param(("env=dev",), {"env": "dev"}, "tag env=dev", id="key-and-value"),
        pytest.param(("env=dev",), {"env": "prod"}, "", id="other-value"),
        pytest.param((), {"kumomori:exclude": ""}, "", id="no-rule"),
    ],
)
def test_exclusion(
    connector: AwsConnector, ec2: Any, exclude: tuple[str, ...], tags: dict[str, str], said: str
) -> None:
    launch(ec2, 1, tags)
    assert only(replace(connector, rules=Rules(exclude=exclude))).excluded == said


def test_empty_exclusion_is_refused() -> None:
    with pytest.raises(ConfigError):
        Rules(exclude=("=x",))


def test_one_set_per_token(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 2)
    disks = only(connector).disks
    first = connector.snapshot(disks, token="scan-1")
    assert [one.disk for one in first] == [disk.id for disk in disks]
    assert [one.device for one in first] == ["/dev/sda1", "/dev/sdf"]
    assert [one.size_bytes for one in first] == [1 << 30, 2 << 30]
    assert {one.tags["kumomori:installation"] for one in first} == {"test-1"}
    assert first[0].tags["kumomori:instance"] == disks[0].instance
    assert [one.id for one in connector.snapshot(list(reversed(disks)), token="scan-1")] == [
        one.id for one in reversed(first)
    ]
    assert {one.id for one in connector.snapshot(disks, token="scan-2")}.isdisjoint({one.id for one in first})
    assert len(list(connector.owned())) == 4


def test_expiry_is_on_the_snapshot(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 1)
    now = datetime(2030, 1, 1, tzinfo=UTC)
    connector = replace(connector, clock=lambda: now, lifetime_seconds=3600)
    connector.snapshot(only(connector).disks, token="t")
    (resource,) = connector.owned()
    assert (resource.expires, resource.token, resource.kind) == (now + timedelta(hours=1), "t", "snapshot")


@pytest.mark.parametrize("written", ["", "never", "9999999"])
def test_expiry_that_somebody_overwrote(connector: AwsConnector, ec2: Any, written: str) -> None:
    launch(ec2, 1)
    (one,) = connector.snapshot(only(connector).disks, token="t")
    ec2.create_tags(Resources=[one.id], Tags=[{"Key": "kumomori:expires", "Value": written}])
    (resource,) = connector.owned()
    assert one.started
    assert resource.expires == one.started + timedelta(days=1)


def test_some_disks_only(connector: AwsConnector, ec2: Any) -> None:
    """Which ones to leave out is told to AWS; what moto makes all the same is a leftover."""
    launch(ec2, 3)
    boot, one, two = only(connector).disks
    asked: list[Any] = []
    real = connector.once.create_snapshots

    def create(**given: Any) -> Any:
        asked.append(given["InstanceSpecification"])
        return real(**given)

    watched = replace(connector, once=over(connector.once, create_snapshots=create))
    used = watched.snapshot([one], token="data")
    watched.snapshot([boot], token="boot")
    assert asked == [
        {"InstanceId": boot.instance, "ExcludeBootVolume": True, "ExcludeDataVolumeIds": [two.id]},
        {"InstanceId": boot.instance, "ExcludeBootVolume": False, "ExcludeDataVolumeIds": sorted([one.id, two.id])},
    ]
    assert [one.disk for one in used] == [one.id]
    for left in list(connector.leftovers(used)):
        connector.delete(left)
    assert [left.id for left in connector.owned() if left.token == "data"] == [used[0].id]


def test_second_set_of_a_lost_answer(connector: AwsConnector, ec2: Any) -> None:
    """EC2 lists late: two sets with one token. Every later call gives the same one; the other is a leftover."""
    launch(ec2, 1)
    disks = only(connector).disks
    connector.snapshot(disks, token="t")
    connector.ours().create(disks[0].instance, "t", without_boot=False, without=())
    assert len(list(connector.owned())) == 2
    again = connector.snapshot(disks, token="t")
    assert connector.snapshot(disks, token="t") == again
    (left,) = connector.leftovers(again)
    connector.delete(left)
    assert [one.id for one in connector.owned()] == [again[0].id]


def test_lost_answer_makes_no_second_set(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 1)
    disks = only(connector).disks
    real = connector.once.create_snapshots

    def create(**given: Any) -> Any:
        real(**given)
        raise ReadTimeoutError(endpoint_url="https://ec2")

    watched = replace(connector, once=over(connector.once, create_snapshots=create))
    (found,) = watched.snapshot(disks, token="t")
    assert [one.id for one in connector.owned()] == [found.id]


def test_lost_answer_and_nothing_made(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 1)
    paused: list[float] = []

    def create(**_: Any) -> Any:
        raise ReadTimeoutError(endpoint_url="https://ec2")

    watched = replace(
        connector, once=over(connector.once, create_snapshots=create), settle_seconds=10.0, pause=paused.append
    )
    with pytest.raises(CloudError, match="did not answer ec2:CreateSnapshots"):
        watched.snapshot(only(connector).disks, token="t")
    assert sum(paused) == 10.0


def test_sdk_repeats_no_creation(connector: AwsConnector) -> None:
    once, reads = (vars(client.meta.config)["retries"] for client in (connector.once, connector.ec2))
    assert once["total_max_attempts"] == 1
    assert reads["total_max_attempts"] > 1


def test_listed_late(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 2)
    disks = only(connector).disks
    looks: list[float] = []
    hidden = {"first": True}
    real = connector.ec2.get_paginator

    class Late:
        def __init__(self, name: str) -> None:
            self.name = name

        def paginate(self, **given: Any) -> Any:
            if self.name == "describe_snapshots" and len(looks) < 2:
                return [{"Snapshots": []}]
            return real(self.name).paginate(**given)  # type: ignore[call-overload]

    late = replace(connector, ec2=over(connector.ec2, get_paginator=Late), settle_seconds=30.0, pause=looks.append)
    found = late.snapshot(disks, token="t")
    assert hidden
    assert all(one.id for one in found)
    assert len(looks) == 2
    assert len(list(connector.owned())) == 2


@pytest.mark.parametrize(
    ("code", "message", "kind", "said"),
    [
        pytest.param("SnapshotCreationPerVolumeRateExceeded", "no", Throttled, "throttled", id="volume-rate"),
        pytest.param("RequestLimitExceeded", "no", Throttled, "throttled", id="throttled"),
        pytest.param(
            "UnauthorizedOperation",
            "You are not authorized to perform this operation.",
            AccessDenied,
            "KumomoriSnapshotSource",
            id="denied",
        ),
        pytest.param(
            "UnauthorizedOperation",
            "User: arn:aws:sts::1:assumed-role/a/b is not authorized to perform: ec2:CreateTags on resource: x because no … Encoded authorization failure message: c2VjcmV0",
            AccessDenied,
            "ec2:CreateTags is denied: add the statement KumomoriTagOnCreate",
            id="denied-tags",
        ),
        pytest.param("SnapshotLimitExceeded", "quota of snapshots", CloudError, "quota of snapshots", id="quota"),
        pytest.param("InternalError", "oops", CloudError, "InternalError", id="aws-failed"),
    ],
)
def test_snapshot_refused(
    connector: AwsConnector, ec2: Any, code: str, message: str, kind: type[CloudError], said: str
) -> None:
    launch(ec2, 1)
    refused = replace(connector, once=over(connector.once, create_snapshots=fails(code, message)))
    with pytest.raises(CloudError, match=said) as caught:
        refused.snapshot(only(connector).disks, token="t")
    assert type(caught.value) is kind
    assert "c2VjcmV0" not in str(caught.value)
    if code == "SnapshotCreationPerVolumeRateExceeded":
        assert isinstance(caught.value, Throttled)
        assert caught.value.after >= 15


def test_instance_terminated_between_listing_and_snapshot(connector: AwsConnector, ec2: Any) -> None:
    launched = launch(ec2, 1)
    disks = only(connector).disks
    ec2.terminate_instances(InstanceIds=[launched])
    with pytest.raises(Gone, match="terminated"):
        connector.snapshot(disks, token="t")
    assert not list(connector.owned())


def test_instance_terminated_during_the_call(connector: AwsConnector, ec2: Any) -> None:
    launched = launch(ec2, 1)
    disks = only(connector).disks

    def create(**_: Any) -> Any:
        ec2.terminate_instances(InstanceIds=[launched])
        return fails("IncorrectInstanceState")()

    with pytest.raises(Gone, match="terminated"):
        replace(connector, once=over(connector.once, create_snapshots=create)).snapshot(disks, token="t")


def test_disk_detached_meanwhile(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 2)
    boot, data = only(connector).disks
    ec2.detach_volume(VolumeId=data.id, InstanceId=data.instance)
    made, missing = connector.snapshot([boot, data], token="t")
    assert made.id
    assert missing.detail == "it is not attached to the instance any more"
    assert [one.id for one in connector.snapshot([boot, data], token="t")] == [made.id, ""]
    assert connector.refresh(missing) == missing


def test_all_disks_detached(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 2)
    _, data = only(connector).disks
    ec2.detach_volume(VolumeId=data.id, InstanceId=data.instance)
    (missing,) = connector.snapshot([data], token="t")
    assert missing.state is SnapshotState.FAILED
    assert not list(connector.owned())


@pytest.mark.parametrize(
    ("state", "words"),
    [("disable", "is disabled"), ("delete", "is about to be deleted"), ("gone", "it is not there any more")],
)
def test_disk_with_an_unusable_key(
    connector: AwsConnector, ec2: Any, backdoor: Callable[[str], Any], state: str, words: str
) -> None:
    kms = backdoor("kms")
    launch(ec2, 2)
    boot, data = only(connector).disks
    key = kms.create_key()["KeyMetadata"]["Arn"]
    if state == "disable":
        kms.disable_key(KeyId=key.rpartition("/")[2])
    elif state == "delete":
        kms.schedule_key_deletion(KeyId=key.rpartition("/")[2])
    else:
        key = key[:-1] + ("0" if key[-1] != "0" else "1")
    made, locked = connector.snapshot([boot, replace(data, encrypted=True, key=key)], token="t")
    assert made.id
    assert (locked.id, locked.state) == ("", SnapshotState.FAILED)
    assert words in locked.detail


def test_key_that_may_not_be_described(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 1)
    (disk,) = only(connector).disks
    denied = replace(connector, kms=over(connector.kms, describe_key=fails("AccessDeniedException")))
    (locked,) = denied.snapshot([replace(disk, key="arn:aws:kms:us-east-1:1:key/k")], token="t")
    assert "kms:DescribeKey is denied: add the statement KumomoriDescribeKeys" in locked.detail


def test_deletion(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 1)
    (one,) = connector.snapshot(only(connector).disks, token="t")
    (resource,) = connector.owned()
    connector.delete(resource)
    connector.delete(resource)
    assert connector.refresh(one).state is SnapshotState.GONE
    assert not list(connector.owned())


@pytest.mark.parametrize("tags", [{}, {"kumomori:installation": "another"}, {"kumomori:token": "t"}])
def test_what_is_not_ours_is_not_deleted(connector: AwsConnector, ec2: Any, tags: dict[str, str]) -> None:
    volume = ec2.create_volume(Size=1, AvailabilityZone="eu-central-1a")["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    if tags:
        ec2.create_tags(Resources=[snapshot], Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
    with pytest.raises(CloudError, match="does not carry the tag"):
        connector.delete(Resource(connector.place, "snapshot", snapshot, "t", "test-1", FAR))
    assert connector.refresh(Snapshot(connector.place, snapshot)).state is SnapshotState.READY


def test_deletion_of_an_intention(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 2)
    boot, data = only(connector).disks
    connector.snapshot([boot, data], token="t")
    connector.delete(Resource(connector.place, "snapshot", "", "t", "test-1", FAR, of=data.id))
    assert [one.of for one in connector.owned()] == [boot.id]
    connector.delete(Resource(connector.place, "snapshot", "", "t", "test-1", FAR))
    assert not list(connector.owned())


def test_deletion_of_something_else(connector: AwsConnector) -> None:
    with pytest.raises(CloudError, match="nothing that the AWS connector makes"):
        connector.delete(Resource(connector.place, "volume", "vol-1", "t", "test-1", FAR))


@pytest.mark.parametrize("token", ["", "*", "scan-?", "a b", "x" * 201, "ü"])
def test_token_that_would_be_a_wildcard(connector: AwsConnector, ec2: Any, token: str) -> None:
    launch(ec2, 1)
    with pytest.raises(ConfigError, match="token"):
        connector.snapshot(only(connector).disks, token=token)


def test_disks_of_two_instances(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 1)
    launch(ec2, 1)
    with pytest.raises(ValueError, match="one instance"):
        connector.snapshot([disk for found in connector.instances() for disk in found.disks], token="t")
    assert connector.snapshot([], token="t") == []


def test_too_many_disks_to_leave_out(connector: AwsConnector, ec2: Any) -> None:
    launch(ec2, 1)
    (disk,) = only(connector).disks
    raw = {
        "InstanceId": disk.instance,
        "RootDeviceName": "/dev/sda1",
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeId": disk.id}}]
        + [{"DeviceName": f"/dev/x{at}", "Ebs": {"VolumeId": f"vol-{at}"}} for at in range(41)],
    }
    answer = {"Reservations": [{"Instances": [raw]}]}
    many = replace(connector, ec2=over(connector.ec2, describe_instances=lambda **_: answer))
    with pytest.raises(CloudError, match="leaves out 40 disks at most, not 41"):
        many.snapshot([disk], token="t")


@pytest.mark.parametrize(
    ("raw", "state", "detail"),
    [
        pytest.param({"State": "pending", "Progress": "45%"}, SnapshotState.PENDING, "", id="pending"),
        pytest.param({"State": "error", "StateMessage": "no key"}, SnapshotState.FAILED, "no key", id="failed"),
        pytest.param({"State": "completed"}, SnapshotState.READY, "", id="ready"),
        pytest.param({"State": "recoverable"}, SnapshotState.GONE, "", id="recycled"),
        pytest.param(
            {"State": "completed", "StorageTier": "archive"},
            SnapshotState.FAILED,
            "it is archived: restore it to the standard tier to read it",
            id="archived",
        ),
        pytest.param({}, SnapshotState.PENDING, "", id="nothing-said"),
    ],
)
def test_refresh(connector: AwsConnector, raw: dict[str, str], state: SnapshotState, detail: str) -> None:
    answer = {"Snapshots": [{"SnapshotId": "snap-1", **raw}]}
    seen = replace(connector, ec2=over(connector.ec2, describe_snapshots=lambda **_: answer))
    before = Snapshot(connector.place, "snap-1", disk="vol-1", instance="i-1", device="/dev/sda1", token="t")
    found = seen.refresh(before)
    assert (found.state, found.detail) == (state, detail)
    assert (found.disk, found.instance, found.device) == ("vol-1", "i-1", "/dev/sda1")


def test_refresh_of_one_made_a_moment_ago(connector: AwsConnector) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    late = replace(connector, settle_seconds=30.0, clock=lambda: now)
    young = Snapshot(connector.place, "snap-0123456789abcdef0", started=now - timedelta(seconds=5))
    old = replace(young, started=now - timedelta(seconds=60))
    assert late.refresh(young) == young
    assert late.refresh(old).state is SnapshotState.GONE


def test_lists_of_snapshots_and_images(connector: AwsConnector, ec2: Any) -> None:
    launched = launch(ec2, 1)
    image = ec2.create_image(InstanceId=launched, Name="golden")["ImageId"]
    (found,) = [one for one in connector.images() if one.id == image]
    assert (found.name, found.owner) == ("golden", connector.account)
    assert found.snapshots
    assert found.snapshots[0] in {one.id for one in connector.snapshots()}
    assert all(one.owner != connector.account for one in connector.snapshots("shared"))


def test_region_that_is_disabled(connector: AwsConnector) -> None:
    class Disabled:
        def paginate(self, **_: Any) -> Any:
            fails("OptInRequired")()

    with pytest.raises(CloudError, match="has not opted in"):
        list(replace(connector, ec2=over(connector.ec2, get_paginator=lambda _: _Pages(Disabled()))).instances())


class _Pages:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def paginate(self, **given: Any) -> Any:
        def pages() -> Any:
            yield self._inner.paginate(**given)

        return pages()


def test_16_tib_disk(connector: AwsConnector, ec2: Any, emulator: EmulatedAws) -> None:
    """Its ends are read without listing all of its 33 million blocks."""
    size = 16383 << 30  # 1 GiB less: the largest file of ext4, which the emulator keeps the disk in
    mapping = [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 16383}}]
    ec2.run_instances(ImageId=AMI, InstanceType="t3.micro", MinCount=1, MaxCount=1, BlockDeviceMappings=mapping)
    (disk,) = only(connector).disks
    content = emulator.volume(disk.id, connector.account)
    content.write(0, b"start")
    content.write(size - 600_000, b"end")
    (made,) = connector.snapshot([disk], token="t")
    with connector.open(connector.refresh(made), MemoryLedger()) as source:
        assert source.size == size
        assert source.read(0, 5) == b"start"
        assert source.read(size - 600_000, 3) == b"end"
        assert source.read(size // 2, 4) == bytes(4)
        assert len(source.read(size - 5, 100)) == 5


# tags are for everybody who may tag: they alone make nothing ours


def forged(token: str, **more: str) -> Any:
    tags = {"kumomori:installation": "test-1", "kumomori:token": token, "kumomori:expires": "2000-01-01", **more}
    return [{"Key": key, "Value": value} for key, value in tags.items() if value]


@pytest.mark.parametrize("token", ["t", "", "*", "x" * 256])
def test_a_backup_that_somebody_tagged_as_ours_is_not_deleted(connector: AwsConnector, ec2: Any, token: str) -> None:
    """Whoever may tag but not delete must not get it done by us."""
    volume = ec2.create_volume(Size=1, AvailabilityZone="eu-central-1a")["VolumeId"]
    backup = ec2.create_snapshot(VolumeId=volume, Description="nightly backup")["SnapshotId"]
    ec2.create_tags(Resources=[backup], Tags=forged(token))
    assert list(connector.owned()) == []
    for resource in (
        Resource(connector.place, "snapshot", backup, "t", "test-1", FAR),
        Resource(connector.place, "snapshot", "", "t", "test-1", FAR, of=volume),
    ):
        with suppress(CloudError):
            connector.delete(resource)
    assert connector.refresh(Snapshot(connector.place, backup)).state is SnapshotState.READY


def test_a_snapshot_of_a_living_scan_or_of_another_installation_that_somebody_tagged_anew(
    connector: AwsConnector, ec2: Any
) -> None:
    launch(ec2, 1)
    disks = only(connector).disks
    (alive,) = connector.snapshot(disks, token="alive")
    (other,) = replace(connector, installation="other").snapshot(disks, token="t")
    for one in (alive, other):
        ec2.create_tags(Resources=[one.id], Tags=forged("dead"))
    assert list(connector.owned()) == []
    connector.delete(Resource(connector.place, "snapshot", "", "dead", "test-1", FAR, of=disks[0].id))
    assert [connector.refresh(one).state for one in (alive, other)] == [SnapshotState.READY] * 2
    connector.delete(Resource(connector.place, "snapshot", alive.id, "alive", "test-1", FAR))
    assert connector.refresh(alive).state is SnapshotState.GONE, "the ledger knows its token, whatever its tag says"


def test_a_size_that_ec2_and_ebs_do_not_agree_about(connector: AwsConnector, ec2: Any) -> None:
    """What lies beyond the smaller one would never be looked at, and nobody would know."""
    launch(ec2, 2)
    made = connector.refresh(connector.snapshot(only(connector).disks, token="t")[1])
    assert made.size_bytes == 2 << 30
    with connector.open(replace(made, size_bytes=0), MemoryLedger()) as source:
        assert source.size == 2 << 30
    with (
        pytest.raises(CloudError, match="3,221,225,472 bytes"),
        connector.open(replace(made, size_bytes=3 << 30), MemoryLedger()),
    ):
        pass
