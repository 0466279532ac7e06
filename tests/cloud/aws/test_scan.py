"""From an instance to a report: disks snapshotted, read block by block and parsed in a process that sees no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud.aws.blocks import SnapshotSource
from cloud.aws.connector import AwsConnector
from core.estate import Snapshot
from core.findings import GapReason
from demo.aws.emulator import EmulatedAws
from demo.aws.estate import Estate, fill
from demo.aws.rules import FaultKind
from demo.ext4 import Node
from scanner.disks import RemoteDisk
from scanner.job import Job, Task
from scanner.machine import ScanOptions, scan_machine
from scanner.report import Report
from scanner.reports.document import to_json
from scanner.sandbox import run
from tests.cloud.ledger import MemoryLedger

OPTIONS = ScanOptions(jobs=2, file_timeout_seconds=20)
BLOCKS = 2048  # of a disk of the demo


@pytest.fixture
def estate(emulator: EmulatedAws, account: str) -> Estate:
    return fill(emulator, account)


@pytest.fixture
def snapshots(connector: AwsConnector, estate: Estate) -> Callable[[str, str], list[Snapshot]]:
    def take(machine: str, token: str) -> list[Snapshot]:
        (instance,) = [one for one in connector.instances() if one.id == estate[machine].instance]
        return [connector.refresh(one) for one in connector.snapshot(instance.disks, token=token)]

    return take


@contextmanager
def opened(connector: AwsConnector, snapshots: list[Snapshot]) -> Iterator[list[RemoteDisk]]:
    with ExitStack() as stack:
        yield [RemoteDisk(str(one), stack.enter_context(connector.open(one, MemoryLedger()))) for one in snapshots]


def told(report: Report) -> Any:
    value: dict[str, Any] = to_json(report)
    for name in ("started", "target", "stats"):
        del value[name]
    return value


def paths(estate: Estate, machine: str) -> list[Path]:
    return [estate.content(machine, device).path for device in estate[machine].volumes]


def fetched(disks: list[RemoteDisk]) -> list[int]:
    return [disk.source.blocks.fetched for disk in disks if isinstance(disk.source, SnapshotSource)]


def test_the_same_report_as_of_the_files(
    connector: AwsConnector,
    emulator: EmulatedAws,
    estate: Estate,
    snapshots: Callable[[str, str], list[Snapshot]],
) -> None:
    taken = snapshots("shop-1", "scan-1")
    emulator.fault(FaultKind.WRONG_BYTES, every=5, times=3)
    emulator.fault(FaultKind.RESET, every=7, times=2)
    emulator.fault(FaultKind.ERROR_500, every=11, times=1)
    emulator.fault(FaultKind.EXPIRE_TOKENS, after=9, times=1)
    emulator.fault(FaultKind.THROTTLED, after=12, times=2)
    with opened(connector, taken) as disks:
        found = scan_machine(disks, OPTIONS)
    assert told(found) == told(scan_machine(paths(estate, "shop-1"), OPTIONS))
    planted = {path for of in estate["shop-1"].planted.values() for path in of}
    assert planted <= {finding.where.path for finding in found.findings}


def test_a_later_scan_fetches_what_changed(
    connector: AwsConnector,
    estate: Estate,
    snapshots: Callable[[str, str], list[Snapshot]],
    tmp_path: Path,
) -> None:
    old = snapshots("web-1", "scan-1")
    with opened(connector, old) as disks:
        scan_machine(disks, replace(OPTIONS, manifest=tmp_path / "base"))
    with opened(connector, old) as disks:
        run(disks, Job(task=Task.LIST, jobs=2), timeout_seconds=60)
        (metadata,) = fetched(disks)
    assert metadata <= 0.05 * BLOCKS
    estate.change("web-1", Node(b"/srv/page.php", 0o100644, content=b"<?php eval($_POST['x']);" * 3000))
    new = snapshots("web-1", "scan-2")
    changed = connector.changed(old[0], new[0])
    assert changed is not None
    extents = tuple((one.offset, one.length) for one in changed)
    assert extents
    with opened(connector, new) as disks:
        found = scan_machine(disks, replace(OPTIONS, base=tmp_path / "base", changes=(extents,)))
        (blocks,) = fetched(disks)
    assert found.coverage.mode == "incremental"
    assert {finding.where.path for finding in found.findings} == {b"/srv/page.php"}
    assert blocks <= 1.3 * sum(length for _, length in extents) / (512 << 10) + metadata


@pytest.mark.parametrize(
    ("denied", "words"), [("kms:Decrypt", "kms:Decrypt"), ("ebs:GetSnapshotBlock", "ebs:GetSnapshotBlock")]
)
def test_a_disk_that_may_not_be_read(
    connector: AwsConnector,
    emulator: EmulatedAws,
    snapshots: Callable[[str, str], list[Snapshot]],
    denied: str,
    words: str,
) -> None:
    taken = snapshots("vault-1", "scan-1")
    with opened(connector, taken) as disks:
        emulator.deny(denied)
        found = scan_machine(disks, OPTIONS)
    assert found.exit_code == 3
    assert any(words in gap.detail and gap.reason is GapReason.UNREADABLE for gap in found.gaps), found.gaps


def test_a_snapshot_that_vanishes_half_way(
    connector: AwsConnector, emulator: EmulatedAws, snapshots: Callable[[str, str], list[Snapshot]]
) -> None:
    (taken, other) = snapshots("shop-1", "scan-1")
    with opened(connector, [taken, other]) as disks:
        disks[0].source.read(0, 1)
        emulator.vanish(taken.id)
        found = scan_machine(disks, OPTIONS)
    assert any("not there any more" in gap.detail for gap in found.gaps)
    assert {volume.disk for volume in found.volumes if volume.files} == {1}, "the other disk was looked at"
