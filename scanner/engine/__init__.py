"""The one seam for engines: from a set of rules and a content to matches.

What ships is YARA behind a filter that skips contents in which no rule can match (`scanner.engine.prefilter`). Its matches
are those of plain yara-python, in the same order.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import hyperscan
import yara

from core.blocks import Bytes
from scanner.engine.prefilter import MAX_CONTENT_BYTES, Prefilter, RuleName
from scanner.engine.text import part_of

# What a rule may ask about a file besides its bytes; `filetype` is always empty, it is there for rules that name it.
EXTERNALS: Final = ("filename", "filepath", "extension", "filetype", "owner")
_SUBSETS: Final = 4  # of namespaces that are kept compiled
_PARTS: Final = 256  # rules that are kept compiled by themselves, about 45 KB each
_PLAIN_SECONDS: Final = (
    0.5  # of searching without a filter; to make one takes a tenth of a second, or some with many rules
)
_MANY: Final = 6  # rules in question: then one pass with all of them costs less than a pass for each


class Engine:
    """Rules that are ready. Files with rules are told apart by their namespace; one file's rules never refer to another's."""

    VERSION: Final = f"yara {yara.YARA_VERSION}, filter 1"

    def __init__(self, sources: Mapping[str, str], *, names_matter: bool = False, little: bool = False) -> None:
        """`sources`: namespace to YARA source that compiles. `names_matter`: some rule asks for `EXTERNALS`.

        `little`: there may be little to search, so the filter is made only when searching without it has taken a while:
        until then every content is searched for every rule, as plain yara-python does it.
        """
        self._sources = dict(sources)
        self.names_matter = names_matter
        self.digests = {name: hashlib.sha256(source.encode()).hexdigest() for name, source in self._sources.items()}
        self._all = self._compiled(frozenset(self._sources))
        self._rules = list(self._all)  # to the end: a `yara.Rules` is its own iterator
        self._subset = lru_cache(_SUBSETS)(self._compiled)
        self._part = lru_cache(_PARTS)(self._one_rule)
        self._filter: Prefilter | None = None
        self._always_rules: yara.Rules | None = None
        self._plain_seconds_left = _PLAIN_SECONDS if little else 0.0
        if not little:
            self._make_filter()

    def _make_filter(self) -> None:
        self._plain_seconds_left = 0.0
        self._filter = _filter_of(self._sources)
        if self._filter is not None and self._filter.always:
            self._always_rules = yara.compile(
                sources=dict(self._filter.always), externals=dict.fromkeys(EXTERNALS, ""), includes=False
            )

    @property
    def prefilter(self) -> bool:
        """Whether there is a filter by now."""
        return self._filter is not None

    @property
    def rule_count(self) -> int:
        return len(self._rules)

    def __iter__(self) -> Iterator[yara.Rule]:
        return iter(self._rules)

    def _compiled(self, names: frozenset[str]) -> yara.Rules:
        sources = {name: source for name, source in self._sources.items() if name in names}
        return yara.compile(sources=sources, externals=dict.fromkeys(EXTERNALS, ""), includes=False)

    def match(
        self,
        data: Bytes,
        *,
        externals: Mapping[str, str] | None = None,
        timeout_seconds: int = 60,
        only: frozenset[str] | None = None,
    ) -> Sequence[yara.Match]:
        """Matches in `data`, of the rules in the namespaces `only` if given.

        Raises `yara.TimeoutError`, `yara.Error`.
        """
        wanted = self._sources.keys() if only is None else self._sources.keys() & only
        begins = time.monotonic()
        ends = begins + timeout_seconds
        names = self._candidates(data, wanted)
        if names is None:
            passes = [self._all if len(wanted) == len(self._sources) else self._subset(frozenset(wanted))]
        else:
            passes = [self._part(namespace, name) for namespace, name in names]
            if self._filter and self._always_rules is not None and not self._filter.always.keys().isdisjoint(wanted):
                passes.append(self._always_rules)
        found: list[yara.Match] = []
        for rules in passes:
            matches = rules.match(
                data=data,
                externals=dict(externals) if externals else None,
                timeout=max(1, int(ends - time.monotonic())),
                # A string is looked for until the rule's condition is decided, not a million times more: this bounds memory.
                fast=True,
                warnings_callback=_quiet,
                console_callback=_quiet,
            )
            found += [match for match in matches if match.namespace in wanted]
        if names is not None and found:
            # a rule that was run with others it needs may have brought them along
            once = {(match.namespace, match.rule): match for match in found}
            found = sorted(once.values(), key=self._place)
        if self._plain_seconds_left > 0:
            self._plain_seconds_left -= time.monotonic() - begins
            if self._plain_seconds_left <= 0:
                self._make_filter()
        return found

    def _place(self, match: yara.Match) -> int:
        """Of a source that is not understood no order of rules is known; its matches come in theirs from one pass."""
        order = self._filter.order if self._filter else {}
        return order.get((match.namespace, match.rule), order.get((match.namespace, ""), 0))

    def _one_rule(self, namespace: str, name: str) -> yara.Rules:
        source = part_of(self._sources[namespace], frozenset((name,)))
        return yara.compile(sources={namespace: source}, externals=dict.fromkeys(EXTERNALS, ""), includes=False)

    def _candidates(self, data: Bytes, wanted: Collection[str]) -> list[RuleName] | None:
        """Rules in question; None if all are to be searched for at once."""
        if self._filter is None or len(data) > MAX_CONTENT_BYTES:
            return None
        try:
            names = self._filter.candidates(data)
        except hyperscan.error:
            return None
        chosen = [rule for rule in names if rule[0] in wanted]
        return None if len(chosen) > _MANY else chosen


def _filter_of(sources: Mapping[str, str]) -> Prefilter | None:
    try:
        return Prefilter(sources)
    except hyperscan.error:
        return None  # more literals than the library takes: every content is then searched for every rule


def _quiet(*_: object) -> int:
    """For warnings (a string that matches too often to be counted) and for the `console` module: nothing is printed."""
    return int(yara.CALLBACK_CONTINUE)
