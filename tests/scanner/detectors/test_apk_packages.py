from __future__ import annotations

import pytest

from core.files import MemoryFile
from core.findings import Gap, Package
from scanner.detectors.apk_packages import ApkPackages

PATH = b"/lib/apk/db/installed"
MUSL = b"""C:Q1AmxF3nnOQEbBtBaxGr4NmXXLUSA=
P:musl
V:1.2.5-r9
A:x86_64
S:410913
I:667648
T:the musl c library (libc) implementation
U:https://musl.libc.org/
L:MIT
o:musl
m:Natanael Copa <ncopa@alpinelinux.org>
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755
Z:Q1bUdkJ3Sm37ebVyrhYBQqHzRUkj4=

"""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(MUSL, ["musl 1.2.5-r9 x86_64 musl 1.2.5-r9"], id="musl"),
        pytest.param(b"P:libssl3\nV:3.3-r0\no:openssl\n", ["libssl3 3.3-r0  openssl 3.3-r0"], id="origin"),
        pytest.param(b"P:a\nV:1\n\nP:b\nV:2\n", ["a 1  a 1", "b 2  b 2"], id="two"),
        pytest.param(b"", [], id="empty"),
    ],
)
def test_packages(content: bytes, expected: list[str]) -> None:
    found = list(ApkPackages().inspect(MemoryFile(PATH, content)))
    words = [
        f"{one.name} {one.version} {one.architecture} {one.source} {one.source_version}"
        for one in found
        if isinstance(one, Package)
    ]
    assert words == expected
    assert len(words) == len(found)


@pytest.mark.parametrize(
    "content",
    [b"P:a\n", b"V:1\n", b"P:a\nP:b\nV:1", b"P:a b\nV:1", b"P:a\nV:1\nx", b"P:" + b"a" * 9999 + b"\nV:1", b"\0"],
)
def test_a_broken_entry_is_a_gap(content: bytes) -> None:
    found, gap = ApkPackages().inspect(MemoryFile(PATH, content + b"\n\n" + MUSL))
    assert isinstance(found, Package)
    assert isinstance(gap, Gap)


def test_which_files() -> None:
    assert ApkPackages().wants(MemoryFile(PATH))
    assert ApkPackages().wants(MemoryFile(b"/usr/lib/apk/db/installed"))
    assert not ApkPackages().wants(MemoryFile(b"/srv/lib/apk/db/installed"))
    assert not ApkPackages().wants(MemoryFile(PATH, deleted=True))
