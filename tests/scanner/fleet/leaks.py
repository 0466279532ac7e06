"""The heart of the fleet's promise, as one function for CI and `make soak`: whatever kills a worker, nothing stays behind.

A machine has a base already. Its next scan, which keeps a new base and deletes the old one, and the scan of another machine, which
keeps nothing, meet a worker that dies and a cloud that fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from client.model import ScanState
from tests.scanner.fleet.fleet import BRIEF_SECONDS, Fleet

PATIENCE_SECONDS = 500  # after an answer that was lost it is looked for 90 s whether it was done all the same

# where, and how often it is passed before
KILLS = (
    "snapshot:begin", "snapshot:intended", "snapshot:calling", "before:CreateSnapshots", "after:CreateSnapshots", "snapshot:made",
    "snapshot:end", "before:DescribeInstances", "after:DescribeInstances", "before:DescribeSnapshots", "after:DescribeSnapshots",
    "after:DescribeSnapshots 2", "after:DescribeSnapshots 4", "after:AssumeRole", "wait:begin", "wait:end",
    "scan:begin", "scan:progress", "block", "block 9", "scan:read", "scan:put", "scan:looked", "scan:end",
    "store:begin", "store:end", "release:begin", "release:deleting", "before:DeleteSnapshot", "after:DeleteSnapshot",
    "release:deleted", "release:end", "finish:begin", "finish:end",
)  # fmt: skip
# what goes wrong in the cloud
FAULTS: tuple[Mapping[str, Any], ...] = (
    {"kind": "throttled", "action": "ec2:CreateSnapshots", "times": 2},
    {"kind": "error_500", "action": "ec2:CreateSnapshots", "times": 2},
    {"kind": "reset_after", "action": "ec2:CreateSnapshots"},
    {"kind": "hang_after", "action": "ec2:CreateSnapshots", "seconds": 2},
    {"kind": "throttled", "action": "ec2:Describe*", "times": 5, "every": 2},
    {"kind": "error_500", "action": "ec2:DescribeSnapshots", "times": 12},
    {"kind": "error_500", "action": "ec2:DeleteSnapshot", "times": 10},
    {"kind": "throttled", "action": "ec2:DeleteSnapshot", "times": 40},
    {"kind": "reset_after", "action": "ec2:DeleteSnapshot", "times": 2},
    {"kind": "hang_after", "action": "ec2:DeleteSnapshot", "seconds": 2},
    {"kind": "error_500", "action": "ebs:GetSnapshotBlock", "every": 5, "times": 20},
    {"kind": "throttled", "action": "ebs:*", "every": 3, "times": 20},
    {"kind": "reset", "action": "sts:AssumeRole", "times": 3},
)


def foreign(fleet: Fleet) -> str:
    """A snapshot of the machine that another installation has made, with a token that could be ours."""
    other = fleet.connector("another-installation")
    (made, *_) = other.snapshot(fleet.machine("web-1").disks[:1], token="web-b-1")
    return str(made.id)


def run(fleet: Fleet, kill: str = "", fault: Mapping[str, Any] | None = None, *, late: bool = False) -> str:
    """What was broken, or nothing. `late`: the cloud lists what it makes 60 s later."""
    fleet.remote.do("calm")
    theirs = foreign(fleet)
    keeping = {"base_snapshots.keep": 1}
    fleet.order("web-a", settings=keeping)
    worker = fleet.worker(lease=BRIEF_SECONDS)
    fleet.ended("web-a")
    worker.kill()
    worker.wait()
    if fault is not None:
        fleet.remote.do("fault", **fault)
    if late:
        fleet.remote.do("listed_late", seconds=60)
    fleet.order("web-b", settings=keeping)
    fleet.order("shop", fleet.machine("shop-1"))
    mark = fleet.folder / "killed"
    results = _carried_out(fleet, kill, str(mark), late=late)
    if late:
        fleet.remote.do("advance", seconds=60)
    fleet.remote.do("calm")
    for _ in range(2):
        if failed := [one for one in fleet.sweep() if one.error is not None]:
            return f"could not be swept: {failed}"
    fleet.sweep_objects()
    return _left(fleet, theirs, results, "" if mark.exists() or not kill else f"never came to {kill}")


def _carried_out(fleet: Fleet, kill: str, mark: str, *, late: bool) -> dict[str, Any]:
    """Both scans end, with one worker after the other, as a supervisor would start them."""
    done = threading.Event()

    def supervise() -> None:
        while not done.is_set():
            worker = fleet.worker(lease=BRIEF_SECONDS, FLEET_KILL=kill, FLEET_KILLED=mark)
            while worker.poll() is None and not done.wait(0.1):
                pass
            worker.kill()
            worker.wait()

    def pass_time() -> None:
        while not done.wait(4):
            fleet.remote.do("advance", seconds=15)

    def both_ended() -> bool:
        fleet.hurry()
        return {"web-b", "shop"} <= fleet.results().keys()

    threads = [threading.Thread(target=one) for one in ((supervise, pass_time) if late else (supervise,))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while not both_ended():
            assert time.monotonic() < deadline, (
                f"never ended: {[fleet.row(one) for one in ('web-b', 'shop')]} {fleet.log()}"
            )
            time.sleep(0.05)
    finally:
        time.sleep(0.2)
        done.set()
        for thread in threads:
            thread.join()
    return fleet.results()


def _left(fleet: Fleet, theirs: str, results: Mapping[str, Any], broken: str) -> str:
    if broken:
        return broken
    for name in ("web-b", "shop"):
        if results[name].state is not ScanState.DONE:
            return f"{name} ended as {results[name].state}: {results[name].detail}"
    there = fleet.snapshots()
    if theirs not in there:
        return "another installation's snapshot was deleted"
    bases = fleet.bases()
    owned = {one.id for result in results.values() for one in result.base if bases and bases[-1].scan == result.scan}
    if fleet.ours() != owned:
        return f"there are {fleet.ours()}, and the bases own {owned}"
    if {row.id for row in fleet.ledger() if row.id} != owned:
        return f"the ledger knows {fleet.ledger()}, and the bases own {owned}"
    if set(fleet.objects().names()) != {row.object for row in bases}:
        return f"there are objects {set(fleet.objects().names())} of bases {bases}"
    if list((fleet.data / "work").glob("*-*")):
        return f"left in the folder: {list((fleet.data / 'work').iterdir())}"
    with suppress(Exception):
        fleet.session.client("ec2", endpoint_url=fleet.aws["endpoint"]).delete_snapshot(SnapshotId=theirs)
        for one in owned:
            fleet.session.client("ec2", endpoint_url=fleet.aws["endpoint"]).delete_snapshot(SnapshotId=one)
    return ""
