"""The demo estate: what a scanner will find on its disks, and how they change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import disk
from demo.aws import EmulatedAws
from demo.aws.content import BLOCK, GIB
from demo.aws.estate import BOOT, DATA, Estate, fill
from tests.demo.aws.tools import as_role, indexes, listed, refused
from tests.demo.tools import MIB, mounted, run, seen
from tests.need import need_root, need_tool


@pytest.fixture(scope="module")
def estate(running: EmulatedAws) -> Iterator[Estate]:
    estate = fill(running)
    running.calm()
    yield estate
    running.rules.standing.clear()


def snapshots(estate: Estate, name: str) -> list[str]:
    made = estate.aws.client("ec2").create_snapshots(InstanceSpecification={"InstanceId": estate[name].instance})
    return [view["SnapshotId"] for view in made["Snapshots"]]


def cut(estate: Estate, name: str, device: str, start_mib: int, size_mib: int, into: Path) -> Path:
    into.write_bytes(estate.content(name, device).read(start_mib * MIB, size_mib * MIB))
    return into


def test_three_machines_and_their_disks(estate: Estate, running: EmulatedAws) -> None:
    pages = running.client("ec2").describe_instances()["Reservations"]
    found = {one["Tags"][0]["Value"]: one for page in pages for one in page["Instances"]}
    assert list(found) == ["web-1", "shop-1", "vault-1"]
    assert [len(one["BlockDeviceMappings"]) for one in found.values()] == [1, 2, 1]
    assert {one.name: one.instance for one in estate} == {name: one["InstanceId"] for name, one in found.items()}
    used = sum(path.stat().st_blocks * 512 for path in running.folder.iterdir())
    assert used < 128 * MIB


def test_the_disks_are_those_of_the_demo(estate: Estate, tmp_path: Path) -> None:
    need_root()
    need_tool("e2fsck", "sgdisk")
    whole = estate.content("shop-1").path
    assert whole.stat().st_size == GIB
    assert "No problems found" in run("sgdisk", "-v", whole)
    with mounted(cut(estate, "shop-1", BOOT, 1, 48, tmp_path / "root"), tmp_path / "point") as point:
        assert set(disk.PLANTED) <= set(seen(point))
    data = cut(estate, "shop-1", DATA, 0, 32, tmp_path / "data")
    run("e2fsck", "-fn", data)
    with mounted(data, tmp_path / "point") as point:
        assert set(disk.PLANTED_DATA) <= set(seen(point))


def test_the_vault_is_closed_to_the_scanner(estate: Estate, running: EmulatedAws) -> None:
    (snapshot,) = snapshots(estate, "vault-1")
    scanner = as_role(running, "ebs", estate.scanner)
    with refused("AccessDeniedException", "DEPENDENCY_ACCESS_DENIED", 403) as denied:
        listed(scanner, snapshot)
    assert f"kms:Decrypt on resource: {estate.key}" in denied.message
    assert indexes(running.client("ebs"), snapshot)
    (open_one,) = snapshots(estate, "web-1")
    assert indexes(scanner, open_one)


def changed(estate: Estate, old: str, new: str) -> list[int]:
    ebs: Any = estate.aws.client("ebs")
    page = ebs.list_changed_blocks(FirstSnapshotId=old, SecondSnapshotId=new)
    return [one["BlockIndex"] for one in page["ChangedBlocks"]]


def test_changes_are_small_and_seen_by_blocks_alone(estate: Estate, tmp_path: Path) -> None:
    (first,) = snapshots(estate, "web-1")
    pages = estate.change("web-1", disk.file(b"/etc/hosts", "127.0.0.1 locAlhost\n192.0.2.10 demo\n"))
    assert len(pages) == 1  # the content; its time stayed the same
    (second,) = snapshots(estate, "web-1")
    assert changed(estate, first, second) == [pages[0] * 4096 // BLOCK]
    pages = estate.change("web-1", disk.file(b"/srv/new.txt", "new\n" * 3000))
    assert 3 < len(pages) < 20
    (third,) = snapshots(estate, "web-1")
    assert changed(estate, second, third) == sorted({page * 4096 // BLOCK for page in pages})
    need_root()
    need_tool("e2fsck")
    root = cut(estate, "web-1", BOOT, 1, 62, tmp_path / "root")
    run("e2fsck", "-fn", root)
    with mounted(root, tmp_path / "point") as point:
        files = seen(point)
    assert files[b"/srv/new.txt"]["content"] == b"new\n" * 3000
    assert files[b"/etc/hosts"]["content"] == b"127.0.0.1 locAlhost\n192.0.2.10 demo\n"
    assert files[b"/etc/hosts"]["mtime_ns"] == disk.file(b"/etc/hosts", "").mtime_ns


def test_clones_hold_what_their_image_held(estate: Estate, running: EmulatedAws) -> None:
    one, two = estate.clones(2)
    estate.change(two.name, disk.file(b"/etc/hosts", "127.0.0.1 cLonehost\n192.0.2.10 demo\n"))
    (of_one,), (of_two,), (origin,) = (snapshots(estate, name) for name in (one.name, two.name, "web-1"))
    assert changed(estate, origin, of_one) == []
    assert len(changed(estate, of_one, of_two)) == 1
    assert {one.name, two.name} == {"web-1-clone-1", "web-1-clone-2"}
    assert [three.name for three in estate.clones(1)] == ["web-1-clone-3"]
    assert running.log.count("ec2:CreateImage") == 2
