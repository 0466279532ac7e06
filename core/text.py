r"""Bytes from a disk become text here and nowhere else.

`escape` is for machines (JSON): UTF-8 stays, other bytes become `\xNN`; a backslash that would read as such an escape
becomes `\x5c`, so that `unescape` always gives the same bytes back. `printable` is for people: in addition everything
that could move the cursor, hide or reorder text is written out.
"""

from __future__ import annotations

import re
import unicodedata

_AMBIGUOUS = re.compile(rb"\\(?=x[0-9a-fA-F]{2})")
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
# Cc: control, Cf: format (bidi overrides, zero width), Zl/Zp: separators, Cs: lone surrogates, Co/Cn: private, unassigned
_UNPRINTABLE = {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}


def escape(raw: bytes) -> str:
    """`raw` as text that holds all of it; control bytes stay as they are (JSON escapes them itself)."""
    return _AMBIGUOUS.sub(rb"\\x5c", raw).decode("utf-8", "backslashreplace")


def unescape(text: str) -> bytes:
    """The bytes that `escape` was given."""
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text.encode("utf-8", "surrogateescape"))


def printable(text: str) -> str:
    """`text` safe for a terminal: one line, no control, no invisible or reordering characters."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(char) if unicodedata.category(char) in _UNPRINTABLE else char for char in text)


def _visible(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
