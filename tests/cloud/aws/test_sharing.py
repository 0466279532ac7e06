"""Snapshots lent to a scanner account: shared, or copied under another key, and taken back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from moto.kms.models import kms_backends

from cloud.aws.accounts import Role, Sessions
from cloud.aws.connector import AwsConnector, connect
from cloud.aws.sharing import ScannerAccount
from core.errors import AccessDenied, CloudError, Error, Gone
from core.estate import Snapshot, SnapshotState
from demo.aws.emulator import REGION, EmulatedAws
from infra.aws import policies
from infra.aws.policies import Setup
from tests.cloud.aws.conftest import INSTALLATION, fails, over
from tests.cloud.ledger import MemoryLedger

SCANNER = "222222222222"
WORD = b"found me" + bytes(504)


@dataclass
class Estate:
    connector: AwsConnector
    emulator: EmulatedAws
    ec2: Any
    kms: Any

    def key(self, *, shared: bool) -> str:
        root = [f"arn:aws:iam::{self.connector.account}:root"] + ([f"arn:aws:iam::{SCANNER}:root"] if shared else [])
        statement = {"Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        return str(self.kms.create_key(Policy=policy)["KeyMetadata"]["Arn"])

    def default_key(self) -> str:
        keys = self.emulator.library.keys
        arn = keys.default(self.connector.account, REGION)
        kms_backends[self.connector.account][REGION].describe_key(arn).key_manager = "AWS"
        return arn

    def snapshot(self, key: str = "") -> Snapshot:
        """One of a machine whose only disk is encrypted with `key`."""
        ebs = {"VolumeSize": 1, **({"Encrypted": True, "KmsKeyId": key} if key else {})}
        launched = self.ec2.run_instances(
            ImageId="ami-12c6146b",
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": ebs}],
        )["Instances"][0]["InstanceId"]
        (instance,) = [one for one in self.connector.instances() if one.id == launched]
        (disk,) = instance.disks
        self.emulator.volume(disk.id, self.connector.account).write(4096, WORD)
        (made,) = self.connector.snapshot([replace(disk, key=key, encrypted=bool(key))], token=f"t-{launched}")
        return self.connector.refresh(made)

    def shared_with(self, snapshot: str) -> set[str]:
        return set(self.emulator.snapshot(snapshot).shared_with)


@pytest.fixture
def estate(connector: AwsConnector, emulator: EmulatedAws, ec2: Any, backdoor: Callable[[str], Any]) -> Estate:
    scanner = ScannerAccount(SCANNER, emulator.session(SCANNER))
    return Estate(replace(connector, scanner=scanner), emulator, ec2, backdoor("kms"))


def with_copy_key(estate: Estate, key: str) -> AwsConnector:
    assert estate.connector.scanner
    return replace(estate.connector, scanner=replace(estate.connector.scanner, copy_key=key))


def reads_by(estate: Estate, account: str) -> int:
    return len([call for call in estate.emulator.log.calls("ebs:*") if call.caller.account == account])


@pytest.mark.parametrize("encrypted", [False, True])
def test_shared_while_it_is_read(estate: Estate, encrypted: bool) -> None:
    snapshot = estate.snapshot(estate.key(shared=True) if encrypted else "")
    ledger = MemoryLedger()
    with estate.connector.open(snapshot, ledger) as source:
        assert estate.shared_with(snapshot.id) == {SCANNER}
        assert source.read(4096, 512) == WORD
    assert estate.shared_with(snapshot.id) == set()
    assert ledger.words == []
    assert reads_by(estate, SCANNER) > 0
    assert reads_by(estate, estate.connector.account) == 0


def test_copied_where_the_default_key_forbids_sharing(estate: Estate) -> None:
    snapshot = estate.snapshot(estate.default_key())
    connector = with_copy_key(estate, estate.key(shared=True))
    estate.emulator.rules.snapshot_polls = 2
    ledger = MemoryLedger()
    with connector.open(snapshot, ledger) as source:
        assert source.read(4096, 512) == WORD
        (copy,) = ledger.existing.values()
        assert estate.shared_with(copy.id) == {SCANNER}
        assert (copy.of, copy.token) == (snapshot.id, snapshot.token)
        assert copy.id in {one.id for one in connector.owned()}
    assert estate.shared_with(snapshot.id) == set()
    assert ledger.words == ["intend", "made", "gone"]
    assert [one.id for one in connector.owned()] == [snapshot.id]


def test_the_token_still_finds_the_snapshots_not_the_copy(estate: Estate) -> None:
    snapshot = estate.snapshot(estate.default_key())
    with with_copy_key(estate, estate.key(shared=True)).open(snapshot, MemoryLedger()):
        assert [one.id for one in estate.connector.ours().find(snapshot.token)] == [snapshot.id]


def test_what_is_not_ours_is_copied_not_shared(estate: Estate) -> None:
    volume = estate.ec2.create_volume(Size=1, AvailabilityZone="eu-central-1a")["VolumeId"]
    foreign = estate.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    snapshot = estate.connector.refresh(Snapshot(estate.connector.place, foreign))
    with pytest.raises(CloudError, match="it is not ours to share"), estate.connector.open(snapshot, MemoryLedger()):
        pass
    ledger = MemoryLedger()
    with with_copy_key(estate, estate.key(shared=True)).open(snapshot, ledger):
        assert estate.shared_with(foreign) == set()
        assert [one.of for one in ledger.existing.values()] == [foreign]
    assert not ledger.existing


def test_a_reader_that_fails_leaves_nothing(estate: Estate) -> None:
    snapshot = estate.snapshot(estate.default_key())
    connector = with_copy_key(estate, estate.key(shared=True))
    ledger = MemoryLedger()
    with pytest.raises(RuntimeError, match="parser"), connector.open(snapshot, ledger):
        raise RuntimeError("parser")
    assert not ledger.existing
    assert [one.id for one in connector.owned()] == [snapshot.id]


def test_a_copy_made_before_is_used(estate: Estate) -> None:
    """We died after the call: the intention is in the ledger, the copy is found by token."""
    snapshot = estate.snapshot(estate.default_key())
    connector = with_copy_key(estate, estate.key(shared=True))
    assert connector.scanner
    connector.ours().copy(snapshot, snapshot.token, connector.scanner.copy_key)
    (before,) = connector.ours().find(snapshot.token, of=snapshot.id)
    ledger = MemoryLedger()
    with connector.open(snapshot, ledger):
        assert list(ledger.existing) == [before.id]


def refuse_deletion(estate: Estate) -> None:
    estate.emulator.deny("ec2:DeleteSnapshot")


def test_a_copy_that_cannot_be_deleted_stays_in_the_ledger(estate: Estate) -> None:
    snapshot = estate.snapshot(estate.default_key())
    connector = with_copy_key(estate, estate.key(shared=True))
    ledger = MemoryLedger()
    with connector.open(snapshot, ledger):
        refuse_deletion(estate)
    (left,) = ledger.existing.values()
    estate.emulator.calm()
    connector.delete(left)
    assert [one.id for one in connector.owned()] == [snapshot.id]


@pytest.mark.parametrize(
    ("arrange", "kind", "words"),
    [
        pytest.param(lambda e: (e.default_key(), ""), CloudError, "name a customer's key for copies", id="no-copy-key"),
        pytest.param(lambda e: (e.default_key(), e.default_key()), CloudError, "is AWS's own", id="copy-key-is-the-default-key"),
        pytest.param(lambda e: (e.default_key(), _disabled(e)), CloudError, "is disabled", id="copy-key-disabled"),
        pytest.param(lambda e: (e.default_key(), "arn:aws:kms:eu-central-1:1:key/none"), Gone, "not there", id="copy-key-gone"),
        pytest.param(lambda e: (e.default_key(), _denied(e, "kms:CreateGrant")), CloudError, "KumomoriCopyGrant", id="no-grant"),
        pytest.param(lambda e: (e.default_key(), _denied(e, "ec2:CopySnapshot")), AccessDenied, "KumomoriCopySource", id="no-copying"),
        pytest.param(lambda e: (e.key(shared=True), _denied(e, "ec2:ModifySnapshotAttribute")), AccessDenied, "KumomoriShare", id="no-sharing"),
        pytest.param(lambda e: (e.key(shared=True), _denied(e, "kms:DescribeKey")), AccessDenied, "KumomoriDescribeKeys", id="no-look-at-the-key"),
        pytest.param(lambda e: (e.key(shared=False), ""), AccessDenied, "kms:Decrypt is denied: add the statement KumomoriDecrypt", id="key-not-shared"),
    ],
)  # fmt: skip
def test_what_can_go_wrong(
    estate: Estate, arrange: Callable[[Estate], tuple[str, str]], kind: type[Error], words: str
) -> None:
    key, copy_key = arrange(estate)
    denials, estate.emulator.rules.denials = estate.emulator.rules.denials, []
    snapshot = estate.snapshot(key)
    estate.emulator.rules.denials = denials
    connector = with_copy_key(estate, copy_key)
    ledger = MemoryLedger()
    with pytest.raises(Error, match=words) as caught, connector.open(snapshot, ledger) as source:
        source.read(4096, 512)
    assert type(caught.value) is kind
    estate.emulator.calm()
    assert not ledger.existing
    assert estate.shared_with(snapshot.id) == set()


def _disabled(estate: Estate) -> str:
    key = estate.key(shared=True)
    estate.kms.disable_key(KeyId=key.rpartition("/")[2])
    return key


def _denied(estate: Estate, action: str) -> str:
    key = estate.key(shared=True)
    estate.emulator.deny(action)
    return key


def test_a_copy_that_never_ends(estate: Estate) -> None:
    snapshot = estate.snapshot(estate.default_key())
    connector = with_copy_key(estate, estate.key(shared=True))
    assert connector.scanner
    paused: list[float] = []
    connector = replace(connector, scanner=replace(connector.scanner, copy_seconds=20.0), pause=paused.append)
    estate.emulator.rules.stuck_snapshots = 1
    ledger = MemoryLedger()
    with pytest.raises(CloudError, match="not done after 20 s"), connector.open(snapshot, ledger):
        pass
    assert sum(paused) == 20.0
    assert not ledger.existing


def test_a_copy_whose_answer_was_lost(estate: Estate) -> None:
    snapshot = estate.snapshot(estate.default_key())
    connector = with_copy_key(estate, estate.key(shared=True))
    real = connector.once.copy_snapshot

    def copy(**given: Any) -> Any:
        real(**given)
        return fails("InternalError")()

    lost = replace(connector, once=over(connector.once, copy_snapshot=copy))
    ledger = MemoryLedger()
    with lost.open(snapshot, ledger) as source:
        assert source.read(4096, 512) == WORD
    assert [one.id for one in connector.owned()] == [snapshot.id]


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        (SnapshotState.PENDING, CloudError, "wait until it is ready"),
        (SnapshotState.FAILED, CloudError, "it is failed: no key"),
        (SnapshotState.GONE, Gone, "not there any more"),
    ],
)
def test_what_is_not_ready_is_not_opened(
    connector: AwsConnector, state: SnapshotState, kind: type[Error], words: str
) -> None:
    detail = "no key" if state is SnapshotState.FAILED else ""
    with (
        pytest.raises(kind, match=words),
        connector.open(Snapshot(connector.place, "snap-1", state=state, detail=detail), MemoryLedger()),
    ):
        pass


@pytest.mark.parametrize("default_key", [False, True])
def test_by_the_policies(estate: Estate, sessions: Callable[[str], Sessions], default_key: bool) -> None:
    """Shared or copied by the scanner role, read by the reader role, and neither may do more than its policy allows."""
    copy_key = estate.key(shared=True)
    snapshot = estate.snapshot(estate.default_key() if default_key else estate.key(shared=True))
    setup = Setup(INSTALLATION, scanner_account=SCANNER, copy_key=copy_key)
    of = sessions("scanner")
    session = of.assume(estate.connector.account, Role("KumomoriScanner"), REGION)
    reader = of.assume(SCANNER, Role("KumomoriReader"), REGION)
    estate.emulator.restrict("KumomoriScanner", policies.scanner(setup))
    estate.emulator.restrict("KumomoriReader", policies.reader(setup))
    connector = connect(
        of, session, estate.connector.account, REGION, INSTALLATION, scanner=ScannerAccount(SCANNER, reader, copy_key)
    )
    ledger = MemoryLedger()
    with replace(connector, pause=lambda _: None).open(snapshot, ledger) as source:
        assert source.read(4096, 512) == WORD
    assert ("made" in ledger.words) == default_key
    assert not ledger.existing
    assert [one.id for one in connector.owned()] == [snapshot.id]


def test_a_share_whose_answer_was_lost_is_taken_back(estate: Estate) -> None:
    """It happened, nobody heard of it: a snapshot that is kept would stay shared."""
    snapshot = estate.snapshot()
    real = estate.connector.ec2.modify_snapshot_attribute

    def lost(**given: Any) -> Any:
        real(**given)
        if given["OperationType"] == "add":
            fails("InternalError")()

    connector = replace(estate.connector, ec2=over(estate.connector.ec2, modify_snapshot_attribute=lost))
    with pytest.raises(CloudError), connector.open(snapshot, MemoryLedger()):
        pass
    assert estate.shared_with(snapshot.id) == set()


@pytest.mark.parametrize("token", ["*", "a b", "t-1", ""])
def test_a_token_that_somebody_wrote_on_a_foreign_snapshot_is_not_taken(estate: Estate, token: str) -> None:
    """It could be that of a living scan, or one that no filter may hold."""
    volume = estate.ec2.create_volume(Size=1, AvailabilityZone="eu-central-1a")["VolumeId"]
    foreign = estate.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    tags = {"kumomori:installation": INSTALLATION, "kumomori:token": token}
    estate.ec2.create_tags(Resources=[foreign], Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
    snapshot = estate.connector.refresh(Snapshot(estate.connector.place, foreign))
    connector = with_copy_key(estate, estate.key(shared=True))
    ledgers = [MemoryLedger(), MemoryLedger()]
    with connector.open(snapshot, ledgers[0]):
        with connector.open(snapshot, ledgers[1]) as source:
            assert source.size == 1 << 30
        (copy,) = ledgers[0].existing.values()
        assert copy.token.startswith("copy-")
        assert estate.shared_with(foreign) == set()
        assert connector.refresh(Snapshot(connector.place, copy.id)).state is SnapshotState.READY, "it is still used"
    assert not list(connector.owned())
