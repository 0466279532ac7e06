"""Disk images of a site's file, as a hostile or careless world leaves them: never clean without having been read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError
from core.estate import Disk
from core.findings import GapReason, OnDisk
from demo.disk import build
from scanner.fleet import look
from scanner.machine import ScanOptions, scan_machine
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


@pytest.mark.parametrize("how", ["written", "truncated", "replaced", "removed"])
def test_an_image_that_changes_while_it_is_read_is_never_clean(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = tmp_path / "disk.img"
    shutil.copyfile(image, path)

    def meddle() -> None:
        if how == "written":
            with path.open("r+b") as stream:
                stream.seek(60 << 20)
                stream.write(b"malware")
        elif how == "truncated":
            os.truncate(path, 1 << 20)
        elif how == "replaced":
            shutil.copyfile(image, tmp_path / "new")
            (tmp_path / "new").replace(path)
        else:
            path.unlink()

    def scan(*given: Any) -> Report:
        report = scan_machine(*given)
        meddle()  # at the latest moment: before, the scan itself may notice
        return report

    monkeypatch.setattr(look, "scan_machine", scan)
    report = scanned(disk(path))
    assert [one.where for one in report.gaps if "while it was read" in one.detail] == [OnDisk(0)]


def test_an_image_that_stays_as_it_is(image: Path) -> None:
    assert not [one for one in scanned(disk(image)).gaps if one.where == OnDisk(0)]


@pytest.mark.parametrize("what", ["fifo", "directory", "device", "empty", "loop", "missing beside one that is there"])
def test_what_is_no_image_fails_the_scan(image: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / "disk"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    elif what == "device":
        path = Path("/dev/zero")
    elif what == "empty":
        path.touch()
    elif what == "loop":
        path.symlink_to(path)
    with pytest.raises(ConfigError):
        scanned(disk(image), disk(path))


def test_an_image_of_eight_tebibytes_that_takes_no_room(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as stream:
        stream.truncate(8 << 40)
    report = scanned(disk(path))
    assert report.stats.bytes_total == 8 << 40
    assert report.gaps, "nothing was found in it: that is said"


def test_a_link_is_followed_once(image: Path, tmp_path: Path) -> None:
    """By whoever wrote the site's file; the same disk twice is refused under whatever name."""
    (tmp_path / "link").symlink_to(image)
    assert scanned(disk(tmp_path / "link")).findings
    with pytest.raises(ConfigError, match="twice"):
        scanned(disk(tmp_path / "link"), disk(image))
