"""The record of calls that all tests here are held to: it sees them, and tells of those outside the policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloud.aws.accounts import Role, Sessions
from cloud.aws.connector import AwsConnector
from demo.aws.emulator import REGION
from tests.cloud.aws.conftest import Recorded, launch


def test_calls_are_seen(connector: AwsConnector, ec2: Any, recorded: Recorded) -> None:
    launch(ec2)
    assert list(connector.instances())
    assert recorded.calls["scanner"] == {"ec2:DescribeInstances", "ec2:DescribeVolumes", "ec2:DescribeInstanceTypes"}
    assert recorded.outside() == {}


@pytest.mark.parametrize("assumed", [False, True])
def test_a_call_outside_the_policies_is_told(
    sessions: Callable[[str], Sessions], account: str, recorded: Recorded, assumed: bool
) -> None:
    of = sessions("scanner")
    session = of.assume(account, Role(), REGION) if assumed else of.base
    of.client(session, "ec2", REGION).describe_key_pairs()
    assert recorded.outside() == {"assumed" if assumed else "scanner": {"ec2:DescribeKeyPairs"}}
    recorded.calls.clear()
