"""Policies against a whole estate: whom each selects, and what a change would change for whom. Pure."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from core.estate import Instance
from policy.document import At
from policy.model import Policy
from policy.resolve import Resolved, Resolver, Unresolved
from policy.tree import Tree, ancestors

_MOST_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Row:
    """A policy or profile: how many instances it `selects`, and for how many it `holds` in the end."""

    title: str
    parent: str
    at: At
    selects: int
    holds: int


@dataclass(frozen=True, slots=True)
class Report:
    """`ambiguous` are instances that two policies select, in words; `notes` what is legal but hardly meant."""

    policies: int
    profiles: int
    instances: int
    rows: tuple[Row, ...]
    ambiguous: tuple[str, ...]
    notes: tuple[str, ...]

    def as_json(self, *, estate: bool) -> dict[str, Any]:
        rows = [
            {
                "name": row.title.strip(),
                "parent": row.parent or None,
                "at": str(row.at),
                **({"selects": row.selects, "holds_for": row.holds} if estate else {}),
            }
            for row in self.rows
        ]
        return {
            "valid": not self.ambiguous,
            "instances": self.instances if estate else None,
            "policies": rows,
            "ambiguous": list(self.ambiguous),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that is another for `instances`; `policy` stands for which policy holds. None: nothing is said.

    `lock of SETTING` names the policies that lock it: who takes a lock out changes nothing yet, but lets others do so.
    """

    setting: str
    old: Any
    new: Any
    instances: tuple[str, ...]


def survey(tree: Tree, estate: Iterable[Instance], now: datetime) -> Report:
    """Counts over `estate`; without instances, nothing is said about selectors."""
    resolver = Resolver(tree, now)
    selects: Counter[str] = Counter()
    holds: Counter[str] = Counter()
    profiles: Counter[str] = Counter()
    ambiguous: list[str] = []
    alone: list[str] = []
    count = 0
    for one in estate:
        count += 1
        found = resolver.resolve(one)
        if isinstance(found, Unresolved):
            (ambiguous if found.policies else alone).append(str(one) + (f": {found.reason}" if found.policies else ""))
            # those that all select it do select it, and so do those above them
            reached = {above for name in found.policies for above in (name, *ancestors(name, tree.parents))}
            selects.update(reached)
            continue
        selects.update(found.path)
        holds[found.policy] += 1
        profiles.update(state.name for state in found.profiles if not state.why_not)
    rows = list(_rows(tree, selects, holds, profiles))
    notes = [*_ended(tree, now)]
    if count:
        notes += _selectors(tree, selects, count)
        notes += _profiles(tree, selects, profiles, now)
    if alone:
        notes.append(f"no policy holds for {len(alone):,} of {count:,} instances: {_named(alone, ', ')}")
    if len(ambiguous) > _MOST_NAMED:
        ambiguous = [*ambiguous[:_MOST_NAMED], f"and {len(ambiguous) - _MOST_NAMED:,} more instances"]
    return Report(len(tree.branches), len(tree.profiles()), count, tuple(rows), tuple(ambiguous), tuple(notes))


def compare(old: Tree, new: Tree, estate: Iterable[Instance], now: datetime) -> list[Change]:
    """What is another for whom, by setting; instances in the order of the estate."""
    before, after = Resolver(old, now), Resolver(new, now)
    touched: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    known: dict[tuple[int | Unresolved, int | Unresolved], list[tuple[str, str, str]]] = {}
    for one in estate:
        first, second = before.resolve(one), after.resolve(one)
        pair = (_shared(first), _shared(second))
        if pair not in known:
            known[pair] = list(_differences(first, second))
        for key in known[pair]:
            touched[key].append(str(one))
    return [
        Change(setting, json.loads(was), json.loads(now_is), tuple(names))
        for (setting, was, now_is), names in sorted(touched.items())
    ]


def _shared(found: Resolved | Unresolved) -> int | Unresolved:
    """The same for instances that share all that holds; a resolver keeps its results, so numbers are not used again."""
    return found if isinstance(found, Unresolved) else id(found)


def _differences(old: Resolved | Unresolved, new: Resolved | Unresolved) -> Iterator[tuple[str, str, str]]:
    names = [one.policy if isinstance(one, Resolved) else f"none ({one.reason})" for one in (old, new)]
    if names[0] != names[1]:
        yield "policy", json.dumps(names[0]), json.dumps(names[1])
    values = [one.values if isinstance(one, Resolved) else {} for one in (old, new)]
    for setting in sorted(values[0].keys() | values[1].keys()):
        was, now_is = (one[setting].value if setting in one else None for one in values)
        if was != now_is:
            yield setting, json.dumps(was, sort_keys=True), json.dumps(now_is, sort_keys=True)
    locks = [one.locks if isinstance(one, Resolved) else {} for one in (old, new)]
    for setting in sorted(locks[0].keys() | locks[1].keys()):
        by, now_by = (one[setting].policy if setting in one else None for one in locks)
        if by != now_by:
            yield f"lock of {setting}", json.dumps(by), json.dumps(now_by)


def _rows(tree: Tree, selects: Counter[str], holds: Counter[str], profiles: Counter[str]) -> Iterator[Row]:
    waiting = [(branch, 0) for branch in reversed(tree.roots)]
    while waiting:
        branch, level = waiting.pop()
        at, name = branch.document.at, branch.name
        yield Row("  " * level + name, tree.parents[name] or "", at, selects[name], holds[name])
        for rule in branch.profiles:
            document = rule.document
            title = "  " * (level + 1) + f"profile {document.name}"
            yield Row(title, name, document.at, profiles[document.name], profiles[document.name])
        waiting += [(child, level + 1) for child in reversed(branch.children)]


def _ended(tree: Tree, now: datetime) -> Iterator[str]:
    for rule in tree.profiles():
        if rule.not_in_time(now).startswith("ended"):
            yield f"{rule.document.at}: the profile `{rule.document.name}` {rule.not_in_time(now)}: take it out"


def _selectors(tree: Tree, selects: Counter[str], count: int) -> Iterator[str]:
    for name, branch in sorted(tree.branches.items()):
        model = branch.document.model
        parent = tree.parents[name]
        of = selects[parent] if parent else count
        if not isinstance(model, Policy) or model.selector is None or not of:
            continue
        among = f"that `{parent}` selects" if parent else "of the estate"
        if not selects[name]:
            yield f"{branch.document.at}: `{name}` selects nothing: 0 of {of:,} instances {among}"
        elif selects[name] == of:
            yield f"{branch.document.at}: `{name}` selects everything: all {of:,} instances {among}"


def _profiles(tree: Tree, selects: Counter[str], profiles: Counter[str], now: datetime) -> Iterator[str]:
    for rule in tree.profiles():
        name = rule.document.name
        of = selects[rule.document.parent or ""]
        if rule.model.when is None or not of or not rule.in_time(now):
            continue
        if not profiles[name]:
            yield f"{rule.document.at}: the profile `{name}` holds for nothing: 0 of {of:,} instances"
        elif profiles[name] == of:
            yield f"{rule.document.at}: the profile `{name}` holds for everything: all {of:,} instances"


def _named(names: list[str], between: str) -> str:
    more = f"{between}and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return between.join(names[:_MOST_NAMED]) + more
