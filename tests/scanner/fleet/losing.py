"""A worker under whose scans somebody deletes snapshots: `--work tests.scanner.fleet.losing`.

At the moment `FLEET_LOSE` (see `scanner.fleet.moments`; `block` when one is asked for) all in the account go but `FLEET_KEPT`.
"""

from __future__ import annotations

import os
from typing import Any

import boto3

from cloud.fetcher import Fetcher
from scanner.fleet import moments
from scanner.fleet.workflow import scan, work

__all__ = ["scan", "work"]


def _lose() -> None:
    ec2 = boto3.client("ec2", endpoint_url=os.environ["KUMOMORI_FLEET_ENDPOINT_URL"])
    for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]:
        ours = any(tag["Key"] == "kumomori:installation" for tag in one.get("Tags", ()))
        if ours and one["SnapshotId"] != os.environ["FLEET_KEPT"]:
            ec2.delete_snapshot(SnapshotId=one["SnapshotId"])


def _at(moment: str) -> None:
    if moment == os.environ["FLEET_LOSE"]:
        _lose()


def _install() -> None:
    moments.at = _at
    fetcher: Any = Fetcher
    asked = fetcher.request

    def request(self: Any, block: int, done: Any) -> None:
        _at("block")
        asked(self, block, done)

    fetcher.request = request


_install()
