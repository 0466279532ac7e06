"""Packages in later scans: taken over with the file that lists them, and read again when it changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from scanner.machine import ScanOptions
from scanner.report import Report
from scanner.reports.document import to_json
from tests.scanner.incremental.compare import full, incremental
from tests.scanner.incremental.test_incremental import place_of, poke
from tests.scanner.sandboxed import file, folder, write_ext4

OPTIONS = ScanOptions(jobs=1)


def names(report: Report) -> list[str]:
    return [f"{one.name} {one.version} {one.distro}" for one in report.packages]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    status = b"".join(
        b"Package: p%03d\nStatus: install ok installed\nVersion: 1.0\n\n" % number for number in range(400)
    )
    nodes = [
        *(folder(path) for path in (b"/usr", b"/usr/lib", b"/var", b"/var/lib", b"/var/lib/dpkg")),
        file(b"/usr/lib/os-release", b"ID=debian\nVERSION_ID=12\n"),
        file(b"/var/lib/dpkg/status", status),
        file(b"/other", b"something else\n" * 300),
    ]
    return write_ext4(tmp_path / "disk.img", nodes)


def test_unchanged(disk: Path, tmp_path: Path) -> None:
    """The whole volume is as it was; then another file's block changed."""
    first = full(disk, tmp_path / "base", OPTIONS)
    assert names(first) == ["debian 12 debian-12", *(f"p{number:03} 1.0 debian-12" for number in range(400))]
    assert len(to_json(first)["packages"]) == 401
    again = incremental(disk, tmp_path / "base", tmp_path / "next", (), OPTIONS)
    assert names(again) == names(first)
    assert again.coverage.files_hashed == 0
    at = place_of(disk, b"something else\n")
    poke(disk, at, b"SOMETHING")
    third = incremental(disk, tmp_path / "next", tmp_path / "third", ((at, 1),), OPTIONS)
    assert names(third) == names(first)
    assert third.coverage.files_carried > 0


def test_changed(disk: Path, tmp_path: Path) -> None:
    first = full(disk, tmp_path / "base", OPTIONS)
    at = place_of(disk, b"Package: p007\n")
    poke(disk, at, b"Package: p007\nStatus: install ok installed\nVersion: 2.0\n")
    again = incremental(disk, tmp_path / "base", tmp_path / "next", ((at, 1),), OPTIONS)
    assert sorted(set(names(again)) ^ set(names(first))) == ["p007 1.0 debian-12", "p007 2.0 debian-12"]
    assert names(again) == names(full(disk, tmp_path / "right", OPTIONS))
