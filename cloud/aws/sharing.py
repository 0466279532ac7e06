"""Lending a snapshot to a scanner account: shared, and re-encrypted first where its key or its owner forbids that.

AWS's own default key (aws/ebs) cannot be used from another account, so what it encrypts is copied under a key that can. A
snapshot that we did not make is never modified: it is copied too, and the copy shared. Copies are in the ledger before they
are made and deleted at the end. What a dead process left shared is a snapshot of ours, which the sweeper deletes.
Source: EBS User Guide, "Share an Amazon EBS snapshot"; EC2 API reference, ModifySnapshotAttribute, CopySnapshot.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import boto3

from cloud import Ledger
from cloud.aws.errors import translated_errors
from cloud.aws.keys import COPYING, Key, describe_key
from cloud.aws.permissions import advice
from cloud.aws.snapshots import Ours
from core.errors import CloudError, Gone
from core.estate import Snapshot, SnapshotState

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

_POLL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class ScannerAccount:
    """Who reads: `account` with `session`. `copy_key` is a customer's key that both accounts may use; without it what would
    have to be copied cannot be lent. `copy_seconds` is how long a copy may take."""

    account: str
    session: boto3.Session
    copy_key: str = ""
    copy_seconds: float = 7200.0


@contextmanager
def lent(ours: Ours, kms: KMSClient, scanner: ScannerAccount, snapshot: Snapshot, ledger: Ledger) -> Iterator[Snapshot]:
    """`snapshot`, or a copy of it, readable by the scanner account until the end. Raises `AccessDenied`, `CloudError`."""
    key = describe_key(kms, snapshot.key) if snapshot.encrypted and snapshot.key else None
    if key and key.obstacle:
        raise CloudError(f"{snapshot}: {key.obstacle}")
    if ours.owns(snapshot) and not (key and key.provider_managed):
        with _shared(ours, scanner, snapshot):
            yield snapshot
        return
    with (
        _copied(ours, scanner, snapshot, _copy_key(kms, scanner, snapshot, key), ledger) as copy,
        _shared(ours, scanner, copy),
    ):
        yield copy


def _copy_key(kms: KMSClient, scanner: ScannerAccount, snapshot: Snapshot, key: Key | None) -> str:
    why = "AWS's own key encrypts it, which cannot be shared" if key else "it is not ours to share"
    if not scanner.copy_key:
        raise CloudError(f"{snapshot}: {why}: name a customer's key for copies, or read it in its own account")
    found = describe_key(kms, scanner.copy_key)
    if found.provider_managed:
        raise CloudError(f"{snapshot}: copies need a customer's key, and {scanner.copy_key} is AWS's own")
    if found.obstacle:
        raise CloudError(f"{snapshot}: {found.obstacle}")
    return found.arn


@contextmanager
def _shared(ours: Ours, scanner: ScannerAccount, snapshot: Snapshot) -> Iterator[None]:
    def modify(operation: str) -> None:
        with translated_errors("ec2:ModifySnapshotAttribute", snapshot.id):
            ours.ec2.modify_snapshot_attribute(
                SnapshotId=snapshot.id,
                Attribute="createVolumePermission",
                OperationType=operation,  # type: ignore[arg-type]
                UserIds=[scanner.account],
            )

    try:
        modify("add")
        yield
    finally:
        with suppress(CloudError):  # it is ours: what stays shared goes with the snapshot, which the sweeper deletes
            modify("remove")


@contextmanager
def _copied(ours: Ours, scanner: ScannerAccount, snapshot: Snapshot, key: str, ledger: Ledger) -> Iterator[Snapshot]:
    # tags of what is not ours are anybody's words; and of one copy for two readers the first to end would take it away
    token = snapshot.token if ours.owns(snapshot) else f"copy-{uuid.uuid4()}"
    ledger.intend(ours.intention(token, snapshot.id))
    found = ours.find(token, of=snapshot.id) or ours.make(
        lambda: ours.copy(snapshot, token, key), token, (), of=snapshot.id
    )
    if not found:
        raise CloudError(f"{snapshot}: its copy was started but is not listed")
    copy = found[0]
    resource = ours.resource(copy)
    ledger.made(resource)
    try:
        yield _ready(ours, scanner, copy)
    finally:
        with suppress(CloudError):  # it stays in the ledger, so the sweeper deletes it
            ours.delete(copy.id, token)
            ledger.gone(resource)


def _ready(ours: Ours, scanner: ScannerAccount, copy: Snapshot) -> Snapshot:
    waited = 0.0
    while copy.state is SnapshotState.PENDING:
        if waited >= scanner.copy_seconds:
            raise CloudError(
                f"{copy}: the copy is not done after {scanner.copy_seconds:,.0f} s ({copy.progress_percent} %)"
            )
        ours.pause(_POLL_SECONDS)
        waited += _POLL_SECONDS
        copy = ours.refresh(copy)
    if copy.state is SnapshotState.GONE:
        raise Gone(f"{copy}: the copy vanished")
    if copy.state is SnapshotState.FAILED:
        needs = ", ".join(COPYING)
        raise CloudError(
            f"{copy}: the copy failed: {copy.detail or 'AWS does not say why'}; it needs {needs} on both keys: "
            f"{advice('kms:CreateGrant')}"
        )
    return copy
