from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.files import MemoryFile
from core.findings import Finding, Gap, GapReason, Severity
from scanner.detectors.empty_password import EmptyPassword


@pytest.mark.parametrize(
    ("shadow", "users"),
    [
        pytest.param(b"root:$6$salt$hash:1::::::\n", [], id="hashed"),
        pytest.param(b"root:!:1::::::\n", [], id="locked"),
        pytest.param(b"guest::1::::::\n", ["guest"], id="empty"),
        pytest.param(b"guest::1::::::", ["guest"], id="no-line-end"),
        pytest.param(b"guest::1::::::\nops::1::::::\n", ["guest", "ops"], id="two"),
        pytest.param(b"guest::1::::::\nguest::1::::::\n", ["guest"], id="twice-the-same"),
        pytest.param(b"guest::\r\n", ["guest"], id="crlf"),
        pytest.param(b"+::::::::\n-bad::::::::\n", [], id="directory-service"),
        pytest.param(b"#guest::1::::::\n", [], id="comment"),
        pytest.param(b"::1::::::\n", [], id="no-name"),
        pytest.param(b"guest:\nguest\n:\n\n", [], id="too-few-fields"),
        pytest.param(b"gu\xff\x1b::1::\n", ["gu\\xff\x1b"], id="name-is-not-text"),
        pytest.param(b"", [], id="empty-file"),
        pytest.param(b"\xff\xfe\x00garbage", [], id="not-text"),
    ],
)
def test_empty_password(shadow: bytes, users: list[str]) -> None:
    findings = [one for one in EmptyPassword().inspect(MemoryFile(b"/etc/shadow", shadow)) if isinstance(one, Finding)]
    assert [finding.subject for finding in findings] == users
    assert all(finding.rule.severity is Severity.CRITICAL for finding in findings)


def test_the_line_is_evidence() -> None:
    (finding,) = EmptyPassword().inspect(MemoryFile(b"/etc/passwd", b"root:x:0:0\nguest::1:1\n"))
    assert isinstance(finding, Finding)
    assert finding.evidence == {"line": 2}


@pytest.mark.parametrize(
    ("path", "mode", "wanted"),
    [
        pytest.param(b"/etc/shadow", stat.S_IFREG, True, id="shadow"),
        pytest.param(b"/etc/passwd", stat.S_IFREG, True, id="passwd"),
        pytest.param(b"/etc/shadow", stat.S_IFLNK, True, id="link"),
        pytest.param(b"/etc/shadow", stat.S_IFDIR, False, id="directory"),
        pytest.param(b"/etc/shadow-", stat.S_IFREG, False, id="backup"),
        pytest.param(b"/srv/etc/shadow", stat.S_IFREG, False, id="elsewhere"),
    ],
)
def test_wants(path: bytes, mode: int, wanted: bool) -> None:
    assert EmptyPassword().wants(MemoryFile(path, mode=mode | 0o644)) is wanted


def test_a_huge_file_is_bounded_and_said() -> None:
    found = list(EmptyPassword().inspect(MemoryFile(b"/etc/shadow", b"".join(b"u%d::\n" % n for n in range(200_000)))))
    assert sum(isinstance(one, Finding) for one in found) == 100
    assert [one.reason for one in found if isinstance(one, Gap)] == [GapReason.LIMIT, GapReason.LIMIT]


@given(st.binary(max_size=400) | st.text(":\n#+ab", max_size=60).map(str.encode))
def test_any_bytes_give_findings_only(content: bytes) -> None:
    for one in EmptyPassword().inspect(MemoryFile(b"/etc/shadow", content)):
        assert isinstance(one, Finding)
        assert one.subject
