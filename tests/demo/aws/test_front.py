"""Who may come in, what is written down about it, and what goes wrong on purpose."""

from __future__ import annotations

import hashlib
import http.client
import time
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ConnectionClosedError,
    EndpointConnectionError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from demo.aws import ACCOUNT, REGION, EmulatedAws, FaultKind
from demo.aws.content import BLOCK
from tests.demo.aws.tools import OTHER, ROLE, as_role, block, get, listed, refused, run, snap, written


def stranger(aws: EmulatedAws, service: Any, **how: str) -> Any:
    keys = aws.credentials()
    given: dict[str, Any] = {"aws_access_key_id": keys.access_key, "aws_secret_access_key": keys.secret_key, **how}
    return boto3.client(service, region_name=REGION, endpoint_url=aws.endpoint, **given)


@pytest.mark.parametrize(
    ("service", "call", "wrong_key", "wrong_secret"),
    [
        pytest.param("ec2", "describe_instances", "AuthFailure", "AuthFailure", id="ec2"),
        pytest.param("sts", "get_caller_identity", "InvalidClientTokenId", "SignatureDoesNotMatch", id="sts"),
        pytest.param("kms", "list_keys", "UnrecognizedClientException", "InvalidSignatureException", id="kms"),
    ],
)
def test_wrong_credentials(service: Any, call: str, wrong_key: str, wrong_secret: str, aws: EmulatedAws) -> None:
    with refused(wrong_key):
        getattr(stranger(aws, service, aws_access_key_id="AKIA0123456789ABCDEF"), call)()
    with refused(wrong_secret):
        getattr(stranger(aws, service, aws_secret_access_key="x"), call)()
    getattr(stranger(aws, service), call)()


def test_wrong_credentials_for_blocks(aws: EmulatedAws) -> None:
    with refused("UnrecognizedClientException", status=403):
        listed(stranger(aws, "ebs", aws_access_key_id="AKIA0123456789ABCDEF"), "snap-0123456789abcdef0")
    with refused("InvalidSignatureException", status=403):
        listed(stranger(aws, "ebs", aws_secret_access_key="x"), "snap-0123456789abcdef0")


def test_roles_act_in_their_account_until_their_time_is_over(aws: EmulatedAws) -> None:
    role = f"arn:aws:iam::{OTHER}:role/Reader"
    snapshot = snap(aws, written(aws, [1], account=OTHER), OTHER)
    ec2, ebs = as_role(aws, "ec2", role), as_role(aws, "ebs", role)
    assert as_role(aws, "sts", role).get_caller_identity()["Account"] == OTHER
    assert snapshot in {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    ((index, token),) = listed(ebs, snapshot)
    (call,) = aws.log.calls("ebs:*")
    assert (call.caller.account, call.caller.principal) == (OTHER, role)
    aws.clock.advance(3601)
    with refused("ExpiredTokenException", status=403):
        get(ebs, snapshot, index, token)
    with refused("RequestExpired"):
        ec2.describe_instances()


def test_roles_that_cannot_be_assumed(aws: EmulatedAws) -> None:
    aws.rules.refused_roles.add(ROLE)
    with refused("AccessDenied", status=403) as denied:
        as_role(aws, "ec2")
    assert ROLE in denied.message
    aws.calm()
    aws.rules.external_ids[ROLE] = "right"
    with refused("AccessDenied", status=403):
        as_role(aws, "ec2")
    with refused("AccessDenied", status=403):
        as_role(aws, "ec2", ExternalId="wrong")
    as_role(aws, "ec2", ExternalId="right").describe_instances()


@pytest.mark.parametrize(
    ("action", "service", "code"),
    [
        pytest.param("ec2:DescribeInstances", "ec2", "UnauthorizedOperation", id="moto"),
        pytest.param("ec2:CreateSnapshots", "ec2", "UnauthorizedOperation", id="ours"),
        pytest.param("ec2:CreateTags", "ec2", "UnauthorizedOperation", id="implied-tags"),
        pytest.param("ebs:ListSnapshotBlocks", "ebs", "AccessDeniedException", id="list"),
        pytest.param("ebs:Get*", "ebs", "AccessDeniedException", id="wildcard"),
        pytest.param("kms:ListKeys", "kms", "AccessDeniedException", id="kms"),
        pytest.param("sts:GetCallerIdentity", "sts", "AccessDenied", id="sts"),
    ],
)
def test_permissions_taken_away_from_a_role(action: str, service: str, code: str, aws: EmulatedAws) -> None:
    instance, (volume,) = run(aws, 1)
    aws.volume(volume).write(0, b"x")
    snapshot = snap(aws, volume)
    calls: dict[str, Callable[[Any, str, str], None]]
    calls = {"ec2:CreateSnapshots": _snapshot_with_tags, "ec2:CreateTags": _snapshot_with_tags}
    calls |= {"ebs:ListSnapshotBlocks": _read, "ebs:Get*": _read}
    plain = {"ec2:DescribeInstances": "describe_instances", "kms:ListKeys": "list_keys"}
    plain["sts:GetCallerIdentity"] = "get_caller_identity"
    client = as_role(aws, service)

    def act() -> None:
        if action in plain:
            getattr(client, plain[action])()
        else:
            calls[action](client, instance, snapshot)

    act()
    denial = aws.deny(action, principal=ROLE)
    with refused(code) as denied:
        act()
    assert action.replace("*", "") in denied.message
    assert ROLE in denied.message
    assert aws.log.count(action.replace("Tags", "Snapshots"), principal="Scanner", failed=True) == 1
    aws.allow(denial)
    act()
    aws.deny(action, principal="SomebodyElse")
    act()


def _snapshot_with_tags(client: Any, instance: str, _: str) -> None:
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "a", "Value": "b"}]}]
    client.create_snapshots(InstanceSpecification={"InstanceId": instance}, TagSpecifications=tags)


