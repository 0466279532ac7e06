"""YARA source as tokens and rules, as far as a filter needs it. Raises `NotUnderstood` for all else: then nothing is filtered.

Source: https://yara.readthedocs.io, "Writing YARA rules"; libyara's lexer.l for comments, escapes and where a `/` or `{`
begins a pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<text>"(?:[^"\\\n]|\\.)*")
    |(?P<number>0x[0-9A-Fa-f]+|0o[0-7]+|\d+(?:\.\d+)?(?:KB|MB)?)
    |(?P<string>[$\#@!]\w*\*?)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<mark>==|!=|<=|>=|<<|>>|\.\.|[-+*\\%&|^~<>=(){}\[\]:,.])
    """,
    re.DOTALL | re.VERBOSE | re.ASCII,
)
_REGEX: Final = re.compile(r"/((?:[^/\\\n]|\\.)+)/([is]*)")
_COMMENT: Final = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_HEX: Final = re.compile(r"\{((?:[^{}/]+|//[^\n]*|/\*.*?\*/)*)\}", re.DOTALL)
_IMPORT: Final = re.compile(r'^\s*import\s+"[a-z_]+"', re.MULTILINE)
_MODIFIERS: Final = frozenset({"nocase", "wide", "ascii", "fullword", "private", "xor", "base64", "base64wide"})


class NotUnderstood(Exception):
    """The text is YARA's, maybe, but not of a kind that this reads."""


class Token(NamedTuple):
    """`kind` is a group of `_TOKEN`, or "regex"."""

    kind: str
    text: str


@dataclass(slots=True)
class String:
    """One string of a rule. `kind` is "text", "hex" or "regex"; `flags` are those behind a regex."""

    name: str
    kind: str
    body: str
    flags: str = ""
    modifiers: frozenset[str] = frozenset()


@dataclass(slots=True)
class Rule:
    name: str
    private: bool
    strings: list[String] = field(default_factory=list)
    condition: list[Token] = field(default_factory=list)
    span: tuple[int, int] = (0, 0)  # where in the source it stands
    binds_others: bool = False  # a global rule


class _Scanner:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._skip()

    @property
    def at(self) -> int:
        return self._at

    def _skip(self) -> None:
        while (found := _TOKEN.match(self._source, self._at)) and found.lastgroup == "space":
            self._at = found.end()

    @property
    def done(self) -> bool:
        return self._at == len(self._source)

    def peek(self) -> Token:
        found = _TOKEN.match(self._source, self._at)
        if not found or found.lastgroup is None:
            raise NotUnderstood(self._source[self._at : self._at + 20])
        return Token(found.lastgroup, found.group())

    def take(self) -> Token:
        token = self.peek()
        self._at += len(token.text)
        self._skip()
        return token

    def pattern(self, form: re.Pattern[str]) -> re.Match[str]:
        found = form.match(self._source, self._at)
        if not found:
            raise NotUnderstood(self._source[self._at : self._at + 20])
        self._at = found.end()
        self._skip()
        return found

    def starts(self, text: str) -> bool:
        return self._source.startswith(text, self._at)

    def expect(self, text: str) -> None:
        if self.take().text != text:
            raise NotUnderstood(f"{text} was expected")

    def hex_body(self) -> str:
        """Comments may stand in a hex string, with braces in them; they are left out."""
        return _COMMENT.sub(" ", self.pattern(_HEX)[1])


def rules_of(source: str) -> Iterator[Rule]:
    scanner = _Scanner(source)
    while not scanner.done:
        start = scanner.at
        token = scanner.take()
        if token.text == "import":
            scanner.take()
            continue
        modifiers = set()
        while token.text in {"private", "global"}:
            modifiers.add(token.text)
            token = scanner.take()
        if token.text != "rule":
            raise NotUnderstood(token.text)
        rule = _rule(scanner, "private" in modifiers)
        rule.binds_others = "global" in modifiers
        rule.span = (start, scanner.at)
        yield rule


def part_of(source: str, names: frozenset[str]) -> str:
    """A source with the rules `names` alone, if they stand for themselves; else the whole source.

    Raises `NotUnderstood`.
    """
    rules = list(rules_of(source))
    known = {rule.name for rule in rules}
    kept = [rule for rule in rules if rule.name in names]
    alone = not any(rule.binds_others for rule in rules) and not any(
        _has_rule_set(rule) or any(token.text in known for token in rule.condition) for rule in kept
    )
    if not alone:
        return source
    imports = "".join(f"{found}\n" for found in dict.fromkeys(_IMPORT.findall(source)))
    return imports + "\n".join(source[slice(*rule.span)] for rule in kept)


def _has_rule_set(rule: Rule) -> bool:
    """Whether a word stands in a set behind `of`."""
    tokens = rule.condition
    return any(
        token.text == "of" and following.text == "(" and not tokens[at + 2].text.startswith("$")
        for at, (token, following) in enumerate(pairwise(tokens))
    )


def _rule(scanner: _Scanner, private: bool) -> Rule:
    rule = Rule(scanner.take().text, private)
    if scanner.peek().text == ":":
        scanner.take()
        while scanner.peek().kind == "word":
            scanner.take()
    scanner.expect("{")
    section = scanner.take().text
    scanner.expect(":")
    if section == "meta":
        while scanner.peek().text not in {"strings", "condition"}:
            _meta(scanner)
        section = scanner.take().text
        scanner.expect(":")
    if section == "strings":
        while scanner.peek().kind == "string":
            rule.strings.append(_string(scanner, len(rule.strings)))
        section = scanner.take().text
        scanner.expect(":")
    if section != "condition":
        raise NotUnderstood(section)
    depth = 0
    before = ""
    while depth or scanner.peek().text != "}":
        if scanner.starts("/") or before == "matches":
            rule.condition.append(Token("regex", scanner.pattern(_REGEX).group()))
        else:
            rule.condition.append(scanner.take())
        before = rule.condition[-1].text
        depth += (before == "{") - (before == "}")
    scanner.take()
    return rule


def _meta(scanner: _Scanner) -> None:
    scanner.take()
    scanner.expect("=")
    if scanner.take().text == "-":
        scanner.take()


def _string(scanner: _Scanner, number: int) -> String:
    name = scanner.take().text
    if not name.startswith("$") or name.endswith("*"):
        raise NotUnderstood(name)
    if name == "$":
        name = f"${number}?"  # without a name; no other can be called so
    scanner.expect("=")
    if scanner.starts("{"):
        string = String(name, "hex", scanner.hex_body())
    elif scanner.starts("/"):
        found = scanner.pattern(_REGEX)
        string = String(name, "regex", found[1], found[2])
    else:
        token = scanner.take()
        if token.kind != "text":
            raise NotUnderstood(token.text)
        string = String(name, "text", token.text[1:-1])
    modifiers = set()
    while scanner.peek().text in _MODIFIERS:
        modifiers.add(scanner.take().text)
        if scanner.peek().text == "(":
            while scanner.take().text != ")":
                pass
    string.modifiers = frozenset(modifiers)
    return string
