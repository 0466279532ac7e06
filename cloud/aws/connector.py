"""One account in one region: what runs there, and the bytes of its disks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Literal

import boto3

from cloud import Ledger
from cloud.aws.accounts import ONCE, Sessions
from cloud.aws.blocks import SnapshotSource, changed_extents, open_snapshot
from cloud.aws.errors import translated_errors
from cloud.aws.inventory import Rules, attached, instance_id, iter_instances
from cloud.aws.keys import describe_key
from cloud.aws.listing import find_image, find_instance, list_images, list_instances, list_snapshots
from cloud.aws.sharing import ScannerAccount, lent
from cloud.aws.snapshots import KIND, MOST_EXCLUDED, Ours, utc_now
from cloud.aws.tags import OF, plain
from cloud.pace import Quotas
from cloud.store import BlockStore
from core.blocks import Extent
from core.errors import AccessDenied, CloudError, Gone
from core.estate import Disk, Image, Instance, InstanceState, Place, Resource, Snapshot, SnapshotState

if TYPE_CHECKING:
    from mypy_boto3_ebs import EBSClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_kms import KMSClient


@dataclass(frozen=True, slots=True)
class AwsConnector:
    """One account in one region, by the scanner policy of docs/aws.md. Safe to use from many threads.

    `ec2` is for reads and deletions, which the SDK may repeat; `once` for what makes something, which it may not.
    `lifetime_seconds`: when the sweeper may delete what we made. `settle_seconds`: how late EC2 may list.
    `scanner`: the account that reads blocks, if it is another one. `quotas`: those of the account that reads, one object for
    all its connectors in this region. `store`: where blocks are kept, if several disks share one.
    """

    account: str
    region: str
    ec2: EC2Client
    once: EC2Client
    ebs: EBSClient
    kms: KMSClient
    session: boto3.Session
    installation: str
    rules: Rules = field(default_factory=Rules)
    scanner: ScannerAccount | None = None
    quotas: Quotas = field(default_factory=Quotas)
    store: BlockStore | None = None
    endpoint_url: str | None = None
    lifetime_seconds: float = 86400.0
    settle_seconds: float = 30.0
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], datetime] = utc_now
    name: ClassVar[str] = "aws"

    def __post_init__(self) -> None:
        plain("installation's name", self.installation)

    @property
    def place(self) -> Place:
        return Place(self.name, self.account, self.region)

    def instances(self) -> Iterator[Instance]:
        """Streamed. Raises `AccessDenied`, `Throttled`, `CloudError`, also in the middle."""
        return list_instances(self.ec2, self.place, self.rules)

    def instance(self, wanted: str) -> Instance:
        """One of them as it is now. Raises `Gone`, and as `instances`."""
        return find_instance(self.ec2, self.place, self.rules, wanted)

    def image(self, wanted: str) -> Image:
        """Raises `Gone`, `AccessDenied`, `Throttled`, `CloudError`."""
        return find_image(self.ec2, self.place, wanted)

    def images(self, of: Literal["own", "shared"] = "own") -> Iterator[Image]:
        return list_images(self.ec2, self.place, of=of)

    def snapshots(self, of: Literal["own", "shared"] = "own") -> Iterator[Snapshot]:
        return list_snapshots(self.ec2, self.place, of=of)

    def snapshot(self, disks: Sequence[Disk], *, token: str) -> Sequence[Snapshot]:
        """Snapshot `disks` of one instance at one moment, or return what `token` already started; one for each disk.

        Raises `Gone` if the instance is, `Throttled`, `AccessDenied` naming the permission, and `CloudError` if AWS's answer
        was lost and nothing is listed: ask again with the same token. See cloud/aws/snapshots.py for what a token can do.
        """
        plain("token", token)
        if not disks:
            return []
        if len({disk.instance for disk in disks}) != 1:
            raise ValueError("the disks of one snapshot set are those of one instance")
        ours = self.ours()
        refused = self._refused(disks)
        wanted = [disk.id for disk in disks if disk.id not in refused]
        found = ours.find(token)
        if found and wanted:
            found = ours.await_listed(token, wanted)
        elif wanted:
            now, boot = self._attached(disks[0].instance)
            refused |= {disk: "it is not attached to the instance any more" for disk in wanted if disk not in now}
            wanted = [disk for disk in wanted if disk in now]
            found = self._make(ours, disks[0].instance, token, wanted, now, boot) if wanted else []
        by_disk = {one.disk: one for one in reversed(found)}  # the oldest stays: the same one each time
        return [self._of(disk, None if disk.id in refused else by_disk.get(disk.id), refused) for disk in disks]

    def leftovers(self, used: Sequence[Snapshot]) -> Iterator[Resource]:
        """What carries the tokens of `used` and is not among them: a second set of a repeated call, disks not asked for."""
        keep = {one.id for one in used}
        ours = self.ours()
        for token in {one.token for one in used if one.token}:
            yield from (ours.resource(one) for one in ours.find(token) if one.id not in keep)

    def refresh(self, snapshot: Snapshot) -> Snapshot:
        """As it is now. One that was never made stays as it is."""
        return self.ours().refresh(snapshot) if snapshot.id else snapshot

    @contextmanager
    def open(self, snapshot: Snapshot, ledger: Ledger) -> Iterator[SnapshotSource]:
        """Its bytes by the EBS direct APIs; nothing is made, unless another account reads (cloud/aws/sharing.py).

        Raises `Gone`, `CloudError` for one that is not READY, and what `open_snapshot` raises. Leaving ends all threads.
        """
        if snapshot.state is SnapshotState.GONE:
            raise Gone(f"{snapshot}: it is not there any more")
        if snapshot.state is not SnapshotState.READY:
            raise CloudError(f"{snapshot}: it is {snapshot.state.value}: {snapshot.detail or 'wait until it is ready'}")
        with ExitStack() as stack:
            session, readable = self.session, snapshot
            if self.scanner is not None:
                session = self.scanner.session
                readable = stack.enter_context(lent(self.ours(), self.kms, self.scanner, snapshot, ledger))
            try:
                source = stack.enter_context(self._blocks(session, readable))
            except AccessDenied:
                # what is gone has no tags either, by which the policy allows reading
                if self.refresh(readable).state is SnapshotState.GONE:
                    raise Gone(f"{snapshot}: it is not there any more") from None
                raise
            if snapshot.size_bytes not in {0, source.size}:  # of the larger one the end would never be looked at
                raise CloudError(
                    f"{snapshot}: EC2 tells of {snapshot.size_bytes:,} bytes and EBS of {source.size:,}: it cannot be trusted"
                )
            yield source

    def changed(self, old: Snapshot, new: Snapshot) -> Iterator[Extent] | None:
        """In blocks of 512 KiB. None if they are not of one lineage: those of one disk, or of a disk made from `old`, are.

        Raises `AccessDenied` naming ebs:ListChangedBlocks, `Gone`, `Throttled`, `CloudError`, also while the extents are taken.
        """
        if old.place != new.place:
            return None
        return changed_extents(
            self.session,
            old.id,
            new.id,
            region=self.region,
            first_bytes=old.size_bytes,
            second_bytes=new.size_bytes,
            quotas=self.quotas,
            endpoint=self.endpoint_url,
        ).extents

    def _blocks(self, session: boto3.Session, snapshot: Snapshot) -> AbstractContextManager[SnapshotSource]:
        return open_snapshot(
            session, snapshot.id, region=self.region, quotas=self.quotas, endpoint=self.endpoint_url, store=self.store
        )

    def delete(self, resource: Resource) -> None:
        """Delete a snapshot of ours; if only the intention is known, all that it may have made. Raises `CloudError`."""
        if resource.kind != KIND:
            raise CloudError(f"{resource.place}: a {resource.kind!r} is nothing that the AWS connector makes")
        ours = self.ours()
        if resource.id:
            ours.delete(resource.id, resource.token)
            return
        token = plain("token", resource.token)
        for one in (*ours.find(token), *ours.find(token, of=resource.of)):
            if resource.of in ("", one.disk, one.tags.get(OF)):
                ours.delete(one.id, token)

    def owned(self) -> Iterator[Resource]:
        """Snapshots and copies with our tag. Quarantine groups are the responder's and stay."""
        return self.ours().list()

    def ours(self) -> Ours:
        """What carries our tag here, one level below: for checks and for lending to a scanner account."""
        return Ours(
            self.place,
            self.ec2,
            self.once,
            self.installation,
            self.lifetime_seconds,
            self.settle_seconds,
            self.pause,
            self.clock,
        )

    def _refused(self, disks: Sequence[Disk]) -> dict[str, str]:
        """Disks that cannot be snapshotted or whose snapshot could not be read, with the reason. Each key is asked for once."""
        refused = {disk.id: disk.obstacle for disk in disks if disk.obstacle}
        for key in {disk.key for disk in disks if disk.key and not disk.obstacle}:
            try:
                why = describe_key(self.kms, key).obstacle
            except (AccessDenied, Gone) as error:
                why = str(error)
            if why:
                refused |= {disk.id: why for disk in disks if disk.key == key}
        return refused

    def _attached(self, instance: str) -> tuple[set[str], str]:
        """The volumes of `instance` now, and which of them it boots from. Raises `Gone` if it is being terminated."""
        with translated_errors("ec2:DescribeInstances", instance):
            answer = self.ec2.describe_instances(InstanceIds=[instance])
        for raw in iter_instances(answer):
            state, volumes, boot = attached(raw)
            if instance_id(raw) == instance and state is not InstanceState.TERMINATED:
                return volumes, boot
        raise Gone(f"{self.place}/{instance}: the instance was terminated")

    def _make(
        self, ours: Ours, instance: str, token: str, wanted: Sequence[str], now: set[str], boot: str
    ) -> list[Snapshot]:
        without = sorted(now - {boot} - set(wanted))
        if len(without) > MOST_EXCLUDED:
            raise CloudError(
                f"{self.place}/{instance}: AWS leaves out {MOST_EXCLUDED} disks at most, not {len(without)}: scan more of them"
            )
        try:
            return ours.make(
                lambda: ours.create(instance, token, without_boot=boot not in wanted, without=without), token, wanted
            )
        except CloudError:
            self._attached(instance)  # it may have been terminated meanwhile: then that is what to say
            raise

    def _of(self, disk: Disk, found: Snapshot | None, refused: Mapping[str, str]) -> Snapshot:
        if found is None:
            why = refused.get(disk.id, "it is not in the set of snapshots that AWS made")
            return Snapshot(
                self.place,
                "",
                disk.id,
                disk.instance,
                disk.device,
                disk.size_bytes,
                SnapshotState.FAILED,
                why,
                encrypted=disk.encrypted,
                key=disk.key,
            )
        return replace(found, instance=disk.instance, device=disk.device)


def connect(
    sessions: Sessions,
    session: boto3.Session,
    account: str,
    region: str,
    installation: str,
    *,
    rules: Rules | None = None,
    scanner: ScannerAccount | None = None,
) -> AwsConnector:
    """The connector of `account` in `region`. Raises `ConfigError` without credentials or for a bad name."""
    return AwsConnector(
        account,
        region,
        ec2=sessions.client(session, "ec2", region),
        once=sessions.client(session, "ec2", region, config=ONCE),
        ebs=sessions.client(session, "ebs", region),
        kms=sessions.client(session, "kms", region),
        session=session,
        installation=installation,
        rules=rules or Rules(),
        scanner=scanner,
        endpoint_url=sessions.endpoint_url,
    )
