from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.files import MemoryFile
from core.findings import Finding, Gap, GapReason, InFile, Rule, Severity
from scanner.detectors.base import MAX_FINDINGS, MAX_LINE_BYTES, MAX_TEXT_BYTES, is_zero, once_each, read_lines

RULE = Rule("test/rule", "title", Severity.LOW, "remedy")


@pytest.mark.parametrize(
    ("field", "zero"),
    [
        pytest.param(b"0", True, id="zero"),
        pytest.param(b"00", True, id="two-digits"),
        pytest.param(b"+0", True, id="plus"),
        pytest.param(b"-0", True, id="minus"),
        pytest.param(b" \t0", True, id="white-space-before"),
        pytest.param(b"0 ", False, id="white-space-behind"),
        pytest.param(b"", False, id="empty"),
        pytest.param(b"+", False, id="sign-only"),
        pytest.param(b"0x0", False, id="hexadecimal"),
        pytest.param(b"10", False, id="ten"),
        pytest.param(b"\xd9\xa0", False, id="arabic-zero"),
    ],
)
def test_is_zero(field: bytes, zero: bool) -> None:
    assert is_zero(field) is zero


@pytest.mark.parametrize(
    ("content", "count", "gaps"),
    [
        pytest.param(b"", 1, 0, id="empty"),
        pytest.param(b"a\nb\n", 3, 0, id="two"),
        pytest.param(b"a" * MAX_LINE_BYTES, 1, 0, id="longest-line"),
        pytest.param(b"a\n" + b"b" * (MAX_LINE_BYTES + 1) + b"\nc", 3, 1, id="line-too-long"),
        pytest.param(b"\n" * MAX_TEXT_BYTES, MAX_TEXT_BYTES + 1, 0, id="largest-file"),
        pytest.param(b"\n" * (MAX_TEXT_BYTES + 1), MAX_TEXT_BYTES + 1, 1, id="file-too-large"),
        pytest.param(b"x" * (MAX_TEXT_BYTES + 1), 1, 2, id="both"),
    ],
)
def test_read_lines_is_bounded(content: bytes, count: int, gaps: int) -> None:
    lines, found = read_lines(MemoryFile(b"/etc/passwd", content))
    assert (len(lines), len(found)) == (count, gaps)
    assert all(len(line) <= MAX_LINE_BYTES for line in lines)
    assert {gap.reason for gap in found} <= {GapReason.LIMIT}


@given(st.binary(max_size=300))
def test_short_files_come_back_whole(content: bytes) -> None:
    lines, gaps = read_lines(MemoryFile(b"/etc/passwd", content))
    assert b"\n".join(lines) == content
    assert not gaps


def test_once_each_drops_repeats_and_says_when_it_stops() -> None:
    file = MemoryFile(b"/etc/passwd")
    many = [Finding(RULE, InFile.of(file), str(number // 2)) for number in range(10 * MAX_FINDINGS)]
    found = list(once_each(file, many))
    assert [one.subject for one in found if isinstance(one, Finding)] == [str(number) for number in range(MAX_FINDINGS)]
    assert [one.reason for one in found if isinstance(one, Gap)] == [GapReason.LIMIT]
    assert len(list(once_each(file, many[: 2 * MAX_FINDINGS]))) == MAX_FINDINGS
