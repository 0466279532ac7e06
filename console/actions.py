"""What the policies want done about findings, in words, and what could not be done where the machine stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from console.report import Found
from core.findings import Finding, InFile, Rule
from policy.decide import decide, possible
from policy.document import At
from policy.resolve import Effective, Resolved, Source
from policy.settings import DEFAULTS, Mode
from policy.typed import Said

_NEEDED: Final = ("actions.", "exclusions.")
_ORDERED: Final = At("as ordered")  # an order has no places of documents


def actions(found: Sequence[Found], settings: Mapping[str, Any], cloud: str, mode: str, policy: str) -> list[list[str]]:
    """For each finding the actions that `settings` (effective ones, by full name) want: `alert`, `wanted stop, could only alert: …`."""
    said = Source(policy or "the built-in defaults")
    values = {
        name: Effective(name, value, (said,), layers=((_said(value), said),))
        for name, value in {**DEFAULTS, **settings}.items()
        if name.startswith(_NEEDED)
    }
    resolved = Resolved((policy,), (), values)
    can = possible(cloud, Mode(mode) if mode in set(Mode) else Mode.AGENTLESS)
    asked = [
        Finding(Rule(one.rule, one.title, one.severity, one.remedy), InFile(0, one.path), one.subject, one.evidence)
        for one in found
    ]
    by_id: dict[int, list[str]] = {id(one): [] for one in asked}
    for decision in decide(asked, resolved, can):
        if decision.action is None:
            by_id[id(decision.finding)].append(decision.reason)
        elif decision.wanted is decision.action:
            by_id[id(decision.finding)].append(decision.action.value)
        else:
            by_id[id(decision.finding)].append(decision.reason)
    return list(by_id.values())


def _said(value: Any) -> Said:
    count = len(value) if isinstance(value, list | dict) else 0
    return Said(value, _ORDERED, (_ORDERED,) * count)
