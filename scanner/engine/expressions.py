"""A regular expression of YARA's in Hyperscan's words, for those that hold no literal worth looking for.

Anchors and borders are left out, so it may match more often, never less. What the two might read differently is refused.
Sources: "Regular expressions" in https://yara.readthedocs.io; "Pattern Support" in Hyperscan's developer reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import hyperscan

from scanner.engine.text import NotUnderstood, String

_MIN_BYTES: Final = 2  # of the shortest match: what matches less is everywhere
_MAX_DEPTH: Final = 50
_ESCAPES: Final = {"n": 10, "t": 9, "r": 13, "f": 12, "a": 7}
_CLASSES: Final = frozenset("wWsSdD")
_REPEAT: Final = re.compile(rb"\{(\d{1,4})(,?)(\d{0,4})\}")


@dataclass(frozen=True, slots=True)
class Expression:
    """Something that this matches occurs in the content. `nocase`: in whatever case of ASCII letters."""

    pattern: bytes
    nocase: bool = False


def expressions_of(string: String) -> frozenset[Expression] | None:
    """Of these at least one matches in every content in which the string is found; None if nothing can be said."""
    if string.kind != "regex" or string.modifiers & {"xor", "base64", "base64wide"}:
        return None
    nocase = "nocase" in string.modifiers or "i" in string.flags
    widths = [2] if "wide" in string.modifiers else []
    if not widths or "ascii" in string.modifiers:
        widths.append(1)
    try:
        translated = [_Translator(string.body, width) for width in widths]
    except (NotUnderstood, ValueError, IndexError):
        return None
    if translated[0].least < _MIN_BYTES:
        return None
    found = frozenset(Expression(bytes(one.out), nocase) for one in translated)
    return found if all(_compiles(one) for one in found) else None


def flags_of(pattern: Expression) -> int:
    # as a filter it may match more often than it says, and then compiles to less
    flags = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_DOTALL | hyperscan.HS_FLAG_PREFILTER
    return int(flags | (hyperscan.HS_FLAG_CASELESS if pattern.nocase else 0))


@lru_cache(1 << 12)
def _compiles(pattern: Expression) -> bool:
    try:
        hyperscan.Database().compile(expressions=[pattern.pattern], ids=[0], elements=1, flags=[flags_of(pattern)])
    except hyperscan.error:
        return False
    return True


class _Translator:
    """`out` is the expression, `least` how many bytes its shortest match has. With `width` 2 a zero follows each byte."""

    def __init__(self, text: str, width: int) -> None:
        self._raw = text.encode("utf-8")
        self._at = 0
        self._zero = b"\\x00" if width == 2 else b""
        self.out = bytearray()
        self.least = self._alternatives(0)
        if self._at != len(self._raw):
            raise NotUnderstood("a parenthesis too many")

    def _peek(self) -> str:
        return chr(self._raw[self._at]) if self._at < len(self._raw) else ""

    def _alternatives(self, depth: int) -> int:
        """Up to the end or the closing parenthesis; returns the bytes of the shortest match."""
        if depth > _MAX_DEPTH:
            raise NotUnderstood("too deep")
        shortest = [self._sequence(depth)]
        while self._peek() == "|":
            self._at += 1
            self.out += b"|"
            shortest.append(self._sequence(depth))
        return min(shortest)

    def _sequence(self, depth: int) -> int:
        shortest = 0
        while (mark := self._peek()) and mark not in "|)":
            begin = len(self.out)
            length = self._atom(depth)
            if length is None:
                continue
            if mark != "(" and self._zero:
                self.out[begin:] = b"(?:" + bytes(self.out[begin:]) + self._zero + b")"
            shortest += length * self._least()
        return shortest

    def _atom(self, depth: int) -> int | None:
        """One thing that can be repeated; None for an anchor, which is left out."""
        mark = self._peek()
        self._at += 1
        if mark in "^$":
            return None
        if mark == "(":
            if self._peek() == "?":
                raise NotUnderstood("an extension")
            self.out += b"(?:"
            length = self._alternatives(depth + 1)
            if self._peek() != ")":
                raise NotUnderstood("a group without end")
            self._at += 1
            self.out += b")"
            return length
        if mark == "[":
            self._class()
        elif mark == "\\":
            return self._escape()
        elif mark in "*+?{}":
            raise NotUnderstood(mark)
        else:
            self.out += b"." if mark == "." else b"\\x%02x" % ord(mark)
        return 1

    def _escape(self) -> int | None:
        mark = self._peek()
        self._at += 1
        if mark and mark in "bB":
            return None
        if mark in _CLASSES:
            self.out += b"\\" + mark.encode("ascii")
        elif mark == "x":
            self.out += b"\\x%02x" % int(self._raw[self._at : self._at + 2], 16)
            self._at += 2
        elif mark in _ESCAPES:
            self.out += b"\\x%02x" % _ESCAPES[mark]
        elif not mark or mark.isalnum() or ord(mark) > 126:
            raise NotUnderstood(mark)
        else:
            self.out += b"\\x%02x" % ord(mark)
        return 1

    def _class(self) -> None:
        start = self._at
        if self._peek() == "^":
            self._at += 1
        if self._peek() == "]":
            raise NotUnderstood("a class that begins with its end")
        while (mark := self._peek()) != "]":
            self._at += 1
            if mark == "\\":
                self._class_escape()
            elif not mark or mark == "[" or ord(mark) > 126:
                raise NotUnderstood("a class that may be read in two ways")
        self._at += 1
        self.out += b"[" + self._raw[start : self._at]

    def _class_escape(self) -> None:
        mark = self._peek()
        self._at += 1
        if mark == "x":
            int(self._raw[self._at : self._at + 2], 16)
            self._at += 2
        elif not mark or ord(mark) > 126 or (mark.isalnum() and mark not in _ESCAPES and mark not in _CLASSES):
            raise NotUnderstood(mark)

    def _least(self) -> int:
        """How often at least what stands before occurs."""
        mark, start = self._peek(), self._at
        if mark and mark in "*?+":
            self._at += 1
            least = int(mark == "+")
        elif mark == "{":
            found = _REPEAT.match(self._raw, self._at)
            if not found:
                raise NotUnderstood("{")  # also {,9}, which others read as text
            self._at = found.end()
            least = int(found[1])
        else:
            return 1
        self.out += self._raw[start : self._at]
        if self._peek() == "?":  # the shortest match first: in the same contents
            self._at += 1
        return least
