"""Scans of a fleet, from an order to a result, on an emulated AWS and real worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from client.model import ScanKind, ScanState
from cloud.aws.tags import EXPIRES, INSTALLATION, TOKEN, mark
from core.estate import Disk, Instance, Place
from demo.disk import build
from scanner.fleet.tables import file_set
from tests.scanner.fleet.fleet import BRIEF_SECONDS, Fleet
from tests.scanner.fleet.workers import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def fleet(url: str, tmp_path: Path, aws: dict[str, Any]) -> Iterator[Fleet]:
    made = Fleet(url, tmp_path, aws)
    made.remote.do("calm")
    yield made
    made.close()


def test_from_order_to_result(fleet: Fleet) -> None:
    fleet.order("shop-first", fleet.machine("shop-1"))
    fleet.order("web-first", fleet.machine("web-1"))
    fleet.order("vault-first", fleet.machine("vault-1"))
    fleet.worker()
    found = fleet.ended("shop-first", "web-first", "vault-first")
    assert {one.state for one in found.values()} == {ScanState.DONE}, found
    reports = {name: fleet.report(one) for name, one in found.items()}
    assert reports["shop-first"]["result"] == "findings"
    assert reports["web-first"]["result"] == "clean"
    assert reports["vault-first"]["result"] == "gaps", "its key may not be used: never clean"
    for report in reports.values():
        assert {one["rule"] for one in report["findings"]} | {"linux/second-root"} <= set(report["rules"]["ids"])
    assert found["web-first"].usd > 0
    assert len({one.file_set for one in found.values()} - {""}) == 3
    assert fleet.ours() == set()
    assert [one for one in fleet.ledger() if one.id] == []
    assert fleet.bases() == []
    assert fleet.sweep_objects() == []


def test_the_next_scan_costs_what_changed(fleet: Fleet) -> None:
    keeping = {"base_snapshots.keep": 1}
    fleet.order("web-a", settings=keeping)
    fleet.worker()
    first = fleet.ended("web-a")["web-a"]
    assert len(first.base) == 1
    assert fleet.ours() == {first.base[0].id}
    (row,) = fleet.bases()
    assert row.usd_month == pytest.approx(0.025)
    fleet.remote.do("change", machine="web-1", files={"/srv/shell.php": "<?php @eval($_POST['x']); ?>"})
    fleet.order("web-b", settings=keeping)
    second = fleet.ended("web-b")["web-b"]
    report = fleet.report(second)
    assert (report["coverage"]["mode"], report["result"]) == ("incremental", "findings")
    assert second.usd < first.usd
    assert report["coverage"]["blocks_read"] < fleet.report(first)["coverage"]["blocks_read"]
    assert fleet.ours() == {second.base[0].id}, "the old base is gone"
    assert len(list(fleet.objects().names())) == 1
    assert fleet.sweep() == []
    fleet.order("web-c", settings={"base_snapshots.keep": 1, "scan.depth": "full"})
    assert fleet.report(fleet.ended("web-c")["web-c"])["coverage"]["mode"] == "full"


@pytest.mark.parametrize("what", ["damaged", "gone", "wrong key", "snapshot gone"])
def test_a_base_that_cannot_be_used_is_refused(fleet: Fleet, what: str) -> None:
    keeping = {"base_snapshots.keep": 1}
    fleet.order("web-a", settings=keeping)
    fleet.worker()
    first = fleet.ended("web-a")["web-a"]
    (manifest,) = (fleet.data / "objects").glob("*.manifest")
    if what == "damaged":
        raw = bytearray(manifest.read_bytes())
        raw[len(raw) // 2] ^= 1
        manifest.write_bytes(raw)
    elif what == "gone":
        manifest.unlink()
    elif what == "wrong key":
        keys = fleet.data / "manifest.keys"
        keys.write_text(f"{keys.read_text()[:8]} {'0' * 64}\n")
        fleet.processes[0].kill()
        fleet.processes[0].wait()
        fleet.worker()
    else:
        fleet.session.client("ec2", endpoint_url=fleet.aws["endpoint"]).delete_snapshot(SnapshotId=first.base[0].id)
    fleet.order("web-b", settings=keeping)
    coverage = fleet.report(fleet.ended("web-b")["web-b"])["coverage"]
    assert coverage["mode"] == "full"
    assert coverage["base_refused"]


def test_manifests_that_cannot_be_kept(fleet: Fleet) -> None:
    """The scan is as good as any; there is no base, and the log says why."""
    store = {"AWS_ENDPOINT_URL": fleet.aws["endpoint"], "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    fleet.order("web-a", settings={"base_snapshots.keep": 1})
    fleet.worker(lease=60, KUMOMORI_FLEET_OBJECTS="s3://no-such-bucket/x", **store)
    found = fleet.ended("web-a")["web-a"]
    assert (found.state, found.base) == (ScanState.DONE, ())
    assert fleet.ours() == set()
    assert "web-a-1.manifest: the store of manifests cannot be used (it has no such bucket" in fleet.log()


def test_an_image_once_and_then_its_clones(fleet: Fleet) -> None:
    """What an instance differs in from its image is all that is read of it."""
    clones = fleet.remote.do("clones", count=1)
    instance = fleet.connector().instance(next(iter(clones.values())))
    machine = f"{fleet.place}/{instance.image}"
    before = set(fleet.snapshots())
    fleet.order("image", instance, kind=ScanKind.IMAGE, machine=machine, image=instance.image)
    fleet.worker()
    result = fleet.ended("image")["image"]
    assert result.state is ScanState.DONE, result
    assert fleet.report(result)["coverage"]["mode"] == "full"
    assert set(fleet.snapshots()) == before, "an image's snapshots are read in place"
    fleet.order("clone", instance, image=instance.image)
    report = fleet.report(fleet.ended("clone")["clone"])
    assert report["coverage"]["mode"] == "incremental", report["coverage"]
    with fleet.database.read() as connection:
        bases = {row.digest: row.base for row in connection.execute(select(file_set))}
    assert bases[result.file_set] == ""
    clone = fleet.ended("clone")["clone"].file_set
    assert clone == result.file_set or bases[clone] == result.file_set
    assert set(fleet.snapshots()) == before
    assert fleet.sweep_objects() == []


def test_a_machine_from_a_file(fleet: Fleet) -> None:
    disk = fleet.folder / "disk.img"
    build(disk)
    place = Place("file", "site", "here")
    machine = Instance(place, "m-1", disks=(Disk(place, str(disk), "m-1"),))
    lost = Instance(place, "m-2", disks=(Disk(place, str(disk) + ".gone", "m-2"),))
    other = Instance(place, "m-3", disks=(Disk(place, str(disk) + ".gone", "m-3"),))
    fleet.site("site", machine, lost, other)
    fleet.order("file", machine)
    fleet.order("lost", lost)
    fleet.order("other", replace(other, disks=machine.disks))  # a path that the site's file does not name for it
    fleet.order("none", replace(machine, id="m-4"))
    fleet.worker()
    found = fleet.ended("file", "lost", "other", "none")
    assert fleet.report(found["file"])["result"] == "findings"
    assert found["none"].state is ScanState.GONE, "the site's file does not name it"
    assert {found[name].state for name in ("lost", "other")} == {ScanState.FAILED}, "it does, so it is not gone"
    assert found["file"].file_set


def test_snapshots_that_somebody_planted_are_not_read(fleet: Fleet) -> None:
    """Of before the break-in, under the token that the next scan will have: what runs on the machine may be let do that."""
    ec2 = fleet.session.client("ec2", endpoint_url=fleet.aws["endpoint"])
    tags = {TOKEN: "web-next-1", INSTALLATION: fleet.installation, EXPIRES: "2099-01-01T00:00:00+00:00"}
    ec2.create_snapshots(
        InstanceSpecification={"InstanceId": fleet.machine("web-1").id},
        Description=f"Kumomori scan {mark(fleet.installation, 'web-next-1')}",
        TagSpecifications=[{"ResourceType": "snapshot", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}],
    )
    fleet.remote.do("change", machine="web-1", files={"/srv/planted.php": "<?php @eval($_POST['x']); ?>"})
    fleet.order("web-next")
    fleet.worker()
    eventually(lambda: fleet.row("web-next").state == ScanState.WAITING and fleet.row("web-next").attempt == 1, "again")
    assert "somebody else made it" in fleet.row("web-next").detail
    fleet.hurry()
    result = fleet.ended("web-next")["web-next"]
    assert result.attempt == 2
    assert "/srv/planted.php" in str(fleet.report(result)["findings"])
    fleet.sweep()
    assert fleet.ours() == set()


def test_a_machine_that_is_gone(fleet: Fleet) -> None:
    fleet.order("gone", replace(fleet.machine("web-1"), id="i-0123456789abcdef0"))
    fleet.worker()
    assert fleet.ended("gone")["gone"].state is ScanState.GONE
    assert fleet.ours() == set()


@pytest.mark.parametrize("moment", ["wait:begin", "scan:begin", "block"])
def test_our_snapshot_is_deleted_under_the_scan(fleet: Fleet, moment: str) -> None:
    """Once more with a new one; a second time it has failed. The machine is there, and so is its base."""
    keeping = {"base_snapshots.keep": 1}
    fleet.order("base", settings=keeping)
    fleet.worker(lease=BRIEF_SECONDS)
    (kept,) = (one.id for one in fleet.ended("base")["base"].base)
    fleet.processes[0].kill()
    fleet.processes[0].wait()
    fleet.work = "tests.scanner.fleet.losing"
    fleet.worker(FLEET_LOSE=moment, FLEET_KEPT=kept)
    fleet.order("lost", settings=keeping | {"scan.depth": "full"})
    eventually(lambda: fleet.row("lost").state == ScanState.WAITING and fleet.row("lost").failures, fleet.log())
    assert "not there any more" in fleet.row("lost").detail
    fleet.hurry()
    result = fleet.ended("lost")["lost"]
    assert result.state is ScanState.FAILED
    assert result.detail.startswith("tried 2 times")
    assert [row.scan for row in fleet.bases()] == ["base"]
    assert fleet.ours() == {kept}


def test_an_image_that_is_gone_takes_no_base_with_it(fleet: Fleet) -> None:
    """Clones that live on begin from it."""
    clones = fleet.remote.do("clones", count=1)
    clone = fleet.connector().instance(next(iter(clones.values())))
    machine = f"{fleet.place}/{clone.image}"
    fleet.order("image", kind=ScanKind.IMAGE, machine=machine, image=clone.image)
    fleet.worker()
    assert fleet.ended("image")["image"].state is ScanState.DONE
    fleet.order("gone", kind=ScanKind.IMAGE, machine=machine, image="ami-0123456789abcdef0")
    assert fleet.ended("gone")["gone"].state is ScanState.GONE, "no listing names it"
    fleet.order("clone", clone, image=clone.image)
    assert fleet.report(fleet.ended("clone")["clone"])["coverage"]["mode"] == "incremental"


@pytest.mark.parametrize(
    "words", [{"settings": {"limits.scan_usd": 0.0001}}, {"usd_left": 0.0001}], ids=["scan", "month"]
)
def test_what_would_cost_too_much_is_not_begun(fleet: Fleet, words: dict[str, Any]) -> None:
    fleet.remote.do("clear_log")
    fleet.order("dear", **words)
    fleet.worker()
    result = fleet.ended("dear")["dear"]
    assert result.state is ScanState.FAILED
    assert "would cost" in result.detail
    assert "ec2:CreateSnapshots" not in fleet.remote.do("actions")


def test_nothing_may_be_snapshotted(fleet: Fleet) -> None:
    fleet.remote.do("deny", action="ec2:CreateSnapshots")
    fleet.order("denied")
    fleet.worker()
    result = fleet.ended("denied")["denied"]
    assert result.state is ScanState.FAILED
    assert "ec2:CreateSnapshots" in result.detail


def test_stop_pause_and_resume(fleet: Fleet) -> None:
    fleet.remote.do("limits", block_latency_seconds=0.2)
    fleet.order("stopped")
    fleet.order("paused", fleet.machine("shop-1"))
    fleet.worker()
    fleet.worker("slot-2")
    eventually(lambda: all(fleet.row(one).step == "scan" for one in ("stopped", "paused")), fleet.log())
    fleet.ask("stop", "stopped")
    fleet.ask("pause", "paused")
    assert fleet.ended("stopped")["stopped"].state is ScanState.STOPPED
    eventually(lambda: fleet.row("paused").state == ScanState.PAUSED, fleet.log())
    assert fleet.ours() == set(), "one that waits keeps nothing"
    fleet.remote.do("calm")
    fleet.ask("resume", "paused")
    done = fleet.ended("paused")["paused"]
    assert (done.state, done.attempt) == (ScanState.DONE, 2)
    assert fleet.ours() == set()