def _read(client: Any, _: str, snapshot: str) -> None:
    for index, token in listed(client, snapshot):
        get(client, snapshot, index, token)


def test_a_permission_is_taken_away_for_one_resource(aws: EmulatedAws, ebs: Any) -> None:
    volume = written(aws, [1])
    one, two = snap(aws, volume), snap(aws, volume)
    aws.deny("ebs:*", resource=one)
    with refused("AccessDeniedException", status=403):
        listed(ebs, one)
    assert listed(ebs, two)
    aws.deny("ebs:*", resource=f"arn:aws:ec2:{REGION}::snapshot/*")
    with refused("AccessDeniedException", status=403):
        listed(ebs, two)


def test_dry_runs_ask_and_do_nothing(aws: EmulatedAws, ec2: Any) -> None:
    instance, (volume,) = run(aws, 1)
    snapshots = len(aws.library.snapshots)
    for call, how in (
        ("create_snapshot", {"VolumeId": volume}),
        ("create_snapshots", {"InstanceSpecification": {"InstanceId": instance}}),
        ("describe_snapshots", {}),
        ("describe_instances", {}),
        ("terminate_instances", {"InstanceIds": [instance]}),
    ):
        with refused("DryRunOperation", status=412):
            getattr(ec2, call)(DryRun=True, **how)
    assert len(aws.library.snapshots) == snapshots
    assert all(call.dry_run for call in aws.log.calls("ec2:Create*", failed=True))
    aws.deny("ec2:CreateSnapshot")
    with refused("UnauthorizedOperation", status=403):
        ec2.create_snapshot(DryRun=True, VolumeId=volume)


def test_the_log_tells_service_operation_caller_and_resource(aws: EmulatedAws) -> None:
    key = aws.client("kms").create_key()["KeyMetadata"]["Arn"]
    instance, (volume,) = run(aws, 1, encrypted_by=key)
    aws.volume(volume).write(0, b"x")
    aws.log.clear()
    ec2, ebs = as_role(aws, "ec2"), as_role(aws, "ebs")
    _snapshot_with_tags(ec2, instance, "")
    (snapshot,) = (one for one in aws.library.snapshots.values() if one.volume == volume)
    _read(ebs, "", snapshot.id)
    told = {(call.action, call.implied): call.resources for call in aws.log.calls(principal="Scanner")}
    assert told == {
        ("ec2:CreateSnapshots", False): (f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{instance}",),
        ("ec2:CreateTags", True): (f"arn:aws:ec2:{REGION}::snapshot/*",),
        ("ebs:ListSnapshotBlocks", False): (f"arn:aws:ec2:{REGION}::snapshot/{snapshot.id}",),
        ("ebs:GetSnapshotBlock", False): (f"arn:aws:ec2:{REGION}::snapshot/{snapshot.id}",),
        ("kms:Decrypt", True): (key,),
    }
    (assumed, _) = aws.log.calls("sts:AssumeRole")
    assert assumed.resources == (ROLE,)
    assert aws.log.actions()["sts:AssumeRole"] == 2


@pytest.fixture
def one_block(aws: EmulatedAws, ebs: Any) -> tuple[str, str]:
    """A snapshot whose only block is 1, and the token for it."""
    snapshot = snap(aws, written(aws, [1]))
    ((_, token),) = listed(ebs, snapshot)
    return snapshot, token


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        pytest.param(FaultKind.ERROR_500, "InternalServerException", id="500"),
        pytest.param(FaultKind.THROTTLED, "RequestThrottledException", id="throttled"),
        pytest.param(FaultKind.EXPIRE_TOKENS, "ValidationException", id="expired"),
    ],
)
def test_faults_that_are_answers(
    kind: FaultKind, code: str, aws: EmulatedAws, ebs: Any, one_block: tuple[str, str]
) -> None:
    snapshot, token = one_block
    aws.fault(kind, after=1)
    assert get(ebs, snapshot, 1, token) == block(1)
    with refused(code):
        get(ebs, snapshot, 1, token)
    ((_, token),) = listed(ebs, snapshot)
    assert get(ebs, snapshot, 1, token) == block(1)


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.RESET_AFTER])
def test_connections_that_end(kind: FaultKind, aws: EmulatedAws, ebs: Any, one_block: tuple[str, str]) -> None:
    snapshot, token = one_block
    aws.fault(kind)
    with pytest.raises((ConnectionClosedError, EndpointConnectionError)):
        get(ebs, snapshot, 1, token)
    assert get(ebs, snapshot, 1, token) == block(1)


