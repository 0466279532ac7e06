from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.files import MemoryFile
from core.findings import Finding
from scanner.detectors.ld_preload import LdPreload

PATH = b"/etc/ld.so.preload"


@pytest.mark.parametrize(
    ("content", "entries"),
    [
        pytest.param(b"/lib/a.so\n", ["/lib/a.so"], id="one"),
        pytest.param(
            b"/lib/a.so /lib/b.so:/lib/c.so\t/lib/d.so",
            ["/lib/a.so", "/lib/b.so", "/lib/c.so", "/lib/d.so"],
            id="separators",
        ),
        pytest.param(b"# nothing\n  \n\t# at all\n", [], id="comments"),
        pytest.param(b"/lib/a.so # why\n", ["/lib/a.so"], id="comment-behind"),
        pytest.param(b"a.so\r\n", ["a.so"], id="crlf"),
        pytest.param(b"/x\n/x\n", ["/x"], id="twice"),
        pytest.param(b"/lib/\xff.so", ["/lib/\\xff.so"], id="not-utf-8"),
        pytest.param(b"\0\0\0", [], id="zeros"),
    ],
)
def test_entries(content: bytes, entries: list[str]) -> None:
    found = list(LdPreload().inspect(MemoryFile(PATH, content)))
    assert [one.subject for one in found if isinstance(one, Finding)] == entries
    assert len(found) == len(entries)


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        pytest.param(MemoryFile(PATH, b"x"), True, id="file"),
        pytest.param(MemoryFile(PATH), False, id="empty"),
        pytest.param(MemoryFile(PATH, b"x", mode=stat.S_IFLNK | 0o777), True, id="link"),
        pytest.param(MemoryFile(b"/etc/ld.so.conf", b"x"), False, id="other"),
    ],
)
def test_wants(file: MemoryFile, wanted: bool) -> None:
    assert LdPreload().wants(file) is wanted


@given(st.binary(max_size=300))
def test_any_bytes_give_findings_only(content: bytes) -> None:
    assert all(isinstance(one, Finding) and one.subject for one in LdPreload().inspect(MemoryFile(PATH, content)))
