"""What the tests of the emulated AWS share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Self

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from demo.aws import ACCOUNT, REGION, EmulatedAws
from demo.aws.content import BLOCK

OTHER = "444455556666"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/Scanner"


def run(aws: EmulatedAws, *sizes_gib: int, encrypted_by: str = "", account: str = ACCOUNT) -> tuple[str, list[str]]:
    """A new instance with volumes of these sizes; its id and theirs."""
    ec2 = aws.client("ec2", account)
    mappings = []
    for number, size in enumerate(sizes_gib or (1,)):
        ebs: dict[str, Any] = {"VolumeSize": size, "DeleteOnTermination": True}
        if encrypted_by:
            ebs |= {"Encrypted": True} | ({"KmsKeyId": encrypted_by} if encrypted_by != "default" else {})
        mappings.append({"DeviceName": "/dev/sda1" if not number else f"/dev/sd{'fghijkl'[number]}", "Ebs": ebs})
    made = ec2.run_instances(ImageId="ami-0123456789abcdef0", MinCount=1, MaxCount=1, BlockDeviceMappings=mappings)
    instance = made["Instances"][0]["InstanceId"]
    found = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    return instance, [mapping["Ebs"]["VolumeId"] for mapping in found["BlockDeviceMappings"]]


def block(number: int) -> bytes:
    """A block that is different for every number."""
    return random.Random(number).randbytes(BLOCK)


def written(aws: EmulatedAws, indexes: Sequence[int], size_gib: int = 1, account: str = ACCOUNT) -> str:
    """A volume with `block(index)` at each of `indexes`."""
    _, (volume,) = run(aws, size_gib, account=account)
    for index in indexes:
        aws.volume(volume, account).write(index * BLOCK, block(index))
    return volume


def snap(aws: EmulatedAws, volume: str, account: str = ACCOUNT) -> str:
    return str(aws.client("ec2", account).create_snapshot(VolumeId=volume)["SnapshotId"])


def listed(ebs: Any, snapshot: str, **query: Any) -> list[tuple[int, str]]:
    """All blocks of a snapshot with their tokens, page by page."""
    found: list[tuple[int, str]] = []
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=snapshot, **query)
        found += [(one["BlockIndex"], one["BlockToken"]) for one in page["Blocks"]]
        if "NextToken" not in page:
            return found
        query["NextToken"] = page["NextToken"]


def indexes(ebs: Any, snapshot: str, **query: Any) -> list[int]:
    return [index for index, _ in listed(ebs, snapshot, **query)]


def get(ebs: Any, snapshot: str, index: int, token: str) -> bytes:
    data: bytes = ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockToken=token)["BlockData"].read()
    return data


def as_role(aws: EmulatedAws, service: Any, role: str = ROLE, *, account: str = ACCOUNT, **how: Any) -> Any:
    """A client of a role that the administrator of `account` assumed."""
    keys = aws.client("sts", account).assume_role(RoleArn=role, RoleSessionName="test", **how)["Credentials"]
    return boto3.client(
        service,
        region_name=REGION,
        endpoint_url=aws.endpoint,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
        config=Config(retries={"total_max_attempts": 1}),
    )


class Refused:
    """The block ends with this error of AWS, and its reason if one is given."""

    def __init__(self, code: str, reason: str = "", status: int = 0) -> None:
        self._code, self._reason, self._status = code, reason, status
        self.message = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ClientError):
            if error is None:
                pytest.fail(f"was not refused with {self._code}")
            return False
        assert error.response["Error"]["Code"] == self._code, error
        self.message = str(error)
        if self._reason:
            assert error.response.get("Reason") == self._reason
        if self._status:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == self._status
        return True


def refused(code: str, reason: str = "", status: int = 0) -> Refused:
    """With this, a block must end with the error `code` (and reason and HTTP status, if given) of AWS."""
    return Refused(code, reason, status)