def test_wrong_bytes_and_checksums(aws: EmulatedAws, ebs: Any, one_block: tuple[str, str]) -> None:
    snapshot, token = one_block
    kinds = [FaultKind.WRONG_CHECKSUM, FaultKind.WRONG_BYTES, FaultKind.SHORT_BODY, FaultKind.NO_CHECKSUM]
    for kind in kinds:
        aws.fault(kind, resource=f"{snapshot}/1")
    seen = []
    for _ in range(5):
        answer = ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=1, BlockToken=token)
        data = answer["BlockData"].read()
        right = hashlib.sha256(block(1)).digest() == hashlib.sha256(data).digest()
        seen.append((right, len(data), answer["DataLength"], answer.get("Checksum", "")[:3]))
    true = seen[-1][3]
    assert seen == [
        (True, BLOCK, BLOCK, "AAA"),
        (False, BLOCK, BLOCK, true),
        (False, BLOCK // 2, BLOCK // 2, true),
        (True, BLOCK, BLOCK, ""),
        (True, BLOCK, BLOCK, true),
    ]


def test_a_body_that_ends_early(aws: EmulatedAws, ebs: Any, one_block: tuple[str, str]) -> None:
    snapshot, token = one_block
    aws.fault(FaultKind.CUT_BODY)
    with pytest.raises((IncompleteReadError, ResponseStreamingError, http.client.IncompleteRead)):
        get(ebs, snapshot, 1, token)
    assert get(ebs, snapshot, 1, token) == block(1)


def test_an_answer_that_does_not_come_though_it_happened(aws: EmulatedAws) -> None:
    volume = written(aws, [1])
    aws.fault(FaultKind.HANG_AFTER, "ec2:CreateSnapshot", seconds=1.0)
    how = Config(read_timeout=0.3, retries={"total_max_attempts": 1})
    ec2 = aws.session().client("ec2", endpoint_url=aws.endpoint, config=how)
    before = len(aws.library.snapshots)
    with pytest.raises(ReadTimeoutError):
        ec2.create_snapshot(VolumeId=volume)
    assert len(aws.library.snapshots) == before + 1


def test_faults_come_in_the_same_order_for_the_same_seed(
    aws: EmulatedAws, ebs: Any, one_block: tuple[str, str]
) -> None:
    def outcomes() -> list[int]:
        aws.log.clear()
        aws.rules.faults.clear()
        aws.fault(FaultKind.ERROR_500, chance=0.5, times=None, seed=7)
        for _ in range(20):
            try:
                get(ebs, *one_block[:1], 1, one_block[1])
            except ebs.exceptions.InternalServerException:
                continue
        return [call.status for call in aws.log.calls("ebs:GetSnapshotBlock")]

    first = outcomes()
    assert set(first) == {200, 500}
    assert outcomes() == first


def test_boto3_gets_over_a_burst_of_throttling(aws: EmulatedAws) -> None:
    aws.fault(FaultKind.THROTTLED, "ec2:DescribeInstances", times=2)
    aws.client("ec2", retries=3).describe_instances()
    assert aws.log.count("ec2:DescribeInstances", failed=True) == 2
    aws.rules.limits.ec2_per_account = 1
    client = aws.client("ec2")
    with refused("RequestLimitExceeded", status=503):
        for _ in range(100):  # on a busy machine one may take as long as it takes to be allowed the next
            client.describe_instances()


def test_blocks_take_as_long_as_they_are_told_to(aws: EmulatedAws, ebs: Any, one_block: tuple[str, str]) -> None:
    aws.rules.limits.block_latency_seconds = 0.2
    start = time.monotonic()
    get(ebs, one_block[0], 1, one_block[1])
    assert time.monotonic() - start >= 0.2


def test_unsigned_requests_are_refused(aws: EmulatedAws) -> None:
    host, port = aws.endpoint.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    for path, body in (("/", "Action=DescribeInstances"), ("/snapshots/snap-1/blocks", ""), ("/%ff", "\0")):
        connection.request("POST", path, body)
        answer = connection.getresponse()
        assert (answer.status, b"MissingAuthenticationToken" in answer.read()) == (403, True)
    connection.close()


def test_only_one_runs_in_a_process(aws: EmulatedAws) -> None:
    assert aws.endpoint
    with pytest.raises(RuntimeError, match="runs already"):
        EmulatedAws().start()
