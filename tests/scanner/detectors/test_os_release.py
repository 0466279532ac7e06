from __future__ import annotations

import pytest

from core.files import MemoryFile
from core.findings import InFile, Package
from scanner.detectors.os_release import OsRelease
from scanner.report import with_distro

PATH = b"/usr/lib/os-release"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n', [("debian", "12")]),
        (b"ID='alpine'\nVERSION_ID=3.20.1\n", [("alpine", "3.20.1")]),
        (b"ID=debian\n", [("debian", "")]),
        (b'ID="arch \\"linux"\n', []),
        (b"VERSION_ID=1\n", []),
        (b"ID=" + b"a" * 1000, []),
        (b"", []),
    ],
)
def test_systems(content: bytes, expected: list[tuple[str, str]]) -> None:
    found = [one for one in OsRelease().inspect(MemoryFile(PATH, content)) if isinstance(one, Package)]
    assert [(one.name, one.version) for one in found] == expected


def test_packages_get_the_system_of_their_volume() -> None:
    def made(volume: int, kind: str, name: str) -> Package:
        return Package(InFile(volume, b"/x"), kind, name, "1")

    root, var = made(0, "os", "debian"), made(1, "deb", "bash")
    assert [one.distro for one in with_distro([root, var])] == ["debian-1", "debian-1"]
    two = with_distro([root, made(0, "deb", "a"), made(1, "os", "alpine"), made(1, "apk", "b"), made(2, "deb", "c")])
    assert [one.distro for one in two] == ["debian-1", "debian-1", "alpine-1", "alpine-1", ""]
