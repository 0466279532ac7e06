"""Answers of EC2 as our nouns. Pure functions; an answer is untrusted, so a missing or odd field has a default.

Source: EC2 API reference, types Instance, Volume, Snapshot, Image, InstanceTypeInfo.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from cloud.aws.tags import EXCLUDE, INSTANCE, OF, TOKEN, to_tags
from core.errors import CloudError, ConfigError
from core.estate import Disk, Image, Instance, InstanceState, Place, Snapshot, SnapshotState

MOST_DISKS: Final = 200  # an instance has at most 128 volumes
_MOST_TEXT: Final = 512
_MOST_GIB: Final = 1 << 20  # 1 PiB; AWS allows 64 TiB
_EMPTY: Final[Mapping[str, Any]] = {}

_STATES: Final = {
    "pending": InstanceState.PENDING,
    "running": InstanceState.RUNNING,
    "stopping": InstanceState.STOPPED,
    "stopped": InstanceState.STOPPED,
    "shutting-down": InstanceState.TERMINATED,
    "terminated": InstanceState.TERMINATED,
}
_SNAPSHOT_STATES: Final = {
    "pending": SnapshotState.PENDING,
    "recovering": SnapshotState.PENDING,
    "completed": SnapshotState.READY,
    "error": SnapshotState.FAILED,
    "recoverable": SnapshotState.GONE,  # in the recycle bin
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator says about tags: `exclude` are `KEY` or `KEY=VALUE`, `owner_tag` names who pays.

    Raises `ConfigError` for an empty key.
    """

    exclude: tuple[str, ...] = (EXCLUDE,)
    owner_tag: str = ""

    def __post_init__(self) -> None:
        if not all(rule.partition("=")[0].strip() for rule in self.exclude):
            raise ConfigError("a tag that excludes is KEY or KEY=VALUE, the key not empty")

    def excluded(self, tags: Mapping[str, str]) -> str:
        """Which tag leaves the instance out, as `tag KEY=VALUE`; empty if none does."""
        for rule in self.exclude:
            key, wants, value = rule.partition("=")
            if key in tags and (not wants or tags[key] == value):
                return f"tag {key}={tags[key]}"
        return ""


class Volume(NamedTuple):
    """What DescribeVolumes knows of a disk and DescribeInstances does not."""

    size_bytes: int
    kind: str
    encrypted: bool
    key: str


class LocalDisks(NamedTuple):
    """The instance storage of an instance type: `disks` disks of `size_bytes` each."""

    disks: int
    size_bytes: int
    kind: str


