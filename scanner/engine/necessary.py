"""From the condition of a rule to what must hold for it to match: a formula that a filter can decide from a few facts.

A formula is never stronger than the condition. What is not understood for certain is `ANYTHING`, which always holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scanner.engine.expressions import Expression, expressions_of
from scanner.engine.literals import Literal, choices_of
from scanner.engine.text import NotUnderstood, Rule, Token, rules_of

_MAX_DEPTH: Final = 60
_UNITS: Final = {"KB": 1 << 10, "MB": 1 << 20}
# A loop up to a number that has no value never runs, so it finds nothing.
_LOOP: Final = re.compile(
    r"for any \w+ in \( 0 \.\. pe \. (number_of_sections|number_of_signatures|number_of_resources)( - 1)? \) :"
)
_TEXT_COMPARES: Final = frozenset(
    {"==", "contains", "icontains", "startswith", "istartswith", "endswith", "iendswith", "iequals"}
)
_UINT: Final = re.compile(r"uint(8|16|32)(be)?")
_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}
# Fields of the pe module that have no value unless the content begins with MZ: a comparison is then false.
PE_FIELDS: Final = frozenset(
    {
        *("machine", "number_of_sections", "timestamp", "characteristics", "entry_point", "image_base", "subsystem"),
        *("number_of_signatures", "number_of_imports", "number_of_exports", "number_of_resources", "checksum"),
    }
)


Needle = Literal | Expression


@dataclass(frozen=True, slots=True)
class Hit:
    """One of these occurs."""

    choices: frozenset[Needle]


@dataclass(frozen=True, slots=True)
class Head:
    """These bytes stand at this offset."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Size:
    """The content's size compares so with a number."""

    compare: str
    number: int


@dataclass(frozen=True, slots=True)
class Some:
    """At least `least` of the parts hold. All of none (least 0) always holds."""

    least: int
    parts: tuple[Formula, ...]


Formula = Hit | Head | Size | Some
ANYTHING: Final = Some(0, ())
NOTHING: Final = Some(1, ())


def formulas(source: str) -> dict[str, Formula] | None:
    """For each rule of a source that is told of when it matches, what must hold; None if the source is not understood."""
    known: dict[str, Formula] = {}
    told: dict[str, Formula] = {}
    try:
        for rule in rules_of(source):
            known[rule.name] = _Condition(rule, known).formula()
            if not rule.private:
                told[rule.name] = known[rule.name]
    except (NotUnderstood, IndexError, ValueError, RecursionError):
        return None
    return told


def all_of(parts: Sequence[Formula]) -> Formula:
    kept = [part for part in parts if part != ANYTHING]
    if len(kept) == 1:
        return kept[0]
    return Some(len(kept), tuple(kept))


def any_of(parts: Sequence[Formula]) -> Formula:
    if any(part == ANYTHING for part in parts):
        return ANYTHING
    return parts[0] if len(parts) == 1 else Some(1, tuple(parts))


def at_least(least: int, parts: Sequence[Formula]) -> Formula:
    """Parts that always hold are taken off what is asked for."""
    kept = [part for part in parts if part != ANYTHING]
    least -= len(parts) - len(kept)
    return ANYTHING if least <= 0 else Some(least, tuple(kept))


