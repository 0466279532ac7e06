"""Snapshots that we make: tagged, found again by token, copied, waited for, deleted. EC2 takes no token for any of it.

Finding by token: EC2 lists late, and neither CreateSnapshots nor CopySnapshot takes a client token. So the calls that make
something are never repeated by the SDK; after an answer that was lost we look for `settle_seconds` whether it was made all
the same. What remains possible: a process that dies between the call and its note, and is started again before the listing
shows the set, makes a second one. It carries the same token, so `AwsConnector.leftovers` finds it and the sweeper deletes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from cloud.aws.errors import error_code, translated_errors
from cloud.aws.inventory import to_snapshot
from cloud.aws.listing import list_snapshots
from cloud.aws.tags import EXPIRES, INSTALLATION, INSTANCE, OF, TOKEN, mark, tag_filter, tag_list, to_time
from core.errors import AccessDenied, CloudError, Gone, Throttled
from core.estate import Place, Resource, Snapshot, SnapshotState

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

KIND: Final = "snapshot"
MOST_EXCLUDED: Final = 40  # AWS's maximum in ExcludeDataVolumeIds
_POLL_SECONDS: Final = 2.0


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Ours:
    """What carries the tag of `installation` in one place. `once` is a client whose calls the SDK does not repeat."""

    place: Place
    ec2: EC2Client
    once: EC2Client
    installation: str
    lifetime_seconds: float = 86400.0
    settle_seconds: float = 30.0
    pause: Callable[[float], None] = time.sleep
    clock: Callable[[], datetime] = utc_now

    def create(self, instance: str, token: str, *, without_boot: bool, without: Sequence[str]) -> None:
        """Snapshot all volumes of `instance` but those. Raises `CloudError` if it is not known whether that was done."""
        asked: dict[str, Any] = {"InstanceId": instance, "ExcludeBootVolume": without_boot}
        if without:
            asked["ExcludeDataVolumeIds"] = list(without)
        with translated_errors("ec2:CreateSnapshots", instance):
            self.once.create_snapshots(
                InstanceSpecification=asked,  # type: ignore[arg-type]
                Description=f"Kumomori scan of {instance} {mark(self.installation, token)}",
                TagSpecifications=[self._tagged(token, {INSTANCE: instance})],
            )

    def try_create(self, instance: str) -> None:
        """Whether `create` would be allowed, as the SDK says it."""
        self.once.create_snapshots(
            InstanceSpecification={"InstanceId": instance},
            TagSpecifications=[self._tagged("check", {INSTANCE: instance})],
            DryRun=True,
        )

    def copy(self, snapshot: Snapshot, token: str, key: str) -> None:
        """Copy `snapshot` within its region, encrypted with `key`. Raises as `create`."""
        with translated_errors("ec2:CopySnapshot", snapshot.id):
            self.once.copy_snapshot(
                SourceRegion=snapshot.place.region,
                SourceSnapshotId=snapshot.id,
                Encrypted=True,
                KmsKeyId=key,
                Description=f"Kumomori copy of {snapshot.id} {mark(self.installation, token)}",
                TagSpecifications=[self._tagged(token, {OF: snapshot.id, INSTANCE: snapshot.instance})],
            )

    def find(self, token: str, *, of: str | None = None) -> list[Snapshot]:
        """All of `token`, oldest first: the ones made of disks, or the copies made `of` a snapshot."""
        filters = [tag_filter(TOKEN, token), tag_filter(INSTALLATION, self.installation)]
        found = [
            one
            for one in list_snapshots(self.ec2, self.place, filters=filters)
            if one.tags.get(TOKEN) == token and self.owns(one) and one.tags.get(OF) == of
        ]
        return sorted(found, key=lambda one: (one.started or datetime.max.replace(tzinfo=UTC), one.id))

    def await_listed(self, token: str, wanted: Iterable[str], *, of: str | None = None) -> list[Snapshot]:
        """As `find`, but looks again until all `wanted` disks (or any copy) are there, or `settle_seconds` have passed."""
        wanted = set(wanted)
        waited = 0.0
        while True:
            found = self.find(token, of=of)
            complete = bool(found) if of else wanted <= {one.disk for one in found}
            if complete or waited >= self.settle_seconds:
                return found
            self.pause(_POLL_SECONDS)
            waited += _POLL_SECONDS

    def make(
        self, make: Callable[[], None], token: str, wanted: Iterable[str], *, of: str | None = None
    ) -> list[Snapshot]:
        """Call `make`, and find what it made; also when its answer was lost. Raises what it raised if it made nothing."""
        try:
            make()
        except (AccessDenied, Throttled, Gone):
            raise  # AWS refused: nothing was made
        except CloudError:
            if found := self.await_listed(token, wanted, of=of):
                return found
            raise
        return self.await_listed(token, wanted, of=of)

    def refresh(self, snapshot: Snapshot) -> Snapshot:
        """As AWS has it now; GONE if it is not there. One made a moment ago may not be listed yet: that is still PENDING."""
        try:
            with translated_errors("ec2:DescribeSnapshots", snapshot.id):
                answer = self.ec2.describe_snapshots(SnapshotIds=[snapshot.id])
        except Gone:
            return self._unlisted(snapshot)
        for raw in answer.get("Snapshots", ()):
            found = to_snapshot(raw, snapshot.place)
            if found.id == snapshot.id:
                return _with_what_we_know(found, snapshot)
        return self._unlisted(snapshot)

    def delete(self, snapshot: str, token: str) -> None:
        """One that was made with `token`. Raises `CloudError` for one that is not ours; one that is gone is fine."""
        found = self.refresh(Snapshot(self.place, snapshot, state=SnapshotState.READY))
        if found.state is SnapshotState.GONE:
            return
        if not self.owns(found, token):
            raise CloudError(
                f"{found}: it does not carry the tag {INSTALLATION}={self.installation} and the mark of ours in its "
                "description, so it stays"
            )
        try:
            with translated_errors("ec2:DeleteSnapshot", snapshot):
                self.ec2.delete_snapshot(SnapshotId=snapshot)
        except Gone:
            pass

    def list(self) -> Iterator[Resource]:
        """All that carries our tag, copies included."""
        for snapshot in list_snapshots(self.ec2, self.place, filters=[tag_filter(INSTALLATION, self.installation)]):
            if self.owns(snapshot):
                yield self.resource(snapshot)

    def of_others(self) -> Iterator[tuple[str, Resource]]:
        """What other installations made here, each with its name; only what their marks prove to be theirs."""
        for snapshot in list_snapshots(self.ec2, self.place, filters=[{"Name": "tag-key", "Values": [INSTALLATION]}]):
            name = snapshot.tags.get(INSTALLATION, "")
            if name != self.installation and replace(self, installation=name).owns(snapshot):
                yield name, self.resource(snapshot)

    def owns(self, snapshot: Snapshot, token: str | None = None) -> bool:
        """Whether we made it, with `token` (else the one in its tags): by its tag, and by its description, see `mark`."""
        made = mark(self.installation, snapshot.token if token is None else token)
        return snapshot.tags.get(INSTALLATION) == self.installation and snapshot.description.endswith(made)

    def resource(self, snapshot: Snapshot) -> Resource:
        """As the ledger has it. Without a readable expiry it is that of one made when AWS says it was started."""
        expires = to_time(snapshot.tags.get(EXPIRES, "")) or (
            (snapshot.started or self.clock()) + timedelta(seconds=self.lifetime_seconds)
        )
        of = snapshot.tags.get(OF) or snapshot.disk
        return Resource(snapshot.place, KIND, snapshot.id, snapshot.token, self.installation, expires, of)

    def intention(self, token: str, of: str) -> Resource:
        """What the ledger is told before something is made."""
        return Resource(self.place, KIND, "", token, self.installation, self._expiry(), of)

    def _expiry(self) -> datetime:
        return (self.clock() + timedelta(seconds=self.lifetime_seconds)).replace(microsecond=0)

    def _tagged(self, token: str, more: Mapping[str, str]) -> Any:
        tags = {INSTALLATION: self.installation, TOKEN: token, EXPIRES: self._expiry().isoformat(), **more}
        return {"ResourceType": "snapshot", "Tags": tag_list(tags)}

    def _unlisted(self, snapshot: Snapshot) -> Snapshot:
        young = snapshot.started and self.clock() - snapshot.started < timedelta(seconds=self.settle_seconds)
        if snapshot.state is SnapshotState.PENDING and young:
            return snapshot
        return replace(snapshot, state=SnapshotState.GONE, detail="it is not there any more")


def dry_run(call: Callable[[], object]) -> None:
    """Make a call with `DryRun`: returns if it would be allowed, raises the SDK's error otherwise."""
    try:
        call()
    except ClientError as error:
        if error_code(error) != "DryRunOperation":
            raise


def _with_what_we_know(found: Snapshot, before: Snapshot) -> Snapshot:
    return replace(
        found,
        disk=found.disk or before.disk,
        instance=found.instance or before.instance,
        device=found.device or before.device,
    )
