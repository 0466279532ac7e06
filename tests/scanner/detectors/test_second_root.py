from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.files import MemoryFile
from core.findings import Finding
from scanner.detectors.second_root import SecondRoot

ROOT = b"root:x:0:0:root:/root:/bin/bash\n"


@pytest.mark.parametrize(
    ("passwd", "users"),
    [
        pytest.param(ROOT + b"bin:x:1:1::/:/sbin/nologin\n", [], id="clean"),
        pytest.param(ROOT + b"toor:x:0:0::/root:/bin/sh\n", ["toor"], id="toor"),
        pytest.param(
            ROOT + b"a:x:00:0::/:\nb:x:+0:0::/:\nc:x:-0:0::/:\nd:x: 0:0::/:\n", ["a", "b", "c", "d"], id="other-zeros"
        ),
        pytest.param(ROOT + b"a:x:1000:0::/:\n", [], id="group-root-only"),
        pytest.param(ROOT + b"a:x:0x0:0::/:\nb:x::0::/:\nc:x:0 :0::/:\n", [], id="not-numbers"),
        pytest.param(ROOT + b"+a:x:0:0::/:\n#b:x:0:0::/:\n:x:0:0::/:\n", [], id="not-accounts"),
        pytest.param(ROOT * 2, [], id="root-twice"),
        pytest.param(b"a:x:0\nb:0\n", [], id="too-few-fields"),
        pytest.param(b"Root:x:0:0::/:\n", ["Root"], id="case"),
        pytest.param(b"root :x:0:0::/:\n", ["root "], id="space"),
        pytest.param(b"", [], id="empty-file"),
        pytest.param(b"\xff\x00:\x00:0:0:", ["\\xff\x00"], id="not-text"),
    ],
)
def test_second_root(passwd: bytes, users: list[str]) -> None:
    found = list(SecondRoot().inspect(MemoryFile(b"/etc/passwd", passwd)))
    assert [one.subject for one in found if isinstance(one, Finding)] == users
    assert len(found) == len(users)


def test_wants_passwd_alone() -> None:
    assert SecondRoot().wants(MemoryFile(b"/etc/passwd"))
    assert not SecondRoot().wants(MemoryFile(b"/etc/passwd-"))


@given(st.binary(max_size=300))
def test_any_bytes_give_findings_only(content: bytes) -> None:
    assert all(isinstance(one, Finding) for one in SecondRoot().inspect(MemoryFile(b"/etc/passwd", content)))
