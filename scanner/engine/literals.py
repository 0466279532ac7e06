"""From a string of a rule to literals of which one must occur in every content that the string is found in.

Text, hex strings and regular expressions have in common that a match is made of known bytes with unknown ones between
them: a `Piece`. Source: "Strings" and "Regular expressions" in https://yara.readthedocs.io, "Writing YARA rules".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from scanner.engine.text import NotUnderstood, String

MIN_BYTES: Final = 3
MAX_BYTES: Final = 24  # of a literal: the rarest part of a longer one
MAX_CHOICES: Final = 16  # literals of which one must occur
MAX_DEPTH: Final = 50
MAX_TIMES: Final = 32  # of what is repeated: that it goes on is not made use of
_ENOUGH: Final = 3.5  # score of a literal that is not made better by what follows, at the price of more choices
_LEAST: Final = 2.4  # below it a literal is in every other content
_PARTS: Final = 2  # of one string that must all be found
_CLASS_CHOICES: Final = 8
# What programs and texts are full of: a literal of such bytes is common, however long. 0x8b 0x45 is x86's `mov`.
_COMMON: Final = {0x00: 0.1, 0xFF: 0.3, 0x20: 0.5, 0x90: 0.4, 0xCC: 0.4} | dict.fromkeys(
    (0x01, 0x02, 0x04, 0x08, 0x24, 0x44, 0x45, 0x48, 0x4C, 0x55, 0x83, 0x85, 0x89, 0x8B, 0x8D, 0xC0, 0xE8, 0xEC, 0x0F),
    0.7,
)


@dataclass(frozen=True, slots=True)
class Literal:
    """These bytes; ASCII letters of either case if `nocase`, and then `data` is in lower case."""

    data: bytes
    nocase: bool = False


@dataclass(frozen=True)
class Piece:
    """`exact`: every match is one of these (None: unknown). `need`: sets of literals, of each of which one must occur."""

    exact: frozenset[bytes] | None
    need: tuple[frozenset[bytes], ...] = ()


ANYTHING: Final = Piece(None)
EMPTY: Final = Piece(frozenset((b"",)))


def score(data: bytes) -> float:
    """How rare it is likely to be; the unit is a byte of average rarity. A repeated byte adds little."""
    total = 0.0
    before = -1
    for byte in data:
        total += _COMMON.get(byte, 1.0) * (0.2 if byte == before else 1.0)
        before = byte
    return total


def _score(choices: Iterable[bytes]) -> float:
    scores = [score(one) if len(one) >= MIN_BYTES else 0.0 for one in choices]
    return min(scores, default=0.0) - 0.1 * len(scores)


def sequence(pieces: Iterable[Piece]) -> Piece:
    """One after another."""
    need: list[frozenset[bytes]] = []
    run = EMPTY.exact or frozenset()
    whole = True
    for piece in pieces:
        if piece.exact is not None:
            fits = len(run) * len(piece.exact) <= MAX_CHOICES and max(map(len, run)) < 256
            costly = len(piece.exact) > 1 and _score(run) >= _ENOUGH
            if fits and not costly:
                run = frozenset(left + right for left in run for right in piece.exact)
                continue
        whole = False
        need.append(run)
        need.extend(piece.need)
        run = piece.exact if piece.exact is not None and len(piece.exact) <= MAX_CHOICES else frozenset((b"",))
    if whole:
        return Piece(run)
    return Piece(None, _best([*need, run]))


def _best(need: Iterable[frozenset[bytes]]) -> tuple[frozenset[bytes], ...]:
    usable = [(_score(choices), choices) for choices in dict.fromkeys(need)]
    usable = [entry for entry in usable if entry[0] >= _LEAST - 0.1 * len(entry[1])]
    return tuple(choices for _, choices in sorted(usable, key=lambda entry: -entry[0])[:_PARTS])


def alternatives(pieces: Sequence[Piece]) -> Piece:
    """One of them."""
    if all(piece.exact is not None for piece in pieces):
        together = frozenset().union(*(piece.exact for piece in pieces if piece.exact is not None))
        if len(together) <= MAX_CHOICES:
            return Piece(together)
    chosen: frozenset[bytes] = frozenset()
    for piece in pieces:
        best = _needs(piece)[:1]
        if not best:
            return ANYTHING
        chosen |= best[0]
    return Piece(None, (chosen,)) if len(chosen) <= 2 * MAX_CHOICES else ANYTHING


def _needs(piece: Piece) -> tuple[frozenset[bytes], ...]:
    return piece.need if piece.exact is None else _best([piece.exact])


def repeated(piece: Piece, least: int, most: int | None) -> list[Piece]:
    """`least` to `most` (None: any number) times, as pieces in a row: the first one may continue what stands before it."""
    if least == 0:
        if most == 1 and piece.exact is not None and len(piece.exact) < MAX_CHOICES:
            return [Piece(piece.exact | {b""})]
        return [ANYTHING]
    times = [piece] * min(least, MAX_TIMES)
    return times if most == least and least <= MAX_TIMES else [*times, ANYTHING]


# the three kinds of strings


def choices_of(string: String) -> frozenset[Literal] | None:
    """One of them is in every content that the string is found in; None where that is not certain or says little.

    Raises `NotUnderstood`.
    """
    if string.modifiers & {"xor", "base64", "base64wide"}:
        return None
    nocase = "nocase" in string.modifiers
    body = string.body.encode()
    if string.kind == "text":
        piece = Piece(frozenset((unescape(body),)))
    elif string.kind == "hex":
        piece = _hex(body)
    else:
        nocase = nocase or "i" in string.flags
        piece = Regex(body).parse()
    need = _needs(piece)[:1]
    if not need:
        return None
    found: set[Literal] = set()
    if "wide" in string.modifiers:
        found |= _literals(map(_wide, need[0]), nocase)
    if "wide" not in string.modifiers or "ascii" in string.modifiers:
        found |= _literals(need[0], nocase)
    return None if any(len(one.data) < MIN_BYTES or score(one.data) < _LEAST for one in found) else frozenset(found)


def _literals(choices: Iterable[bytes], nocase: bool) -> set[Literal]:
    return {Literal(part.lower() if nocase else part, nocase) for part in map(_rarest, choices)}


_ESCAPE: Final = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_ESCAPES: Final = {b"t": b"\t", b"n": b"\n", b"r": b"\r", b'"': b'"', b"\\": b"\\"}


def unescape(text: bytes) -> bytes:
    """The bytes that a text string stands for. Raises `NotUnderstood`."""

    def plain(found: re.Match[bytes]) -> bytes:
        what = found[1]
        if len(what) == 3:
            return bytes((int(what[1:], 16),))
        if what not in _ESCAPES:
            raise NotUnderstood(f"the escape {what!r}")
        return _ESCAPES[what]

    return _ESCAPE.sub(plain, text)


def _wide(text: bytes) -> bytes:
    return b"".join(bytes((byte, 0)) for byte in text)


def _rarest(data: bytes) -> bytes:
    """The window of `MAX_BYTES` with the highest score."""
    if len(data) <= MAX_BYTES:
        return data
    data = data[:512]
    return max((data[at : at + MAX_BYTES] for at in range(len(data) - MAX_BYTES + 1)), key=score)


# hex strings

_HEX_TOKEN: Final = re.compile(
    rb"(?:[0-9A-Fa-f]{2}\s*){1,64}|~?[0-9A-Fa-f?]{2}|\[[^\]]*\]|[(|)]|\s+|//[^\n]*|/\*.*?\*/", re.DOTALL
)


def _hex(text: bytes) -> Piece:
    tokens = []
    at, end = 0, len(text)
    while at < end:
        found = _HEX_TOKEN.match(text, at, end)
        if found is None:
            raise NotUnderstood(f"hex at {at}")
        if not (found[0][:1].isspace() or found[0][:1] == b"/"):
            tokens.append(found[0])
        at = found.end()
    piece, rest = _hex_alternatives(tokens, 0, 0)
    if rest != len(tokens):
        raise NotUnderstood("a parenthesis too many")
    return piece


def _hex_alternatives(tokens: Sequence[bytes], at: int, depth: int) -> tuple[Piece, int]:
    if depth > MAX_DEPTH:
        raise NotUnderstood("too deep")
    choices = []
    pieces: list[Piece] = []
    while at < len(tokens) and tokens[at] != b")":
        if tokens[at] == b"|":
            choices.append(sequence(pieces))
            pieces = []
        elif tokens[at] == b"(":
            piece, at = _hex_alternatives(tokens, at + 1, depth + 1)
            if at >= len(tokens):
                raise NotUnderstood("a parenthesis is open")
            pieces.append(piece)
        else:
            pieces.append(_hex_byte(tokens[at]))
        at += 1
    return alternatives([*choices, sequence(pieces)]), at


def _hex_byte(token: bytes) -> Piece:
    if token[:1] in (b"[", b"~") or token == b"??":
        return ANYTHING
    if b"?" not in token:
        return Piece(frozenset((bytes.fromhex(token.decode("ascii")),)))
    digits = b"0123456789abcdef"
    return Piece(frozenset(bytes((int(token.replace(b"?", digits[at : at + 1]), 16),)) for at in range(16)))


# regular expressions


class Regex:
    """YARA's own syntax: no groups but `(...)`, no back references. Source: "Regular expressions" in its manual."""

    _REPEAT: Final = re.compile(rb"\{([0-9]*),([0-9]*)\}|\{([0-9]+)\}")
    _ESCAPES: Final = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"f": b"\f", b"a": b"\a"}

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def parse(self) -> Piece:
        """Raises `NotUnderstood`."""
        piece = self._alternatives(0)
        if self._at != len(self._body):
            raise NotUnderstood(f"regex at {self._at}")
        return piece

    def _peek(self) -> bytes:
        return self._body[self._at : self._at + 1]

    def _take(self) -> bytes:
        if self._at >= len(self._body):
            raise NotUnderstood("the regex ends early")
        self._at += 1
        return self._body[self._at - 1 : self._at]

    def _alternatives(self, depth: int) -> Piece:
        if depth > MAX_DEPTH:
            raise NotUnderstood("too deep")
        choices = [self._sequence(depth)]
        while self._peek() == b"|":
            self._take()
            choices.append(self._sequence(depth))
        return alternatives(choices)

    def _sequence(self, depth: int) -> Piece:
        pieces: list[Piece] = []
        while self._peek() not in (b"", b"|", b")"):
            pieces.extend(self._counted(self._single(depth)))
        return sequence(pieces)

    def _counted(self, piece: Piece) -> list[Piece]:
        following = self._peek()
        least: int
        most: int | None
        if following in (b"*", b"+", b"?") and following:
            self._take()
            least, most = (1 if following == b"+" else 0), (1 if following == b"?" else None)
        elif following == b"{" and (found := self._REPEAT.match(self._body, self._at)) is not None:
            self._at = found.end()
            if found[3] is not None:
                least = most = int(found[3])
            else:
                least, most = int(found[1] or 0), (int(found[2]) if found[2] else None)
        else:
            return [piece]
        if self._peek() == b"?":  # not greedy: what it matches is among the same
            self._take()
        return repeated(piece, least, most)

    def _single(self, depth: int) -> Piece:
        char = self._take()
        if char == b"(":
            if self._peek() == b"?":
                raise NotUnderstood("a group with options")
            piece = self._alternatives(depth + 1)
            if self._take() != b")":
                raise NotUnderstood("a group is open")
            return piece
        if char in (b"^", b"$"):
            return EMPTY
        if char == b".":
            return ANYTHING
        if char == b"[":
            return self._char_class()
        if char in (b"*", b"+", b"?"):
            raise NotUnderstood("nothing to repeat")
        if char != b"\\":
            return Piece(frozenset((char,)))
        char = self._take()
        if char in (b"b", b"B"):
            return EMPTY
        if char in (b"w", b"W", b"s", b"S", b"d", b"D"):
            return ANYTHING
        return Piece(frozenset((self._escaped(char),)))

    def _escaped(self, char: bytes) -> bytes:
        if char == b"x":
            digits = self._take() + self._take()
            if re.fullmatch(rb"[0-9A-Fa-f]{2}", digits) is None:
                raise NotUnderstood("an escape")
            return bytes((int(digits, 16),))
        if char.isdigit():
            raise NotUnderstood("a back reference")
        return self._ESCAPES.get(char, char)

    def _char_class(self) -> Piece:
        """Its few characters, or anything. Only its end must be certain."""
        simple = self._peek() != b"^"
        if not simple:
            self._take()
        chars = set()
        first = True
        while True:
            char = self._take()
            if char == b"]" and not first:
                # YARA's lexer may take `]-x` for a range from `]` on
                if self._peek() == b"-" and self._body[self._at + 1 : self._at + 2] not in (b"", b"]"):
                    raise NotUnderstood("where this class ends")
                break
            first = False
            if char == b"\\":
                char = self._take()
                if char == b"x" or char in self._ESCAPES:
                    char = self._escaped(char)
                elif char.isalnum():
                    simple = False
            elif char == b"-" and self._peek() != b"]":
                simple = False
            chars.add(char)
        return Piece(frozenset(chars)) if simple and len(chars) <= _CLASS_CHOICES else ANYTHING