def iter_instances(page: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The instances of one page of DescribeInstances."""
    for reservation in _list(page, "Reservations"):
        if isinstance(reservation, dict):
            for raw in _list(reservation, "Instances"):
                if isinstance(raw, dict):
                    yield raw


def instance_id(raw: Mapping[str, Any]) -> str:
    """Raises `CloudError` if there is none: nothing can be done with such an instance."""
    found = _text(raw, "InstanceId")
    if not found:
        raise CloudError("ec2:DescribeInstances: an instance without an id")
    return found


def to_instance(
    raw: Mapping[str, Any],
    place: Place,
    rules: Rules,
    volumes: Mapping[str, Volume],
    local: Sequence[LocalDisks] = (),
) -> Instance:
    """`volumes` are those attached to it by their id, `local` its type's instance storage. Raises `CloudError` without an id."""
    found = instance_id(raw)
    tags = to_tags(raw.get("Tags"))
    return Instance(
        place=place,
        id=found,
        name=tags.get("Name", ""),
        state=_STATES.get(_text(_dict(raw, "State"), "Name"), InstanceState.UNKNOWN),
        image=_text(raw, "ImageId"),
        os=_os(raw),
        architecture=_text(raw, "Architecture"),
        kind=_text(raw, "InstanceType"),
        owner=tags.get(rules.owner_tag) or place.account,
        launched=_time(raw, "LaunchTime"),
        zone=_text(_dict(raw, "Placement"), "AvailabilityZone"),
        network=_text(raw, "VpcId"),
        subnet=_text(raw, "SubnetId"),
        addresses=_addresses(raw),
        security_groups=tuple(_texts(raw, "SecurityGroups", "GroupId")),
        tags=tags,
        disks=(*_disks(raw, found, place, volumes), *_local(raw, found, place, local)),
        excluded=rules.excluded(tags),
    )


def attached(raw: Mapping[str, Any]) -> tuple[InstanceState, set[str], str]:
    """Its state, the volumes of an instance, and which of them it boots from (empty: none)."""
    state = _STATES.get(_text(_dict(raw, "State"), "Name"), InstanceState.UNKNOWN)
    root = _text(raw, "RootDeviceName")
    volumes: set[str] = set()
    boot = ""
    for one in _list(raw, "BlockDeviceMappings")[:MOST_DISKS]:
        if isinstance(one, dict) and (found := _text(_dict(one, "Ebs"), "VolumeId")):
            volumes.add(found)
            boot = found if _text(one, "DeviceName") == root else boot
    return state, volumes, boot


def to_volume(raw: object) -> tuple[str, Volume] | None:
    """A volume's id and facts; None for something that has no id."""
    if not isinstance(raw, dict):
        return None
    found = _text(raw, "VolumeId")
    if not found:
        return None
    return found, Volume(
        _gib(raw.get("Size")), _text(raw, "VolumeType"), raw.get("Encrypted") is True, _text(raw, "KmsKeyId")
    )


def to_local(raw: object) -> tuple[str, tuple[LocalDisks, ...]] | None:
    """An instance type's name and its instance storage, from DescribeInstanceTypes."""
    if not isinstance(raw, dict) or not _text(raw, "InstanceType"):
        return None
    disks = []
    for one in _list(_dict(raw, "InstanceStorageInfo"), "Disks")[:8]:
        if isinstance(one, dict):
            count = min(max(_int(one.get("Count")), 0), 64)
            disks.append(LocalDisks(count, max(_int(one.get("SizeInGB")), 0) * 10**9, _text(one, "Type")))
    return _text(raw, "InstanceType"), tuple(disks)


def to_snapshot(raw: object, place: Place) -> Snapshot:
    """Of DescribeSnapshots, CreateSnapshots or CopySnapshot. Raises `CloudError` without an id."""
    if not isinstance(raw, dict) or not _text(raw, "SnapshotId"):
        raise CloudError("ec2:DescribeSnapshots: a snapshot without an id")
    tags = to_tags(raw.get("Tags"))
    state = _SNAPSHOT_STATES.get(_text(raw, "State"), SnapshotState.PENDING)
    detail = _text(raw, "StateMessage")
    if state is SnapshotState.READY and _text(raw, "StorageTier") == "archive":
        state, detail = SnapshotState.FAILED, "it is archived: restore it to the standard tier to read it"
    return Snapshot(
        place=place,
        id=_text(raw, "SnapshotId"),
        disk="" if OF in tags else _text(raw, "VolumeId"),  # a copy's volume id is arbitrary
        instance=tags.get(INSTANCE, ""),
        size_bytes=_gib(raw.get("VolumeSize")),
        state=state,
        detail=detail,
        progress_percent=_percent(_text(raw, "Progress"), state),
        started=_time(raw, "StartTime"),
        owner=_text(raw, "OwnerId"),
        encrypted=raw.get("Encrypted") is True,
        key=_text(raw, "KmsKeyId"),
        token=tags.get(TOKEN, ""),
        tags=tags,
        description=_text(raw, "Description"),
    )


def to_image(raw: object, place: Place) -> Image:
    """Raises `CloudError` without an id."""
    if not isinstance(raw, dict) or not _text(raw, "ImageId"):
        raise CloudError("ec2:DescribeImages: an image without an id")
    root = _text(raw, "RootDeviceName")
    mapped = [one for one in _list(raw, "BlockDeviceMappings")[:MOST_DISKS] if isinstance(one, dict)]
    mapped.sort(key=lambda one: _text(one, "DeviceName") != root)
    return Image(
        place=place,
        id=_text(raw, "ImageId"),
        name=_text(raw, "Name"),
        os=_os(raw),
        architecture=_text(raw, "Architecture"),
        owner=_text(raw, "OwnerId"),
        created=_parsed_time(_text(raw, "CreationDate")),
        snapshots=tuple(found for one in mapped if (found := _text(_dict(one, "Ebs"), "SnapshotId"))),
        tags=to_tags(raw.get("Tags")),
    )


def _disks(raw: Mapping[str, Any], instance: str, place: Place, volumes: Mapping[str, Volume]) -> Iterator[Disk]:
    root = raw.get("RootDeviceName")
    for number, mapping in enumerate(_list(raw, "BlockDeviceMappings")[:MOST_DISKS]):
        if not isinstance(mapping, dict):
            continue
        found, device = _text(_dict(mapping, "Ebs"), "VolumeId"), _text(mapping, "DeviceName")
        if not found:  # a disk is there all the same: it must not be passed over
            why = "AWS does not say which volume it is"
            yield Disk(place, f"{instance}:{device or number}", instance, device, boot=device == root, obstacle=why)
        else:
            size, kind, encrypted, key = volumes.get(found, _UNKNOWN)
            yield Disk(place, found, instance, device, size, device == root, kind, encrypted, key)


_UNKNOWN: Final = Volume(0, "", encrypted=False, key="")


def _local(raw: Mapping[str, Any], instance: str, place: Place, local: Sequence[LocalDisks]) -> Iterator[Disk]:
    why = "instance storage: it has no snapshots"
    if raw.get("RootDeviceType") == "instance-store":
        yield Disk(place, f"{instance}:root", instance, _text(raw, "RootDeviceName"), boot=True, obstacle=why)
    number = 0
    for disks in local:
        for _ in range(disks.disks):
            yield Disk(
                place, f"{instance}:local{number}", instance, size_bytes=disks.size_bytes, kind=disks.kind, obstacle=why
            )
            number += 1


def _os(raw: Mapping[str, Any]) -> str:
    """linux, windows or macos. EC2 knows no more of an instance; the distribution is found on the disk."""
    if _text(raw, "Platform").lower() == "windows" or _text(raw, "PlatformDetails").startswith("Windows"):
        return "windows"
    architecture = _text(raw, "Architecture")
    if architecture.endswith("_mac"):
        return "macos"
    return "linux" if _text(raw, "PlatformDetails") or architecture else ""


def _addresses(raw: Mapping[str, Any]) -> tuple[str, ...]:
    found = [_text(raw, "PrivateIpAddress"), _text(raw, "PublicIpAddress"), _text(raw, "Ipv6Address")]
    for card in _list(raw, "NetworkInterfaces")[:32]:
        if isinstance(card, dict):
            found += _texts(card, "PrivateIpAddresses", "PrivateIpAddress")
            found += _texts(card, "Ipv6Addresses", "Ipv6Address")
    return tuple(dict.fromkeys(one for one in found if one))


def _list(raw: Mapping[str, Any], key: str) -> list[Any]:
    found = raw.get(key)
    return found if isinstance(found, list) else []


def _dict(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, dict) else _EMPTY


def _text(raw: Mapping[str, Any], key: str) -> str:
    found = raw.get(key)
    return found[:_MOST_TEXT] if isinstance(found, str) else ""


def _texts(raw: Mapping[str, Any], key: str, inner: str) -> list[str]:
    return [found for one in _list(raw, key)[:64] if isinstance(one, dict) and (found := _text(one, inner))]


def _int(raw: object) -> int:
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else 0


def _gib(raw: object) -> int:
    size = _int(raw)
    return size << 30 if 0 < size <= _MOST_GIB else 0


def _percent(text: str, state: SnapshotState) -> int:
    digits = text.rstrip("%")
    if digits.isascii() and digits.isdigit() and len(digits) < 4:
        return min(int(digits), 100)
    return 100 if state is SnapshotState.READY else 0


def _time(raw: Mapping[str, Any], key: str) -> datetime | None:
    found = raw.get(key)
    if not isinstance(found, datetime):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _parsed_time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
