from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from core.files import MemoryFile
from core.findings import Gap, Package
from scanner.detectors.dpkg_packages import DpkgPackages
from tests.need import need_tool

PATH = b"/var/lib/dpkg/status"
OK = b"Status: install ok installed\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"Package: a\n" + OK + b"Version: 1-2\nArchitecture: amd64\n", ["a 1-2 amd64 a 1-2"], id="plain"),
        pytest.param(b"Package: a\n" + OK + b"Version: 1\nSource: s\n", ["a 1  s 1"], id="source"),
        pytest.param(b"Package: a\n" + OK + b"Version: 1+b1\nSource: s (1)\n", ["a 1+b1  s 1"], id="source-version"),
        pytest.param(b"Package: a\nVersion: 1\n", ["a 1  a 1"], id="no-state"),
        pytest.param(b"PACKAGE: a\nVERSION:1\n", ["a 1  a 1"], id="case"),
        pytest.param(b"Package: a\nVersion: 1\nDescription: x\n Package: no\n .\n more\n", ["a 1  a 1"], id="continued"),
        pytest.param(b"Package: a\nStatus: deinstall ok config-files\nVersion: 1\n", [], id="removed"),
        pytest.param(b"Package: a\nStatus: install ok half-installed\nVersion: 1\n", ["a 1  a 1"], id="half"),
        pytest.param(b"\n\n \nPackage: a\nVersion: 1\n\n\n\nPackage: b\nVersion: 2", ["a 1  a 1", "b 2  b 2"], id="blank-lines"),
        pytest.param(b"", [], id="empty"),
    ],
)  # fmt: skip
def test_packages(content: bytes, expected: list[str]) -> None:
    found = list(DpkgPackages().inspect(MemoryFile(PATH, content)))
    words = [
        f"{one.name} {one.version} {one.architecture} {one.source} {one.source_version}"
        for one in found
        if isinstance(one, Package)
    ]
    assert words == expected
    assert len(words) == len(found)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"Package: a\n", id="no-version"),
        pytest.param(b"Version: 1\n", id="no-name"),
        pytest.param(b"Package: a\nPackage: b\nVersion: 1\n", id="twice"),
        pytest.param(b"Package: a\nVersion: 1\nnonsense\n", id="no-colon"),
        pytest.param(b"Package: a b\nVersion: 1\n", id="space"),
        pytest.param(b"Package: ../x\nVersion: 1\n", id="path"),
        pytest.param(b"Package: a\nVersion: \xff\n", id="not-ascii"),
        pytest.param(b"Package: " + b"a" * 10_000 + b"\nVersion: 1\n", id="huge"),
        pytest.param(b"Package: a\nVersion: 1\nStatus: installed\n", id="state"),
        pytest.param(b"Package: a\nVersion: 1\nSource: x (\n", id="source"),
        pytest.param(b"\0" * 1000, id="zeros"),
    ],
)
def test_a_broken_entry_is_a_gap_and_the_others_are_read(content: bytes) -> None:
    whole = b"Package: before\nVersion: 1\n\n" + content + b"\n\nPackage: after\nVersion: 1\n"
    before, after, gap = DpkgPackages().inspect(MemoryFile(PATH, whole))
    assert isinstance(before, Package)
    assert isinstance(after, Package)
    assert (before.name, after.name) == ("before", "after")
    assert isinstance(gap, Gap)
    assert gap.count == 1


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        (MemoryFile(PATH), True),
        (MemoryFile(b"/lib/dpkg/status"), True),
        (MemoryFile(b"/var/lib/dpkg/status.d/base-files"), True),
        (MemoryFile(b"/var/lib/dpkg/status.d/base-files.md5sums"), False),
        (MemoryFile(b"/var/lib/dpkg/status.d/a/b"), False),
        (MemoryFile(b"/var/lib/dpkg/status-old"), False),
        (MemoryFile(b"/srv/var/lib/dpkg/status"), False),
        (MemoryFile(PATH, mode=0o40755), False),
        (MemoryFile(PATH, deleted=True), False),
    ],
)
def test_which_files(file: MemoryFile, wanted: bool) -> None:
    assert DpkgPackages().wants(file) is wanted


def test_the_same_as_dpkg_query() -> None:
    """This machine's own packages, by an independent reader."""
    need_tool("dpkg-query", "dpkg")
    form = "${db:Status-Status}\t${Package} ${Version} ${Architecture} ${source:Package} ${source:Version}\n"
    lines = subprocess.run(
        ["dpkg-query", "-W", "-f", form], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    expected = sorted(
        line.partition("\t")[2] for line in lines if line.partition("\t")[0] not in {"not-installed", "config-files"}
    )
    found = list(DpkgPackages().inspect(MemoryFile(PATH, Path("/var/lib/dpkg/status").read_bytes())))
    words = sorted(
        f"{one.name} {one.version} {one.architecture} {one.source} {one.source_version}"
        for one in found
        if isinstance(one, Package)
    )
    assert words == expected
    assert len(words) == len(found) > 50
