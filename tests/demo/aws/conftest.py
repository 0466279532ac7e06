"""The emulated AWS of these tests: one for a module, since only one runs in a process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from demo.aws import EmulatedAws


@pytest.fixture(scope="module")
def running() -> Iterator[EmulatedAws]:
    with EmulatedAws() as aws:
        yield aws


@pytest.fixture
def aws(running: EmulatedAws) -> Iterator[EmulatedAws]:
    """Without any rule, and with an empty log."""
    running.log.clear()
    yield running
    running.calm()


@pytest.fixture
def ebs(aws: EmulatedAws) -> Any:
    return aws.client("ebs")


@pytest.fixture
def ec2(aws: EmulatedAws) -> Any:
    return aws.client("ec2")
