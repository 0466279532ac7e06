"""Bounds on what package managers' files may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.files import MemoryFile
from core.findings import Detector, Gap, GapReason, Package
from scanner.detectors import packages
from scanner.detectors.apk_packages import ApkPackages
from scanner.detectors.dpkg_packages import DpkgPackages
from scanner.detectors.os_release import OsRelease

FILES: list[tuple[Detector, bytes]] = [
    (DpkgPackages(), b"/var/lib/dpkg/status"),
    (ApkPackages(), b"/lib/apk/db/installed"),
    (OsRelease(), b"/usr/lib/os-release"),
]
_WORDS = st.lists(
    st.sampled_from(
        [
            b"Package: a\n",
            b"Version: 1\n",
            b"Status: install ok installed\n",
            b"\n",
            b"P:a\n",
            b"V:1\n",
            b"ID=x\n",
            b" ",
            b":",
        ]
    )
    | st.binary(max_size=20)
).map(b"".join)


@pytest.mark.parametrize(("detector", "path"), FILES, ids=["dpkg", "apk", "os"])
@given(content=_WORDS)
def test_any_bytes_give_packages_and_gaps_only(detector: Detector, path: bytes, content: bytes) -> None:
    for one in detector.inspect(MemoryFile(path, content)):
        assert isinstance(one, Package | Gap)
        if isinstance(one, Package):
            assert one.name and (one.version or one.type == "os")
            assert all(
                text.isascii() and text.isprintable() for text in (one.name, one.version, one.architecture, one.source)
            )


def test_too_many_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_PACKAGES", 3)
    content = b"".join(b"P:p%d\nV:1\n\n" % number for number in range(5))
    *found, gap = ApkPackages().inspect(MemoryFile(b"/lib/apk/db/installed", content))
    assert [one.name for one in found if isinstance(one, Package)] == ["p0", "p1", "p2"]
    assert isinstance(gap, Gap)
    assert gap.reason is GapReason.LIMIT


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_BYTES", 12)
    gap, *found = ApkPackages().inspect(MemoryFile(b"/lib/apk/db/installed", b"P:a\nV:1\n\nP:b\nV:1\n"))
    assert isinstance(gap, Gap)
    assert [one.name for one in found if isinstance(one, Package)] == ["a"]


def test_a_link_in_its_place_is_a_gap() -> None:
    (gap,) = DpkgPackages().inspect(MemoryFile(b"/var/lib/dpkg/status", b"/elsewhere", mode=0o120777))
    assert isinstance(gap, Gap)
