"""Policies against a whole estate: whom each selects, and what a change would change for whom. Pure."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from core.errors import ConfigError
from core.estate import Instance
from policy.document import At, Problem
from policy.model import Extent, Policy
from policy.resolve import Resolved, Resolver, Unresolved
from policy.tree import Branch, Tree

_MOST_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Row:
    """A policy or profile: how many instances it `selects`, and for how many it `holds` in the end.

    A profile selects what its condition is true for, whether its time has come or not.
    """

    title: str
    parent: str
    at: At
    selects: int
    holds: int


@dataclass(frozen=True, slots=True)
class Report:
    """What policies do to an estate. With `problems` they must not be applied; `notes` are legal but hardly meant.

    `instances` is None where no estate was given: then nothing was counted and nothing could be refused.
    """

    policies: int
    profiles: int
    instances: int | None
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        counted = self.instances is not None
        rows = [
            {
                "name": row.title.strip(),
                "parent": row.parent or None,
                "at": str(row.at),
                **({"selects": row.selects, "holds_for": row.holds} if counted else {}),
            }
            for row in self.rows
        ]
        return {
            "valid": not self.problems,
            "instances": self.instances,
            "policies": rows,
            "problems": [problem.as_json() for problem in self.problems],
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


@dataclass(slots=True)
class _Counts:
    """By name of a policy or profile; `beside` has the instances of siblings that select the same."""

    instances: int = 0
    selects: Counter[str] = field(default_factory=Counter)
    holds: Counter[str] = field(default_factory=Counter)
    beside: defaultdict[tuple[str, ...], list[str]] = field(default_factory=lambda: defaultdict(list))
    alone: list[str] = field(default_factory=list)

    def add(self, tree: Tree, one: Instance, now: datetime) -> None:
        """Enters all that selects `one`, also below siblings that both do: those are refused, and counted all the same."""
        self.instances += 1
        way: list[Branch] = []
        waiting = [tree.roots]
        single = True
        while waiting:
            found = [branch for branch in waiting.pop() if branch.selects(one)]
            if len(found) > 1:
                self.beside[tuple(branch.name for branch in found)].append(str(one))
                single = False
            way += found
            waiting += [branch.children for branch in found if branch.children]
        self.selects.update(branch.name for branch in way)
        rules = [rule for branch in way for rule in branch.profiles if rule.holds_for(one)]
        self.selects.update(rule.document.name for rule in rules)
        if not way:
            self.alone.append(str(one))
        elif single:
            self.holds[way[-1].name] += 1
            self.holds.update(rule.document.name for rule in rules if rule.in_time(now))


def survey(tree: Tree, estate: Iterable[Instance] | None, now: datetime) -> Report:
    """Counts over `estate`, and refuses selectors that select nothing or everything of it without saying that it is meant.

    None is "no estate at hand". Raises `ConfigError` for an estate without instances: of it nothing could be said.
    """
    counts = _Counts()
    for one in estate or ():
        counts.add(tree, one, now)
    if estate is not None and not counts.instances:
        raise ConfigError("the estate has no instances, so nothing can be counted: list them first")
    notes = [*_ended(tree, now)]
    if counts.alone:
        names = _named(counts.alone)
        notes.append(f"no policy holds for {len(counts.alone):,} of {counts.instances:,} instances: {names}")
    return Report(
        policies=len(tree.branches),
        profiles=len(tree.profiles()),
        instances=None if estate is None else counts.instances,
        rows=tuple(_rows(tree, counts)),
        problems=tuple(sorted([*_beside(tree, counts), *_extents(tree, counts, now)])),
        notes=tuple(notes),
    )


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


def _rows(tree: Tree, counts: _Counts) -> Iterator[Row]:
    waiting = [(branch, 0) for branch in reversed(tree.roots)]
    while waiting:
        branch, level = waiting.pop()
        at, name = branch.document.at, branch.name
        yield Row("  " * level + name, tree.parents[name] or "", at, counts.selects[name], counts.holds[name])
        for rule in branch.profiles:
            other = rule.document.name
            title = "  " * (level + 1) + f"profile {other}"
            yield Row(title, name, rule.document.at, counts.selects[other], counts.holds[other])
        waiting += [(child, level + 1) for child in reversed(branch.children)]


def _ended(tree: Tree, now: datetime) -> Iterator[str]:
    for rule in tree.profiles():
        if rule.not_in_time(now).startswith("ended"):
            yield f"{rule.document.at}: the profile `{rule.document.name}` {rule.not_in_time(now)}: take it out"


def _beside(tree: Tree, counts: _Counts) -> Iterator[Problem]:
    """Siblings that select the same instances, said where the last of them stands."""
    for names, instances in counts.beside.items():
        documents = sorted((tree.branches[name].document for name in names), key=lambda one: one.selector_at)
        words = _named([f"`{one.name}` ({one.selector_at})" for one in documents])
        text = f"{words} stand beside each other and all select {len(instances):,} {_instances(len(instances))}"
        yield Problem(documents[-1].selector_at, f"{text}, for which nothing would hold: {_named(instances)}")


def _extents(tree: Tree, counts: _Counts, now: datetime) -> Iterator[Problem]:
    """Selectors that select nothing, or everything, of what there is for them to select, and do not say so.

    Below a policy that selects nothing there is nothing to select: that is said once, of the policy. A profile that has
    ended selects no more.
    """
    for name, branch in tree.branches.items():
        above = tree.parents[name]
        of = counts.selects[above] if above else counts.instances
        model = branch.document.model
        if isinstance(model, Policy) and model.selector is not None:
            among = f"that `{above}` selects" if above else "of the estate"
            yield from _extent(branch.document.selector_at, name, counts.selects[name], of, among, model.may_select)
        for rule in branch.profiles:
            if rule.model.when is None or rule.not_in_time(now).startswith("ended"):
                continue
            of, other = counts.selects[name], rule.document.name
            among = f"that `{name}` selects"
            yield from _extent(
                rule.document.selector_at, other, counts.selects[other], of, among, rule.model.may_select
            )


def _extent(
    at: At, name: str, selects: int, of: int, among: str, may_select: tuple[Extent, ...] | None
) -> Iterator[Problem]:
    if not of or 0 < selects < of:
        return
    extent = Extent.EVERYTHING if selects else Extent.NOTHING
    if extent in (may_select or ()):
        return
    counted = f"`{name}` selects {selects:,} of {of:,} {_instances(of)} {among}: {extent.value}"
    yield Problem(at, f"{counted}; if that is meant, say `may_select: [{extent.value}]` beside it")


def _instances(count: int) -> str:
    return "instance" if count == 1 else "instances"


def _named(names: list[str]) -> str:
    more = f", and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
