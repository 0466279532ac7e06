"""EBS direct by boto3 over a socket: each of its rules, and each thing it must refuse."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from demo.aws import EmulatedAws, FaultKind
from demo.aws.content import BLOCK
from tests.demo.aws.tools import OTHER, block, get, indexes, listed, refused, snap, written

DAY = 86400.0


@pytest.fixture(scope="module")
def long(running: EmulatedAws) -> str:
    """A snapshot with the blocks 0, 2, … 498."""
    volume = written(running, [])
    for index in range(0, 500, 2):
        running.volume(volume).write(index * BLOCK, bytes([index % 250 + 1]))
    return snap(running, volume)


def test_what_a_volume_holds_is_read_block_by_block(aws: EmulatedAws, ebs: Any) -> None:
    volume = written(aws, [900, 0, 3])
    snapshot = snap(aws, volume)
    aws.volume(volume).write(0, b"later")
    page = ebs.list_snapshot_blocks(SnapshotId=snapshot)
    assert (page["VolumeSize"], page["BlockSize"]) == (1, 524288)
    assert page["ExpiryTime"].timestamp() == pytest.approx(aws.clock.now() + 7 * DAY, abs=60)
    assert [one["BlockIndex"] for one in page["Blocks"]] == [0, 3, 900]  # in order, not as they were written
    for index, token in listed(ebs, snapshot):
        answer = ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockToken=token)
        data = answer["BlockData"].read()
        assert data == block(index)
        assert answer["DataLength"] == BLOCK
        assert answer["ChecksumAlgorithm"] == "SHA256"
        assert base64.b64decode(answer["Checksum"]) == hashlib.sha256(data).digest()
    assert aws.log.count("ebs:GetSnapshotBlock") == 3


@pytest.mark.parametrize(
    ("query", "pages"),
    [
        pytest.param({"MaxResults": 100}, [100, 100, 50], id="hundreds"),
        pytest.param({"MaxResults": 250}, [250], id="just-so"),
        pytest.param({"MaxResults": 10_000}, [250], id="one-page"),
        pytest.param({}, [250], id="default"),
        pytest.param({"MaxResults": 100, "StartingBlockIndex": 101}, [100, 99], id="start"),
        pytest.param({"StartingBlockIndex": 1_000_000}, [0], id="start-behind-the-end"),
    ],
)
def test_pages(query: dict[str, int], pages: list[int], long: str, ebs: Any) -> None:
    sizes, found = [], []
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=long, **query)
        sizes.append(len(page["Blocks"]))
        found += [one["BlockIndex"] for one in page["Blocks"]]
        if "NextToken" not in page:
            break
        query = {**query, "NextToken": page["NextToken"]}
    assert sizes == pages
    assert found == [index for index in range(0, 500, 2) if index >= query.get("StartingBlockIndex", 0)]


def test_pages_of_less_than_a_hundred_are_of_a_hundred(long: str, aws: EmulatedAws) -> None:
    """The FAQ says so; botocore itself refuses to ask."""
    ebs = aws.client("ebs", strict=False)
    assert len(ebs.list_snapshot_blocks(SnapshotId=long, MaxResults=5)["Blocks"]) == 100


def test_pages_may_be_short_or_empty(long: str, aws: EmulatedAws, ebs: Any) -> None:
    aws.rules.blocks_per_page = 60
    aws.fault(FaultKind.EMPTY_PAGE, "ebs:ListSnapshotBlocks", after=5)
    assert len(indexes(ebs, long)) == 250  # the sixth, which is empty, is that after the last block's
    assert aws.log.count("ebs:ListSnapshotBlocks") == 5


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        pytest.param("snapshot", "INVALID_PAGE_TOKEN", id="other-snapshot"),
        pytest.param("call", "INVALID_PAGE_TOKEN", id="other-call"),
        pytest.param("late", "INVALID_PAGE_TOKEN", id="after-an-hour"),
        pytest.param("garbage", "INVALID_PAGE_TOKEN", id="garbage"),
    ],
)
def test_page_tokens_are_bound_and_expire(how: str, reason: str, long: str, aws: EmulatedAws, ebs: Any) -> None:
    token = ebs.list_snapshot_blocks(SnapshotId=long, MaxResults=100)["NextToken"]
    if how == "late":
        aws.clock.advance(3599)
        ebs.list_snapshot_blocks(SnapshotId=long, NextToken=token)
        aws.clock.advance(2)
    with refused("ValidationException", reason, 400):
        if how == "call":
            ebs.list_changed_blocks(SecondSnapshotId=long, NextToken=token)
        else:
            wanted = snap(aws, written(aws, [1])) if how == "snapshot" else long
            ebs.list_snapshot_blocks(SnapshotId=wanted, NextToken="AAAA" if how == "garbage" else token)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("index", id="other-index"),
        pytest.param("snapshot", id="other-snapshot"),
        pytest.param("late", id="after-seven-days"),
        pytest.param("now", id="expired-on-purpose"),
        pytest.param("garbage", id="garbage"),
    ],
)
def test_block_tokens_are_bound_and_expire(how: str, aws: EmulatedAws, ebs: Any) -> None:
    volume = written(aws, [1, 2])
    snapshot, other = snap(aws, volume), snap(aws, volume)
    (_, first), (_, second) = listed(ebs, snapshot)
    assert get(ebs, snapshot, 1, first) == block(1)
    if how == "late":
        aws.clock.advance(7 * DAY + 1)
    if how == "now":
        aws.expire_tokens()
    with refused("ValidationException", "INVALID_BLOCK_TOKEN", 400):
        token = {"index": second, "garbage": "c" * 40}.get(how, first)
        get(ebs, other if how == "snapshot" else snapshot, 1, token)


def test_changed_blocks_are_those_of_both_snapshots(aws: EmulatedAws, ebs: Any) -> None:
    volume = written(aws, [1, 2, 3, 4])
    first = snap(aws, volume)
    disk = aws.volume(volume)
    disk.write(2 * BLOCK, b"changed")
    disk.discard(3 * BLOCK, BLOCK)
    disk.write(7 * BLOCK, b"new")
    second = snap(aws, volume)
    page = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)
    sides = {one["BlockIndex"]: ("FirstBlockToken" in one, "SecondBlockToken" in one) for one in page["ChangedBlocks"]}
    assert list(sides.items()) == [(2, (True, True)), (3, (True, False)), (7, (False, True))]
    changed = {one["BlockIndex"]: one for one in page["ChangedBlocks"]}
    assert get(ebs, first, 2, changed[2]["FirstBlockToken"]) == block(2)
    assert get(ebs, second, 2, changed[2]["SecondBlockToken"])[:7] == b"changed"
    assert get(ebs, first, 3, changed[3]["FirstBlockToken"]) == block(3)
    with refused("ValidationException", "INVALID_BLOCK_TOKEN"):
        get(ebs, second, 2, changed[2]["FirstBlockToken"])
    assert not ebs.list_changed_blocks(FirstSnapshotId=second, SecondSnapshotId=second)["ChangedBlocks"]
    alone = ebs.list_changed_blocks(SecondSnapshotId=second)["ChangedBlocks"]
    assert [one["BlockIndex"] for one in alone] == [1, 2, 4, 7]
    later = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second, StartingBlockIndex=3)
    assert [one["BlockIndex"] for one in later["ChangedBlocks"]] == [3, 7]


def test_snapshots_of_other_lineages_are_not_compared(aws: EmulatedAws, ebs: Any) -> None:
    one, other = snap(aws, written(aws, [1])), snap(aws, written(aws, [1]))
    with refused("ValidationException", "UNRELATED_SNAPSHOTS"):
        ebs.list_changed_blocks(FirstSnapshotId=one, SecondSnapshotId=other)


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        pytest.param("snap-0123456789abcdef0", "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND", id="unknown"),
        pytest.param("snap-xyz", "ValidationException", "INVALID_SNAPSHOT_ID", id="malformed"),
        pytest.param("..%2f..%2fetc", "ValidationException", "INVALID_SNAPSHOT_ID", id="hostile"),
    ],
)
def test_snapshots_that_are_not_there(name: str, code: str, reason: str, ebs: Any) -> None:
    with refused(code, reason):
        ebs.list_snapshot_blocks(SnapshotId=name)
    with refused(code, reason):
        get(ebs, name, 0, "AAAA")


def test_a_block_that_is_not_there(aws: EmulatedAws, ebs: Any) -> None:
    volume = written(aws, [1, 2])
    snapshot = snap(aws, volume)
    token = dict(listed(ebs, snapshot))[2]
    with refused("ValidationException", "INVALID_BLOCK_TOKEN"):
        get(ebs, snapshot, 5, token)
    made = aws._front.ebs.tokens.make(f"block {snapshot} 5", 5, aws.clock.now() + 60)
    with refused("ResourceNotFoundException", status=404):
        get(ebs, snapshot, 5, made)


def test_deleted_and_vanished_snapshots_are_gone_and_their_blocks_freed(aws: EmulatedAws, ebs: Any, ec2: Any) -> None:
    before = len(aws.library.store)
    volume = written(aws, [1001, 1002])
    one, two = snap(aws, volume), snap(aws, volume)
    assert len(aws.library.store) == before + 2  # shared
    (index, token), _ = listed(ebs, one)
    ec2.delete_snapshot(SnapshotId=one)
    with refused("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND", 404):
        get(ebs, one, index, token)
    assert len(aws.library.store) == before + 2
    aws.vanish(two)
    with refused("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND", 404):
        listed(ebs, two)
    assert len(aws.library.store) == before


def test_a_pending_snapshot_is_not_read(aws: EmulatedAws, ebs: Any) -> None:
    aws.rules.snapshot_seconds = 60
    snapshot = snap(aws, written(aws, [1]))
    with refused("ValidationException", "INVALID_SNAPSHOT_ID"):
        listed(ebs, snapshot)
    aws.clock.advance(61)
    assert indexes(ebs, snapshot) == [1]


def test_the_same_snapshot_in_another_region_is_unknown(aws: EmulatedAws) -> None:
    snapshot = snap(aws, written(aws, [1]))
    with refused("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND"):
        listed(aws.client("ebs", region="us-east-1"), snapshot)


def test_other_accounts_read_only_what_is_shared_with_them(aws: EmulatedAws, ec2: Any) -> None:
    snapshot = snap(aws, written(aws, [1]))
    theirs = aws.client("ebs", OTHER)
    with refused("AccessDeniedException", "UNAUTHORIZED_ACCOUNT", 403):
        listed(theirs, snapshot)
    ec2.modify_snapshot_attribute(SnapshotId=snapshot, OperationType="add", UserIds=[OTHER])
    ((index, token),) = listed(theirs, snapshot)
    assert get(theirs, snapshot, index, token) == block(1)
    ec2.modify_snapshot_attribute(SnapshotId=snapshot, OperationType="remove", UserIds=[OTHER])
    with refused("AccessDeniedException", "UNAUTHORIZED_ACCOUNT", 403):
        get(theirs, snapshot, index, token)


def _put(ebs: Any, snapshot: str, index: int, data: bytes, **how: Any) -> None:
    checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
    request = {"DataLength": len(data), "Checksum": checksum, "ChecksumAlgorithm": "SHA256", **how}
    ebs.put_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockData=data, **request)


def test_a_child_inherits_the_blocks_of_its_parent(aws: EmulatedAws, ebs: Any, ec2: Any) -> None:
    parent = snap(aws, written(aws, [1, 2]))
    child = ebs.start_snapshot(VolumeSize=2, ParentSnapshotId=parent, Tags=[{"Key": "a", "Value": "b"}])["SnapshotId"]
    _put(ebs, child, 2, block(22))
    _put(ebs, child, 5, block(55))
    with refused("ValidationException", "INVALID_SNAPSHOT_ID"):
        listed(ebs, child)
    texts = [base64.b64encode(hashlib.sha256(block(number)).digest()) for number in (22, 55)]
    checksum = base64.b64encode(hashlib.sha256(b"".join(texts)).digest()).decode()
    with refused("ValidationException"):
        ebs.complete_snapshot(SnapshotId=child, ChangedBlocksCount=3)
    with refused("ValidationException"):
        ebs.complete_snapshot(SnapshotId=child, ChangedBlocksCount=2, Checksum="A" * 44, ChecksumAlgorithm="SHA256")
    how = {"Checksum": checksum, "ChecksumAlgorithm": "SHA256", "ChecksumAggregationMethod": "LINEAR"}
    ebs.complete_snapshot(SnapshotId=child, ChangedBlocksCount=2, **how)
    found = {index: get(ebs, child, index, token) for index, token in listed(ebs, child)}
    assert found == {1: block(1), 2: block(22), 5: block(55)}
    page = ebs.list_changed_blocks(FirstSnapshotId=parent, SecondSnapshotId=child)
    assert [one["BlockIndex"] for one in page["ChangedBlocks"]] == [2, 5]
    (view,) = ec2.describe_snapshots(SnapshotIds=[child])["Snapshots"]
    assert (view["State"], view["VolumeSize"], view["Tags"]) == ("completed", 2, [{"Key": "a", "Value": "b"}])
    with refused("ValidationException", "INVALID_SNAPSHOT_ID"):
        _put(ebs, child, 1, block(1))


@pytest.mark.parametrize(
    ("index", "data", "how"),
    [
        pytest.param(0, b"short", {}, id="short"),
        pytest.param(0, bytes(BLOCK), {"DataLength": 512}, id="wrong-length"),
        pytest.param(0, bytes(BLOCK), {"Checksum": "A" * 43 + "="}, id="wrong-checksum"),
        pytest.param(2048, bytes(BLOCK), {}, id="behind-the-end"),
    ],
)
def test_blocks_that_are_not_taken(index: int, data: bytes, how: dict[str, Any], ebs: Any) -> None:
    snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    with refused("ValidationException", "INVALID_BLOCK", 400):
        _put(ebs, snapshot, index, data, **how)
    ebs.complete_snapshot(SnapshotId=snapshot, ChangedBlocksCount=0)
    assert indexes(ebs, snapshot) == []


def test_start_snapshot_takes_a_token_once(aws: EmulatedAws, ebs: Any) -> None:
    first = ebs.start_snapshot(VolumeSize=1, ClientToken="t-1")
    assert ebs.start_snapshot(VolumeSize=1, ClientToken="t-1")["SnapshotId"] == first["SnapshotId"]
    with refused("ConflictException", status=409):
        ebs.start_snapshot(VolumeSize=2, ClientToken="t-1")
    other = aws.client("ebs", OTHER).start_snapshot(VolumeSize=1, ClientToken="t-1")
    assert other["SnapshotId"] != first["SnapshotId"]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"VolumeSize": 65_537}, id="too-large"),
        pytest.param({"VolumeSize": 1, "ParentSnapshotId": "snap-1", "Encrypted": True}, id="parent-and-key"),
        pytest.param({"VolumeSize": 1, "KmsKeyArn": "arn:aws:kms:x:123456789012:key/1"}, id="key-without-encrypted"),
    ],
)
def test_snapshots_that_do_not_start(how: dict[str, Any], ebs: Any) -> None:
    with refused("ValidationException"):
        ebs.start_snapshot(**how)


def test_an_unfinished_snapshot_times_out(aws: EmulatedAws, ebs: Any, ec2: Any) -> None:
    snapshot = ebs.start_snapshot(VolumeSize=1, Timeout=10)["SnapshotId"]
    aws.clock.advance(601)
    (view,) = ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"]
    assert view["State"] == "error"
    with refused("ValidationException"):
        _put(ebs, snapshot, 0, bytes(BLOCK))


def test_quotas(aws: EmulatedAws, ebs: Any) -> None:
    volume = written(aws, [1])
    one, two = snap(aws, volume), snap(aws, volume)
    ((index, token),) = listed(ebs, one)
    ((_, other),) = listed(ebs, two)
    aws.rules.limits.blocks_per_snapshot = 2
    get(ebs, one, index, token)
    get(ebs, one, index, token)
    with refused("RequestThrottledException", "RESOURCE_LEVEL_THROTTLE", 400):
        get(ebs, one, index, token)
    get(ebs, two, index, other)
    aws.rules.limits.blocks_per_snapshot = None
    aws.rules.limits.blocks_per_account = 1
    get(ebs, one, index, token)
    with refused("RequestThrottledException", "ACCOUNT_THROTTLED", 400):
        get(ebs, two, index, other)
    aws.rules.limits.lists_per_account = 1
    listed(ebs, one)
    with refused("RequestThrottledException", "ACCOUNT_THROTTLED", 400):
        listed(ebs, one)


def test_a_very_large_volume_costs_nothing_while_it_is_empty(aws: EmulatedAws, ebs: Any) -> None:
    volume = written(aws, [], size_gib=16_000)
    last = 16_000 * 2048 - 1
    aws.volume(volume).write(last * BLOCK, b"far away")
    snapshot = snap(aws, volume)
    ((index, token),) = listed(ebs, snapshot)
    assert index == last
    assert get(ebs, snapshot, index, token)[:8] == b"far away"
    assert aws.volume(volume).path.stat().st_blocks * 512 < 1 << 20
