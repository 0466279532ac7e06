"""The contract of connectors, for AWS on the emulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloud.aws.accounts import ONCE, Role, Sessions
from cloud.aws.connector import AwsConnector, connect
from core.estate import Disk, Instance, Resource, Snapshot
from demo.aws.emulator import REGION, EmulatedAws
from demo.aws.rules import FaultKind
from infra.aws import policies
from infra.aws.policies import Setup
from tests.cloud.aws.conftest import AMI, INSTALLATION
from tests.cloud.contract import GIB, ConnectorContract, Need

ACTIONS = {
    Need.LIST: "ec2:DescribeInstances",
    Need.SNAPSHOT: "ec2:CreateSnapshots",
    Need.REFRESH: "ec2:DescribeSnapshots",
    Need.READ: "ebs:GetSnapshotBlock",
    Need.CHANGED: "ebs:ListChangedBlocks",
    Need.DELETE: "ec2:DeleteSnapshot",
}


@dataclass
class AwsRig:
    connector: AwsConnector
    emulator: EmulatedAws
    ec2: Any
    granularity_bytes: int = 512 << 10

    def machine(self, *sizes_bytes: int) -> Instance:
        names = ["/dev/sda1", "/dev/sdf", "/dev/sdg"]
        mappings = [
            {"DeviceName": name, "Ebs": {"VolumeSize": size // GIB}}
            for name, size in zip(names, sizes_bytes, strict=False)
        ]
        answer = self.ec2.run_instances(
            ImageId=AMI, InstanceType="t3.micro", MinCount=1, MaxCount=1, BlockDeviceMappings=mappings
        )
        launched = answer["Instances"][0]["InstanceId"]
        return next(one for one in self.connector.instances() if one.id == launched)

    def write(self, disk: Disk, offset: int, data: bytes) -> None:
        self.emulator.volume(disk.id, self.connector.account).write(offset, data)

    def terminate(self, instance: Instance) -> None:
        self.ec2.terminate_instances(InstanceIds=[instance.id])

    def foreign(self) -> Resource:
        volume = self.ec2.create_volume(Size=1, AvailabilityZone=f"{REGION}a")["VolumeId"]
        snapshot = self.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
        expires = datetime.now(UTC) + timedelta(hours=1)
        return Resource(self.connector.place, "snapshot", snapshot, "t", INSTALLATION, expires)

    def vanish(self, snapshot: Snapshot) -> None:
        self.emulator.vanish(snapshot.id)

    def deny(self, need: Need) -> str:
        self.emulator.deny(ACTIONS[need])
        return ACTIONS[need]

    def throttle(self, need: Need, *, times: int | None = None) -> None:
        self.emulator.fault(FaultKind.THROTTLED, ACTIONS[need], times=times)

    def calm(self) -> None:
        self.emulator.calm()

    def lose_next_answer(self) -> None:
        self.emulator.fault(FaultKind.RESET_AFTER, "ec2:CreateSnapshots")

    def list_late(self) -> None:
        self.emulator.rules.late_polls = 2

    def fail_next_snapshot(self, words: str) -> None:
        self.emulator.rules.snapshot_failures.append(words)

    def stall_next_snapshot(self) -> None:
        self.emulator.rules.stuck_snapshots = 1

    def expire(self) -> None:
        self.emulator.expire_tokens()

    def differs(self) -> bool:
        return True


@pytest.fixture
def rig(request: pytest.FixtureRequest, connector: AwsConnector, emulator: EmulatedAws, ec2: Any) -> AwsRig:
    """The SDK's own retries are few here: they are AWS's to test, and take half a minute."""
    sessions: Callable[[str], Sessions] = request.getfixturevalue("sessions")
    of = sessions("scanner")
    session = of.base
    if request.cls is TestAwsByPolicy:
        session = of.assume(connector.account, Role("KumomoriScanner"), REGION)
        connector = replace(
            connect(of, session, connector.account, REGION, INSTALLATION), pause=connector.pause, clock=connector.clock
        )
        emulator.restrict("KumomoriScanner", policies.scanner(Setup(INSTALLATION)))
    hasty = of.client(session, "ec2", REGION, config=ONCE)
    return AwsRig(replace(connector, ec2=hasty, settle_seconds=10.0), emulator, ec2)


class TestAws(ConnectorContract):
    pass


class TestAwsByPolicy(ConnectorContract):
    """All of it again by a role that may do what the scanner policy allows, and no more: conditions on tags included."""
