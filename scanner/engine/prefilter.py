"""Says of a content, after one fast pass over it, in which rule files a rule may match. It may err only by saying yes.

All literals that the rules need are looked for at once by Hyperscan (Vectorscan), then the rules' formulas are decided.
https://intel.github.io/hyperscan/dev-reference/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import hyperscan

from core.blocks import Bytes
from scanner.engine.literals import Literal
from scanner.engine.necessary import ANYTHING, Formula, Head, Hit, Size, Some, formulas
from scanner.engine.text import part_of

MAX_CONTENT_BYTES: Final = (1 << 31) - 1  # what the library takes at once


class Prefilter:
    """For rule files by namespace. Raises `hyperscan.error` if the literals cannot be compiled.

    `always` holds, by namespace, a source with the rules that nothing is known about: they have to run on every content.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        always: dict[str, str] = {}
        self._literals: dict[Literal, int] = {}
        names: dict[Formula, set[str]] = {}
        for namespace, source in sources.items():
            found = formulas(source)
            if found is None:
                always[namespace] = source
                continue
            if unsure := frozenset(name for name, formula in found.items() if formula == ANYTHING):
                always[namespace] = part_of(source, unsure)
            for formula in set(found.values()) - {ANYTHING}:
                names.setdefault(formula, set()).add(namespace)
        self.always = always
        self._formulas = [(formula, frozenset(spaces)) for formula, spaces in names.items()]
        # which formulas a literal can make true, and which may be true without any
        self._by_literal: list[list[int]] = []
        self._without: list[int] = []
        for number, (formula, _) in enumerate(self._formulas):
            for literal in _literals(formula):
                at = self._literals.setdefault(literal, len(self._literals))
                if at == len(self._by_literal):
                    self._by_literal.append([])
                if number not in self._by_literal[at][-1:]:
                    self._by_literal[at].append(number)
            if _without_hits(formula):
                self._without.append(number)
        self._database = self._compiled() if self._literals else None

    def _compiled(self) -> hyperscan.Database:
        database = hyperscan.Database()
        flags = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_DOTALL
        database.compile(
            expressions=[b"".join(b"\\x%02x" % byte for byte in literal.data) for literal in self._literals],
            ids=list(self._literals.values()),
            elements=len(self._literals),
            flags=[flags | (hyperscan.HS_FLAG_CASELESS if literal.nocase else 0) for literal in self._literals],
        )
        return database

    def candidates(self, data: Bytes) -> frozenset[str]:
        """Namespaces in which a rule may match, besides those of `always`. Raises `hyperscan.error`."""
        hits: set[int] = set()

        def hit(number: int, _start: int, _end: int, _flags: int, _context: object) -> None:
            hits.add(number)

        if self._database is not None:
            self._database.scan(data, match_event_handler=hit)
        found: set[str] = set()
        asked = {*self._without}
        for number in hits:
            asked.update(self._by_literal[number])
        for number in asked:
            formula, names = self._formulas[number]
            if not names <= found and self._holds(formula, data, hits):
                found |= names
        return frozenset(found)

    def _holds(self, formula: Formula, data: Bytes, hits: set[int]) -> bool:
        match formula:
            case Hit(choices):
                return any(self._literals[choice] in hits for choice in choices)
            case Head(offset, wanted):
                return bytes(data[offset : offset + len(wanted)]) == wanted
            case Size(compare, number):
                size = len(data)
                return {
                    "<": size < number,
                    "<=": size <= number,
                    ">": size > number,
                    ">=": size >= number,
                    "==": size == number,
                }[compare]
            case Some(least, parts):
                return sum(self._holds(part, data, hits) for part in parts) >= least


def _literals(formula: Formula) -> set[Literal]:
    match formula:
        case Hit(choices):
            return set(choices)
        case Some(_, parts):
            return set().union(*(_literals(part) for part in parts))
    return set()


def _without_hits(formula: Formula) -> bool:
    """Whether it may hold in a content without any of the literals."""
    match formula:
        case Hit():
            return False
        case Some(least, parts):
            return sum(_without_hits(part) for part in parts) >= least
    return True
