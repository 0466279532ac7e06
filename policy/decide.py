"""Findings and an effective policy become actions, each with its reason. Pure: nothing is done here.

What cannot be done where the machine stands is replaced by the next weaker action that can, and says so: "wanted isolate,
could only alert". An alert is always possible: it is the record itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from core.findings import Finding, Gap
from core.text import escape
from policy.resolve import Effective, Resolved
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


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one finding: `action`, where the policy `wanted` that or something stronger, and why.

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
    """The actions for each finding, the policy's order kept; what can be done is decided once for a finding.

    What cannot be done is always said, even where what is done instead is decided already: an action may come again.
    """
    able = frozenset(can) | {Action.ALERT}
    for finding in findings:
        left_out = _left_out(finding, policy)
        if left_out:
            yield Decision(finding, None, None, left_out)
            continue
        wanted, why = _wanted(finding, policy)
        done: set[Action] = set()
        for want in wanted:
            got = next(one for one in (want, *INSTEAD[want], Action.ALERT) if one in able)
            if got is want and got in done:
                continue
            done.add(got)
            yield Decision(finding, want, got, why if got is want else f"wanted {want}, could only {got}: {why}")


def decide_gaps(gaps: Iterable[Gap], policy: Resolved) -> Iterator[GapDecision]:
    """Which gaps are accepted, and by whom."""
    found = policy.values.get("gaps.accepted")
    for gap in gaps:
        accepted = found is not None and gap.reason.value in found.value
        said = _by(found) if accepted and found is not None else "no policy accepts it"
        yield GapDecision(gap, accepted, said)


def _wanted(finding: Finding, policy: Resolved) -> tuple[list[Action], str]:
    by_rule = policy.values.get("actions.by_rule")
    if by_rule is not None:
        fitting = [pattern for pattern in by_rule.value if matcher([pattern])(finding.rule.id)]
        if fitting:
            pattern = max(fitting, key=lambda one: (one == finding.rule.id, len(one), one))
            return _actions(by_rule.value[pattern]), f"rule {pattern}, {_by(by_rule)}"
    severity = finding.rule.severity
    found = policy.values[f"actions.{severity.value}"]
    return _actions(found.value), f"severity {severity.value}, {_by(found)}"


def _actions(words: Iterable[str]) -> list[Action]:
    return [Action(word) for word in words]


def _left_out(finding: Finding, policy: Resolved) -> str:
    """Which exclusion it falls under; empty if none."""
    for setting, text in (
        ("exclusions.rules", finding.rule.id),
        ("exclusions.paths", escape(finding.where.path)),
        ("exclusions.sha256", str(finding.evidence.get("sha256") or "")),
    ):
        found = policy.values.get(setting)
        if found is None or not text:
            continue
        for pattern in found.value:
            fits = path_matches(pattern, text) if setting == "exclusions.paths" else matcher([pattern])(text)
            if fits:
                return f"left out by {setting} {pattern}, {_by(found)}"
    return ""


def path_matches(pattern: str, path: str) -> bool:
    """`*` and `?` stay within a folder, `**` crosses folders, `**/` is any number of folders, none too.

    In time proportional to both lengths: the path is hostile, and no expression may backtrack over it.
    """
    parts = _parts(pattern)
    states = _entered(parts, 0)
    for char in path:
        following: set[int] = set()
        for state in states:
            part = parts[state] if state < len(parts) else ""
            stays = part in {"**", "**/"} or (part == "*" and char != "/")
            if stays:
                following.add(state)
            leaves = char == "/" if part == "**/" else stays or part == char or (part == "?" and char != "/")
            if leaves:
                following |= _entered(parts, state + 1)
        states = following
        if not states:
            return False
    return len(parts) in states


@lru_cache(1024)
def _parts(pattern: str) -> Sequence[str]:
    return [part for part in re.split(r"(\*\*/|\*\*|\*|.)", pattern, flags=re.DOTALL) if part]


def _entered(parts: Sequence[str], state: int) -> set[int]:
    """`state`, and those that are reached from it without a character."""
    found = {state}
    while state < len(parts) and parts[state] in {"*", "**", "**/"}:
        state += 1
        found.add(state)
    return found


def _by(value: Effective) -> str:
    return ", ".join(str(source) for source in value.decided)
