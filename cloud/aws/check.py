"""Can I do all that a scan needs? Each permission is tried without changing anything.

EC2's own `DryRun` where it exists, a harmless read elsewhere. What the policy allows for our own snapshots only can be tried
only if one exists; without one it is said to be untried, never to be fine. The same with an encrypted snapshot for kms:Decrypt,
which the policy allows through EBS only, so that no call of ours could try it.
Source: EC2 API reference, "DryRun"; KMS Developer Guide, kms:ViaService.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from cloud.aws.connector import AwsConnector
from cloud.aws.errors import translated_errors
from cloud.aws.keys import describe_key
from cloud.aws.permissions import advice
from cloud.aws.snapshots import dry_run
from core.errors import AccessDenied, CloudError, Error
from core.estate import Disk, Instance, Snapshot, SnapshotState

MOST_INSTANCES: Final = 200  # whose keys are looked at


@dataclass(frozen=True, slots=True)
class Checked:
    """`ok` is None if it could not be tried; `detail` says why, or what AWS said; `advice` what to add if it is denied."""

    permission: str
    ok: bool | None
    detail: str = ""
    advice: str = ""


def check(connector: AwsConnector) -> Iterator[Checked]:
    """Every permission of the scanner policy, one after the other. Raises nothing: what AWS says is in the results."""
    ec2 = connector.ec2
    place = str(connector.place)
    small: Any = {"MaxResults": 5}
    yield _tried("ec2:DescribeRegions", place, lambda: ec2.describe_regions(DryRun=True))
    yield _tried("ec2:DescribeInstances", place, lambda: ec2.describe_instances(DryRun=True, **small))
    yield _tried("ec2:DescribeVolumes", place, lambda: ec2.describe_volumes(DryRun=True, **small))
    yield _tried("ec2:DescribeInstanceTypes", place, lambda: ec2.describe_instance_types(DryRun=True, **small))
    yield _tried("ec2:DescribeSnapshots", place, lambda: ec2.describe_snapshots(DryRun=True, **small))
    yield _tried("ec2:DescribeImages", place, lambda: ec2.describe_images(DryRun=True, Owners=["self"]))
    instances = _some(lambda: islice(connector.instances(), MOST_INSTANCES))
    yield _create(connector, instances)
    owned = [one for one in _some(lambda: connector.snapshots("own")) if connector.ours().owns(one)]
    owned.sort(key=lambda one: bool(one.key))  # the permissions to read show best where no key is in the way
    yield from _ours(connector, owned)
    yield from _keys(connector, instances, owned)


def _create(connector: AwsConnector, instances: list[Instance]) -> Checked:
    permission = "ec2:CreateSnapshots"
    able = next((one for one in instances if not one.excluded and any(not disk.obstacle for disk in one.disks)), None)
    if able is None:
        return Checked(permission, None, "there is no instance to try it on")
    return _tried(permission, able.id, lambda: connector.ours().try_create(able.id))


def _ours(connector: AwsConnector, owned: list[Snapshot]) -> Iterator[Checked]:
    ec2 = connector.ec2
    one = owned[0] if owned else None
    if one is None:
        for permission in _ON_OURS:
            yield Checked(permission, None, "there is no snapshot of ours to try it on: scan once, then check again")
        return
    yield _tried("ec2:DeleteSnapshot", one.id, lambda: ec2.delete_snapshot(SnapshotId=one.id, DryRun=True))
    if scanner := connector.scanner:
        yield _tried(
            "ec2:ModifySnapshotAttribute",
            one.id,
            lambda: ec2.modify_snapshot_attribute(
                SnapshotId=one.id,
                Attribute="createVolumePermission",
                OperationType="add",
                UserIds=[scanner.account],
                DryRun=True,
            ),
        )
    ready = next((found for found in owned if found.state is SnapshotState.READY), None)
    if ready is None:
        for permission in _READS:
            yield Checked(permission, None, "no snapshot of ours is ready")
        return
    yield from _reads(connector, ready)


_READS: Final = ("ebs:ListSnapshotBlocks", "ebs:ListChangedBlocks", "ebs:GetSnapshotBlock")
_ON_OURS: Final = ("ec2:DeleteSnapshot", *_READS)


def _reads(connector: AwsConnector, snapshot: Snapshot) -> Iterator[Checked]:
    ebs = connector.ebs
    blocks: list[Any] = []

    def listed() -> None:
        blocks.extend(ebs.list_snapshot_blocks(SnapshotId=snapshot.id, MaxResults=100).get("Blocks", ()))

    yield _tried("ebs:ListSnapshotBlocks", snapshot.id, listed)
    yield _tried(
        "ebs:ListChangedBlocks",
        snapshot.id,
        lambda: ebs.list_changed_blocks(SecondSnapshotId=snapshot.id, MaxResults=100),
    )
    if not blocks:
        yield Checked("ebs:GetSnapshotBlock", None, f"{snapshot.id} has no block to try it on")
        return

    def got() -> None:
        first = blocks[0]
        answer = ebs.get_snapshot_block(
            SnapshotId=snapshot.id, BlockIndex=first["BlockIndex"], BlockToken=first["BlockToken"]
        )
        answer["BlockData"].close()

    yield _tried("ebs:GetSnapshotBlock", snapshot.id, got)


def _keys(connector: AwsConnector, instances: list[Instance], owned: list[Snapshot]) -> Iterator[Checked]:
    disks: list[Disk] = [disk for instance in instances for disk in instance.disks]
    for key in sorted({disk.key for disk in disks if disk.key}):
        try:
            found = describe_key(connector.kms, key)
        except CloudError as error:
            yield _failed("kms:DescribeKey", error)
            continue
        yield Checked("kms:DescribeKey", ok=not found.obstacle, detail=found.obstacle or f"key {key}")
        sample = next((one for one in owned if one.key == key and one.state is SnapshotState.READY), None)
        if sample is None:
            yield Checked("kms:Decrypt", None, f"key {key}: there is no snapshot of ours under it to try it on")
            continue
        reads = list(_reads(connector, sample))
        # a list may be refused for want of the key, too
        last = next((one for one in reads if one.permission == "kms:Decrypt"), reads[-1])
        if last.ok or last.permission == "kms:Decrypt":
            yield Checked("kms:Decrypt", last.ok, last.detail or f"key {key}", last.advice)
        else:
            failed = next((f"{one.permission} fails before it" for one in reads if one.ok is False), last.detail)
            yield Checked("kms:Decrypt", None, f"key {key}: {failed}")


def _tried(permission: str, subject: str, call: Callable[[], object]) -> Checked:
    try:
        with translated_errors(permission, subject):
            dry_run(call)
    except Error as error:
        return _failed(permission, error)
    return Checked(permission, ok=True)


def _failed(permission: str, error: Error) -> Checked:
    if isinstance(error, AccessDenied):
        return Checked(error.permission, ok=False, detail=str(error), advice=advice(error.permission))
    return Checked(permission, ok=False, detail=str(error))


def _some(listed: Callable[[], Any]) -> list[Any]:
    """What can be listed; that it cannot has been said already."""
    try:
        return list(listed())
    except CloudError:
        return []
