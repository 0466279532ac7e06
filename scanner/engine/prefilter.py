"""Says of a content, after one fast pass over it, which rules may match. It may err only by saying yes.

All that the rules need is looked for at once by Hyperscan (Vectorscan), then the rules' formulas are decided.
https://intel.github.io/hyperscan/dev-reference/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import hyperscan

from core.blocks import Bytes
from scanner.engine.expressions import Expression, flags_of
from scanner.engine.literals import score
from scanner.engine.necessary import ANYTHING, Formula, Head, Hit, Needle, Size, Some, formulas
from scanner.engine.text import part_of

MAX_CONTENT_BYTES: Final = (1 << 31) - 1  # what the library takes at once


RuleName = tuple[str, str]  # namespace and identifier
Test = Callable[[Bytes, set[int]], bool]  # of a content and the needles that are in it
_COMPARES: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "<": int.__lt__,
    "<=": int.__le__,
    ">": int.__gt__,
    ">=": int.__ge__,
    "==": int.__eq__,
}


class Prefilter:
    """For rule files by namespace. Raises `hyperscan.error` if what they need cannot be compiled.

    `always` holds, by namespace, a source with the rules that nothing is known about: they have to run on every content.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.always: dict[str, str] = {}
        names: dict[Formula, list[RuleName]] = {}
        self.order: dict[RuleName, int] = {}  # of all rules, as plain YARA tells their matches
        for namespace, source in sources.items():
            found = formulas(source)
            for name in found or ("",):
                self.order[namespace, name] = len(self.order)
            if found is None:
                self.always[namespace] = source
                continue
            if unsure := frozenset(name for name, formula in found.items() if formula == ANYTHING):
                self.always[namespace] = part_of(source, unsure)
            for name, formula in found.items():
                if formula != ANYTHING:
                    names.setdefault(formula, []).append((namespace, name))
        self._formulas = [(formula, frozenset(rules)) for formula, rules in names.items()]
        # Which formulas to decide when a needle is there: each is watched by as few and as rare needles as will do.
        self._needles: dict[Needle, int] = {}
        self._watched: list[list[int]] = []
        self._unwatched: list[int] = []
        self._gates: dict[Head, int] = {}  # what must stand at the start, for many rules alike
        self._gate_of: list[int] = []
        for number, (formula, _) in enumerate(self._formulas):
            for needle in _needles(formula):
                self._needles.setdefault(needle, len(self._needles))
                self._watched += [[] for _ in range(len(self._needles) - len(self._watched))]
            watchers = _watchers(formula)
            for needle in watchers or ():
                self._watched[self._needles[needle]].append(number)
            if watchers is None:
                self._unwatched.append(number)
            head = _head_of(formula)
            self._gate_of.append(-1 if head is None else self._gates.setdefault(head, len(self._gates)))
        self._tests = [_test_of(formula, self._needles) for formula, _ in self._formulas]
        self._database = self._compiled() if self._needles else None

    def _compiled(self) -> hyperscan.Database:
        database = hyperscan.Database()
        database.compile(
            expressions=[_expression(needle) for needle in self._needles],
            ids=list(self._needles.values()),
            elements=len(self._needles),
            flags=[_flags(needle) for needle in self._needles],
        )
        return database

    def candidates(self, data: Bytes) -> set[RuleName]:
        """Rules that may match, besides those of `always`. Raises `hyperscan.error`."""
        hits: set[int] = set()

        def hit(number: int, _start: int, _end: int, _flags: int, _context: object) -> None:
            hits.add(number)

        if self._database is not None:
            self._database.scan(data, match_event_handler=hit)  # type: ignore[type-var]  # any buffer will do
        open_gates = {
            at
            for head, at in self._gates.items()
            if bytes(data[head.offset : head.offset + len(head.data)]) == head.data
        }
        open_gates.add(-1)
        asked = {*self._unwatched}
        for at in hits:
            asked.update(self._watched[at])
        found: set[RuleName] = set()
        for number in asked:
            if self._gate_of[number] in open_gates and self._tests[number](data, hits):
                found |= self._formulas[number][1]
        return found


def _test_of(formula: Formula, numbers: Mapping[Needle, int]) -> Test:
    """The formula as a function: made once, called for every content that may match."""
    match formula:
        case Hit(choices):
            wanted = frozenset(numbers[choice] for choice in choices)
            return lambda _, hits: not wanted.isdisjoint(hits)
        case Head(offset, start):
            end = offset + len(start)
            return lambda data, _: bytes(data[offset:end]) == start
        case Size(compare, number):
            holds = _COMPARES[compare]
            return lambda data, _: holds(len(data), number)
        case Some(least, parts):
            return _some(least, parts, numbers)


def _some(least: int, parts: Sequence[Formula], numbers: Mapping[Needle, int]) -> Test:
    hits_alone = [part for part in parts if isinstance(part, Hit)]
    others = [_test_of(part, numbers) for part in parts if not isinstance(part, Hit)]
    if least == 1 and hits_alone:  # one question instead of many
        others.insert(0, _test_of(Hit(frozenset().union(*(part.choices for part in hits_alone))), numbers))
        return lambda data, hits: any(test(data, hits) for test in others)
    tests = [_test_of(part, numbers) for part in hits_alone] + others
    if least == len(tests):
        return lambda data, hits: all(test(data, hits) for test in tests)
    return lambda data, hits: sum(test(data, hits) for test in tests) >= least


def _expression(needle: Needle) -> bytes:
    if isinstance(needle, Expression):
        return needle.pattern
    return b"".join(b"\\x%02x" % byte for byte in needle.data)


def _flags(needle: Needle) -> int:
    if isinstance(needle, Expression):
        return flags_of(needle)
    flags = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_DOTALL
    return int(flags | (hyperscan.HS_FLAG_CASELESS if needle.nocase else 0))


def _needles(formula: Formula) -> set[Needle]:
    match formula:
        case Hit(choices):
            return set(choices)
        case Some(_, parts):
            return set().union(*(_needles(part) for part in parts))
    return set()


def _watchers(formula: Formula) -> frozenset[Needle] | None:
    """Needles of which one is there whenever the formula holds; None if it may hold without any."""
    match formula:
        case Hit(choices):
            return choices
        case Some(least, parts):
            # of all but `least - 1` parts one must hold
            known = [found for part in parts if (found := _watchers(part)) is not None]
            wanted = len(parts) - least + 1
            if least < 1 or len(known) < wanted:
                return None
            return frozenset().union(*sorted(known, key=_cost)[:wanted])
    return None


def _cost(needles: frozenset[Needle]) -> float:
    """How often one of them is likely to be there, in no unit."""
    return sum(0.05 if isinstance(needle, Expression) else 0.4 ** min(score(needle.data), 12) for needle in needles)


def _head_of(formula: Formula) -> Head | None:
    """Bytes at the start without which the formula does not hold."""
    match formula:
        case Head():
            return formula
        case Some(least, parts) if least == len(parts):
            return next((head for part in parts if (head := _head_of(part)) is not None), None)
    return None
