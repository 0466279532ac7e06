"""Findings and an effective policy become actions, each with its reason. Pure: nothing is done here.

What cannot be done where the machine stands is replaced by the next weaker action that can, and says so: "wanted isolate,
could only alert". An alert is always possible: it is the record itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from core.findings import Finding, Gap
from core.text import escape
from policy.paths import PathPattern
from policy.resolve import Effective, Item, Resolved
from policy.selectors import matcher
from policy.settings import Action, Mode

# What is tried instead, in this order; nothing here is stronger than what was wanted.
INSTEAD: Final[dict[Action, tuple[Action, ...]]] = {
    Action.ALERT: (),
    Action.TAG: (),
    Action.BLOCK: (),
    Action.DISINFECT: (Action.QUARANTINE, Action.BLOCK),
    Action.QUARANTINE: (Action.BLOCK,),
    Action.ROLL_BACK: (Action.QUARANTINE, Action.BLOCK),
    Action.PATCH: (),
    Action.ISOLATE: (Action.TAG,),
    Action.STOP: (Action.ISOLATE, Action.TAG),
}
_IN_THE_GUEST: Final = frozenset(
    {Action.BLOCK, Action.DISINFECT, Action.QUARANTINE, Action.ROLL_BACK, Action.PATCH, Action.ISOLATE}
)
_BY_THE_PLATFORM: Final = {
    "aws": frozenset({Action.TAG, Action.ISOLATE, Action.STOP}),
    "azure": frozenset({Action.TAG, Action.ISOLATE, Action.STOP}),
    "gcp": frozenset({Action.TAG, Action.ISOLATE, Action.STOP}),
    "vsphere": frozenset({Action.TAG, Action.ISOLATE, Action.STOP}),
    "kvm": frozenset({Action.ISOLATE, Action.STOP}),
    "hyperv": frozenset({Action.ISOLATE, Action.STOP}),
    "xen": frozenset({Action.TAG, Action.ISOLATE, Action.STOP}),
}

_EXCLUSIONS: Final = ("exclusions.rules", "exclusions.paths", "exclusions.sha256")


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one finding: `action`, where the policy `wanted` that or something stronger, and why.

    Where it stands for several that cannot be done, `wanted` is the first of them; `reason` names all.

    `action` is None where the policy leaves the finding alone.
    """

    finding: Finding
    wanted: Action | None
    action: Action | None
    reason: str


@dataclass(frozen=True, slots=True)
class GapDecision:
    """Whether one can live with a gap. It is shown either way."""

    gap: Gap
    accepted: bool
    reason: str


def possible(cloud: str, mode: Mode) -> frozenset[Action]:
    """What can be done to a machine of `cloud` that is protected in `mode`, if the roles for it were given."""
    found = {Action.ALERT} | _BY_THE_PLATFORM.get(cloud, frozenset())
    if mode in {Mode.LIGHT_AGENT, Mode.BOTH, Mode.FULL_AGENT}:
        found |= _IN_THE_GUEST
    return frozenset(found)


def decide(findings: Iterable[Finding], policy: Resolved, can: Iterable[Action]) -> Iterator[Decision]:
    """The actions for each finding, none of them twice, in the policy's order.

    What cannot be done is always said: with the action that is done instead, even where that is wanted itself.
    """
    able = frozenset(can) | {Action.ALERT}
    leaves_out = _leaves_out(policy)
    actions = _Actions(policy)
    for finding in findings:
        if left_out := leaves_out(finding):
            yield Decision(finding, None, None, left_out)
            continue
        wanted, why = actions.wanted(finding)
        instead: dict[Action, list[Action]] = {}  # what is done, and what else it stands for
        for want in wanted:
            got = next(one for one in (want, *INSTEAD[want], Action.ALERT) if one in able)
            stands_for = instead.setdefault(got, [])
            if got is not want and want not in stands_for:
                stands_for.append(want)
        for got, stands_for in instead.items():
            words = f"wanted {' and '.join(stands_for)}, could only {got}: " if stands_for else ""
            yield Decision(finding, stands_for[0] if stands_for else got, got, words + why)


def decide_gaps(gaps: Iterable[Gap], policy: Resolved) -> Iterator[GapDecision]:
    """Which gaps are accepted, and by whom."""
    found = policy.values.get("gaps.accepted")
    accepted = {item.value: item for item in found.items()} if found else {}
    for gap in gaps:
        item = accepted.get(gap.reason.value)
        yield GapDecision(gap, item is not None, _by(item) if item else "no policy accepts it")


class _Actions:
    """What one policy wants to be done; its patterns are compiled once."""

    def __init__(self, policy: Resolved) -> None:
        self._values = policy.values
        self._by_rule = policy.values.get("actions.by_rule")
        by_rule = self._by_rule.items() if self._by_rule else []
        # the longest pattern that fits counts, one that is the rule's own name before all
        self._rules = [(item, matcher([item.value])) for item in by_rule]
        self._rules.sort(key=lambda rule: (len(rule[0].value), rule[0].value), reverse=True)
        self._own = {item.value: item for item in by_rule}

    def wanted(self, finding: Finding) -> tuple[list[Action], str]:
        rule = finding.rule.id
        item = self._own.get(rule) or next((item for item, fits in self._rules if fits(rule)), None)
        if item is not None and self._by_rule is not None:
            return _actions(self._by_rule.value[item.value]), f"rule {item.value}, {_by(item)}"
        severity = finding.rule.severity.value
        found = self._values[f"actions.{severity}"]
        return _actions(found.value), f"severity {severity}, {_by(found)}"


def _actions(words: Iterable[str]) -> list[Action]:
    return [Action(word) for word in words]


def _leaves_out(policy: Resolved) -> Callable[[Finding], str]:
    """Which exclusion a finding falls under; empty if none. What there is to compile is compiled here."""
    items = {setting: policy.values[setting].items() for setting in _EXCLUSIONS if setting in policy.values}
    rules = [(item, matcher([item.value])) for item in items.get("exclusions.rules", ())]
    paths = [(item, PathPattern(item.value).matches) for item in items.get("exclusions.paths", ())]
    hashes = {item.value: item for item in items.get("exclusions.sha256", ())}

    def left_out(finding: Finding) -> str:
        path = escape(finding.where.path)
        found = (
            next((item for item, fits in rules if fits(finding.rule.id)), None),
            next((item for item, fits in paths if fits(path)), None),
            hashes.get(str(finding.evidence.get("sha256"))),
        )
        for setting, item in zip(_EXCLUSIONS, found, strict=True):
            if item is not None:
                return f"left out by {setting} {item.value}, {_by(item)}"
        return ""

    return left_out


@lru_cache(1024)
def _pattern(pattern: str) -> PathPattern:
    return PathPattern(pattern)


def path_matches(pattern: str, path: str) -> bool:
    """Does a path pattern of a policy fit? `path` is absolute, as `core.text.escape` writes it."""
    return _pattern(pattern).matches(path)


def _by(value: Effective | Item) -> str:
    return ", ".join(str(source) for source in value.decided)
