"""A small estate on the emulated AWS: one server that is all right, one that was broken into, one that may not be read.

with EmulatedAws() as aws:
    estate = fill(aws)
    estate["shop-1"].instance            # "i-…"; .boot and .volumes name its volumes, .planted what is bad on them
    estate.change("web-1", disk.file(b"/srv/new.txt", "new"))          # what its next snapshot holds
    first, second = estate.clones(2)     # instances made of an image of web-1
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from demo import disk
from demo.aws.content import Content
from demo.aws.emulator import ACCOUNT, REGION, EmulatedAws
from demo.ext4 import Node

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

SCANNER_ROLE = "KumomoriScanner"
BOOT, DATA = "/dev/sda1", "/dev/sdf"
_PAGE = 4096


class Builder(Protocol):
    """Writes a disk of `size` bytes with `changes` to a file: one of `demo.disk`."""

    def __call__(self, path: Path, *, size: int, changes: Iterable[Node]) -> None: ...


@dataclass
class Volume:
    """A volume and how to build what is on it."""

    id: str
    device: str
    builder: Builder
    changes: dict[bytes, Node] = field(default_factory=dict)


@dataclass
class Machine:
    """An instance with its volumes by device; `planted` are the paths, by device, that a scan should say something about."""

    name: str
    instance: str
    volumes: dict[str, Volume]
    planted: dict[str, tuple[bytes, ...]] = field(default_factory=dict)

    @property
    def boot(self) -> str:
        """The id of the boot volume."""
        return self.volumes[BOOT].id


@dataclass
class Estate:
    """The machines by name. `key` is the KMS key of vault-1, which the role `scanner` may not use."""

    aws: EmulatedAws
    account: str
    region: str
    scanner: str
    key: str
    machines: dict[str, Machine] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.machines.values())

    def content(self, name: str, device: str = BOOT) -> Content:
        """The bytes of a machine's disk, now."""
        return self.aws.volume(self[name].volumes[device].id, self.account, self.region)

    def change(self, name: str, *files: Node, device: str = BOOT) -> list[int]:
        """Add or replace `files` (see `disk.file`) on a disk, as its machine would; the pages that differ now, by number.

        A file keeps its time: only blocks tell that it was overwritten. A page has 4,096 bytes.
        """
        volume = self[name].volumes[device]
        volume.changes |= {node.path: node for node in files}
        content = self.content(name, device)
        fresh = content.path.with_suffix(".new")
        volume.builder(fresh, size=content.size_bytes, changes=volume.changes.values())
        try:
            return _rewrite(content, Content(fresh, content.size_bytes, ""))
        finally:
            fresh.unlink()

    def clones(self, count: int, of: str = "web-1") -> list[Machine]:
        """`count` new instances from an image made of a machine, named `…-clone-1` and so on."""
        ec2: EC2Client = self.aws.client("ec2", self.account, self.region)
        origin = self[of]
        number = len(self.machines)
        image = ec2.create_image(InstanceId=origin.instance, Name=f"{of}-{number}")["ImageId"]
        made = []
        for one in range(1, count + 1):
            name = f"{of}-clone-{number + one - len(ORDER)}"
            found = ec2.run_instances(
                ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, TagSpecifications=[_named(name)]
            )
            instance = found["Instances"][0]["InstanceId"]
            devices = _volumes(ec2, instance)
            volumes = {
                device: Volume(devices[device], device, volume.builder, dict(volume.changes))
                for device, volume in origin.volumes.items()
            }
            self.machines[name] = Machine(name, instance, volumes, dict(origin.planted))
            made.append(self.machines[name])
        return made


@dataclass(frozen=True)
class _Plan:
    builders: dict[str, Builder]
    planted: dict[str, tuple[bytes, ...]]
    encrypted: bool = False


ORDER = ("web-1", "shop-1", "vault-1")
_PLANS = {
    "web-1": _Plan({BOOT: disk.build_clean}, {}),
    "shop-1": _Plan({BOOT: disk.build, DATA: disk.build_data}, {BOOT: disk.PLANTED, DATA: disk.PLANTED_DATA}),
    "vault-1": _Plan({BOOT: disk.build}, {BOOT: disk.PLANTED}, encrypted=True),
}


def fill(aws: EmulatedAws, account: str = ACCOUNT, region: str = REGION) -> Estate:
    """Run the three machines, each on volumes of 1 GiB with little on them. Takes about two seconds."""
    ec2: EC2Client = aws.client("ec2", account, region)
    key = str(aws.client("kms", account, region).create_key(Description="vault-1")["KeyMetadata"]["Arn"])
    scanner = f"arn:aws:iam::{account}:role/{SCANNER_ROLE}"
    aws.deny("kms:*", principal=scanner, resource=key, standing=True)
    estate = Estate(aws, account, region, scanner, key)
    for name in ORDER:
        plan = _PLANS[name]
        mappings: list[Any] = [_mapping(device, key if plan.encrypted else "") for device in plan.builders]
        found = ec2.run_instances(
            ImageId="ami-0123456789abcdef0",
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            BlockDeviceMappings=mappings,
            TagSpecifications=[_named(name)],
        )
        instance = found["Instances"][0]["InstanceId"]
        devices = _volumes(ec2, instance)
        volumes = {device: Volume(devices[device], device, builder) for device, builder in plan.builders.items()}
        estate.machines[name] = Machine(name, instance, volumes, dict(plan.planted))
        for device, volume in volumes.items():
            content = estate.content(name, device)
            volume.builder(content.path, size=content.size_bytes, changes=())
    return estate


def _mapping(device: str, key: str) -> dict[str, Any]:
    ebs: dict[str, Any] = {"VolumeSize": 1, "VolumeType": "gp3", "DeleteOnTermination": True}
    return {"DeviceName": device, "Ebs": ebs | ({"Encrypted": True, "KmsKeyId": key} if key else {})}


def _named(name: str) -> Any:
    return {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}


def _volumes(ec2: EC2Client, instance: str) -> dict[str, str]:
    """The volumes of an instance by device."""
    found = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    return {mapping["DeviceName"]: mapping["Ebs"]["VolumeId"] for mapping in found["BlockDeviceMappings"]}


def _rewrite(content: Content, fresh: Content) -> list[int]:
    """Write to `content` the pages that differ in `fresh`; their numbers."""
    old = dict(content.blocks())
    new = dict(fresh.blocks())
    differ: list[int] = []
    for index in sorted({*old, *new}):
        before, after = old.get(index, b""), new.get(index, b"")
        if before == after:
            continue
        size = max(len(before), len(after))
        before, after = before.ljust(size, b"\0"), after.ljust(size, b"\0")
        for at in range(0, size, _PAGE):
            if before[at : at + _PAGE] != after[at : at + _PAGE]:
                content.write(index * size + at, after[at : at + _PAGE])
                differ.append((index * size + at) // _PAGE)
    return differ