class _Condition:
    def __init__(self, rule: Rule, known: Mapping[str, Formula]) -> None:
        self._tokens = rule.condition
        self._at = 0
        self._known = known
        self._strings: dict[str, Formula] = {}
        for string in rule.strings:
            choices: frozenset[Needle] | None = choices_of(string) or expressions_of(string)
            self._strings[string.name] = ANYTHING if choices is None else Hit(choices)

    def formula(self) -> Formula:
        found = self._or(0)
        if self._at != len(self._tokens):
            raise NotUnderstood("more than a condition")
        return found

    def _text(self, at: int | None = None) -> str:
        at = self._at if at is None else at
        return self._tokens[at].text if at < len(self._tokens) else ""

    def _or(self, depth: int) -> Formula:
        if depth > _MAX_DEPTH:
            raise NotUnderstood("too deep")
        parts = [self._and(depth)]
        while self._text() == "or":
            self._at += 1
            parts.append(self._and(depth))
        return any_of(parts)

    def _and(self, depth: int) -> Formula:
        parts = [self._operand(depth)]
        while self._text() == "and":
            self._at += 1
            parts.append(self._operand(depth))
        return all_of(parts)

    def _operand(self, depth: int) -> Formula:
        if self._text() in {"not", "defined"}:
            self._at += 1
            self._operand(depth)
            return ANYTHING
        end = self._atom_end()
        if self._text() == "(" and self._closing(self._at) == end - 1:
            self._at += 1
            found = self._or(depth + 1)
            if self._text() != ")":
                return self._left_out(end)
            self._at += 1
            return found
        atom = self._tokens[self._at : end]
        if not atom:
            raise NotUnderstood("an empty condition")
        self._at = end
        return self._atom(atom)

    def _left_out(self, end: int) -> Formula:
        self._at = end
        return ANYTHING

    def _closing(self, at: int) -> int:
        depth = 0
        for here in range(at, len(self._tokens)):
            depth += (self._text(here) in {"(", "["}) - (self._text(here) in {")", "]"})
            if not depth:
                return here
        raise NotUnderstood("a parenthesis without end")

    def _atom_end(self) -> int:
        """Behind the operand that begins here: the next `and`, `or` or closing parenthesis that is not inside of it."""
        at = self._at
        while at < len(self._tokens) and self._text(at) not in {"and", "or", ")"}:
            at = self._closing(at) + 1 if self._text(at) in {"(", "["} else at + 1
        return at

    def _atom(self, atom: Sequence[Token]) -> Formula:
        first = atom[0]
        texts = [token.text for token in atom]
        if texts == ["true"]:
            return ANYTHING
        if texts == ["false"]:
            return NOTHING
        if first.text.startswith("$"):
            plain = len(atom) == 1 or texts[1] in {"at", "in"}
            return self._strings.get(first.text, ANYTHING) if plain else ANYTHING
        if len(atom) == 1 and first.kind == "word":
            return self._known.get(first.text, ANYTHING)
        if "of" in texts[1:3] and first.text != "for":
            return self._of(texts)
        if first.text in {"pe", "dotnet"}:
            return _of_pe(atom)
        if _LOOP.match(" ".join(texts)):
            return Head(0, b"MZ")
        return self._comparison(texts)

    def _comparison(self, texts: Sequence[str]) -> Formula:
        if texts[0].startswith("#") and len(texts) == 3 and texts[1] in {">", ">=", "=="}:
            number = _number(texts[2])
            if number is not None and number + (texts[1] == ">") >= 1:
                return self._strings.get("$" + texts[0][1:], ANYTHING)
        for left, compare, right in _sides(texts):
            number = _number(right)
            if number is None:
                continue
            if list(left) == ["filesize"] and compare in _MIRRORED:
                return Size(compare, number)
            if len(left) == 4 and left[1] == "(" and left[3] == ")" and compare == "==":
                return _head(left[0], _number(left[2]), number)
        return ANYTHING

    def _of(self, texts: Sequence[str]) -> Formula:
        at = texts.index("of")
        names = self._names(texts[at + 1 :])
        if not names:
            return ANYTHING
        parts = [self._strings[name] for name in names]
        quantity = texts[:at]
        if quantity == ["all"]:
            least = len(parts)
        elif quantity == ["any"]:
            least = 1
        elif len(quantity) == 1 and (number := _number(quantity[0])) is not None:
            least = number
        elif len(quantity) == 2 and quantity[1] == "%" and (number := _number(quantity[0])) is not None:
            least = len(parts) * number // 100
        else:
            return ANYTHING
        if len(set(names)) < len(names):
            least = min(least, 1)  # whether a string that is named twice counts twice is not for us to say
            parts = [self._strings[name] for name in dict.fromkeys(names)]
        return at_least(least, parts) if least <= len(parts) else ANYTHING

    def _names(self, texts: Sequence[str]) -> list[str]:
        """The strings of a set; none if it is not one of strings."""
        if texts[:1] == ["them"]:
            return list(self._strings)
        if texts[:1] != ["("] or ")" not in texts:
            return []
        found: list[str] = []
        for item in texts[1 : texts.index(")")]:
            if item == ",":
                continue
            if not item.startswith("$"):
                return []
            if item.endswith("*"):
                found += [name for name in self._strings if name.startswith(item[:-1])]
            elif item in self._strings:
                found.append(item)
            else:
                return []
        return found


def _sides(texts: Sequence[str]) -> list[tuple[Sequence[str], str, str]]:
    """(left, comparison, right) of a plain comparison with the number on the right, both ways to read it."""
    found = []
    if len(texts) >= 3 and texts[-2] in _MIRRORED:
        found.append((texts[:-2], texts[-2], texts[-1]))
    if len(texts) >= 3 and texts[1] in _MIRRORED:
        found.append((texts[2:], _MIRRORED[texts[1]], texts[0]))
    return found


def _number(text: str) -> int | None:
    unit = _UNITS.get(text[-2:], 1)
    digits = text[:-2] if unit > 1 else text
    if re.fullmatch(r"0x[0-9A-Fa-f]+", digits):
        return int(digits, 16)
    return int(digits) * unit if re.fullmatch(r"[0-9]+", digits) else None


def _head(function: str, offset: int | None, value: int) -> Formula:
    found = _UINT.fullmatch(function)
    if not found or offset is None:
        return ANYTHING
    size = int(found[1]) // 8
    if value >> 8 * size or offset > 1 << 20:
        return ANYTHING
    return Head(offset, value.to_bytes(size, "big" if found[2] else "little"))


def _of_pe(atom: Sequence[Token]) -> Formula:
    """What the modules for Windows programs tell has a value only if the content begins with MZ."""
    texts = [token.text for token in atom]
    mz = Head(0, b"MZ")
    if texts[1:2] != ["."]:
        return ANYTHING
    if texts[0] == "pe" and texts[2:] in (
        ["is_pe"],
        ["is_dll", "(", ")"],
        ["is_32bit", "(", ")"],
        ["is_64bit", "(", ")"],
    ):
        return mz
    if texts[0] == "pe" and len(texts) == 5 and texts[3] in {*_MIRRORED, "!="} and _number(texts[4]) is not None:
        return mz if texts[2] in PE_FIELDS else ANYTHING
    if texts[0] == "pe" and texts[2:4] == ["exports", "("] and len(texts) == 6 and atom[4].kind == "text":
        return mz
    # a text is compared with a text; the part before is one name with indexes and arguments
    marks = {token.text for token in atom[1:-2] if token.kind == "mark"}
    if len(atom) > 4 and atom[-1].kind == "text" and texts[-2] in _TEXT_COMPARES and marks <= set(".[]()"):
        return mz
    return ANYTHING
