from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.text import escape, printable, unescape


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(b"", "", id="empty"),
        pytest.param(b"/etc/passwd", "/etc/passwd", id="ascii"),
        pytest.param("/霧の森".encode(), "/霧の森", id="utf-8"),
        pytest.param(b"r\xe9sum\xe9", "r\\xe9sum\\xe9", id="latin-1"),
        pytest.param(b"a\\b", "a\\b", id="backslash"),
        pytest.param(b"a\\x41", "a\\x5cx41", id="looks-escaped"),
        pytest.param(b"a\\x4", "a\\x4", id="looks-half-escaped"),
        pytest.param(b"a\\\\x41", "a\\\\x5cx41", id="two-backslashes"),
        pytest.param(b"a\\\xff", "a\\\\xff", id="backslash-before-a-bad-byte"),
        pytest.param(b"\xed\xa0\x80", "\\xed\\xa0\\x80", id="encoded-surrogate"),
        pytest.param(b"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80", id="past-the-last-character"),
        pytest.param(b"\xc0\xaf", "\\xc0\\xaf", id="overlong"),
        pytest.param(b"a\nb\0", "a\nb\0", id="control"),
    ],
)
def test_escape(raw: bytes, text: str) -> None:
    assert escape(raw) == text
    assert unescape(text) == raw


@given(st.binary() | st.text(alphabet="\\x5cx41fF0é霧").map(lambda text: text.encode()))
@example(b"\\\xffx41")
@example(b"\\\\\\x5c")
@example(b"\\x5cx5c")
def test_escape_keeps_every_byte(raw: bytes) -> None:
    text = escape(raw)
    assert unescape(text) == raw
    text.encode("utf-8")  # valid text, no surrogates
    assert unescape(json.loads(json.dumps(text))) == raw


@given(st.binary(), st.binary())
def test_escape_tells_any_two_apart(one: bytes, other: bytes) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain text", "plain text", id="ascii"),
        pytest.param("霧 é", "霧 é", id="letters"),
        pytest.param("a\x1b[2Jb", "a\\x1b[2Jb", id="terminal-escape"),
        pytest.param("a\nb\tc\r", "a\\x0ab\\x09c\\x0d", id="lines"),
        pytest.param("\x7f\x9b", "\\x7f\\x9b", id="del-and-c1"),
        pytest.param("a\u202egpj", "a\\u202egpj", id="bidi"),
        pytest.param("a\u200bb\ufeff", "a\\u200bb\\ufeff", id="invisible"),
        pytest.param("\u2028\u2029", "\\u2028\\u2029", id="separators"),
        pytest.param("\ud800", "\\ud800", id="lone-surrogate"),
        pytest.param("\U000e0041", "\\U000e0041", id="tag"),
        pytest.param("\ue000\U0010ffff", "\\ue000\\U0010ffff", id="private-and-unassigned"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_printable_is_one_line_for_any_terminal(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in shown)
    shown.encode("utf-8")
    assert printable(shown) == shown
