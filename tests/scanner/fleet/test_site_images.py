"""Disk images of a site's file, as a hostile or careless world leaves them: never clean without having been read."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.estate import Disk
from core.findings import GapReason, OnDisk
from demo.disk import build
from scanner.fleet import look
from scanner.machine import ScanOptions
from scanner.report import Report
from tests.scanner.fleet.test_admission import an_order

pytestmark = pytest.mark.slow
OPTIONS = ScanOptions(jobs=1)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site") / "disk.img"
    build(made)
    return made


def disk(path: Path | str, obstacle: str = "") -> Disk:
    order = an_order("one")
    return Disk(order.place, str(path), "m-1", obstacle=obstacle)


def scanned(*disks: Disk) -> Report:
    return look._scan_files(disks, an_order("one"), OPTIONS, lambda: None)


def test_a_disk_with_an_obstacle_is_a_gap(image: Path) -> None:
    report = scanned(disk(image), disk("/dev/vdb", "passed through to the machine"))
    (gap,) = [one for one in report.gaps if one.where == OnDisk(1)]
    assert (gap.reason, gap.detail) == (GapReason.UNREADABLE, "passed through to the machine")
    assert report.target == (str(image), "/dev/vdb")
