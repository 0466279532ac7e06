"""Instances by the thousand."""

from __future__ import annotations

import pytest

from demo.aws import EmulatedAws
from tests.demo.aws.tools import refused

ACCOUNT = "343434343434"


@pytest.mark.slow
def test_a_crowd_is_listed_like_real_instances(aws: EmulatedAws) -> None:
    aws.crowd(2500, ACCOUNT)
    ec2 = aws.client("ec2", ACCOUNT)
    pages = list(ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 1000}))
    assert [len(page["Reservations"]) for page in pages] == [1000, 1000, 500]
    found = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
    assert len({one["InstanceId"] for one in found}) == 2500
    last = found[-1]
    assert (last["InstanceId"], last["Tags"]) == ("i-000000000000009c4", [{"Key": "Name", "Value": "crowd-2500"}])
    volume = last["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    (described,) = ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
    assert described["Attachments"][0]["InstanceId"] == last["InstanceId"]
    (again,) = ec2.describe_instances(InstanceIds=[last["InstanceId"]])["Reservations"]
    assert again["Instances"] == [last]
    assert len(ec2.describe_volumes()["Volumes"]) == 1000
    with refused("InvalidInstanceID.NotFound"):
        ec2.describe_instances(InstanceIds=["i-00000000000000fff"])
    aws.client("ec2").describe_instances()  # others are as they were
