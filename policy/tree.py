"""The tree of policies: who inherits from whom. What no instance is needed to see is refused here, all of it at once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from policy import checks
from policy.checks import nearest
from policy.document import At, Node, Problem, Refused, read_path, read_texts
from policy.model import Local, Policy, Profile
from policy.selectors import Test, compiled
from policy.settings import CATALOGUE, MOST_ITEMS
from policy.typed import Document, documents, locked_with

MOST_LEVELS: Final = 32


@dataclass(frozen=True, slots=True)
class Lock:
    """Who locked a setting, and where it stands."""

    policy: str
    at: At

    def __str__(self) -> str:
        return f"{self.policy} ({self.at})"


@dataclass(frozen=True, slots=True)
class ProfileRule:
    document: Document
    model: Profile
    holds_for: Test

    def in_time(self, now: datetime) -> bool:
        return self.not_in_time(now) == ""

    def not_in_time(self, now: datetime) -> str:
        """Why it does not count at `now`; empty if it does."""
        if self.model.since is not None and now < checks.start_of(self.model.since):
            return f"begins {self.model.since}"
        if self.model.until != checks.NEVER and now >= checks.end_of(self.model.until):
            return f"ended {self.model.until}"
        return ""


@dataclass(frozen=True, slots=True)
class Branch:
    """One policy with what it is to its place in the tree: its children and profiles, always in the same order."""

    document: Document
    selects: Test
    children: tuple[Branch, ...]
    profiles: tuple[ProfileRule, ...]

    @property
    def name(self) -> str:
        return self.document.name


@dataclass(frozen=True, slots=True)
class Tree:
    """All policies. `local` has the `Local` documents by name."""

    roots: tuple[Branch, ...]
    branches: Mapping[str, Branch]
    parents: Mapping[str, str | None]
    local: Mapping[str, Document]

    def profiles(self) -> list[ProfileRule]:
        return [profile for _, branch in sorted(self.branches.items()) for profile in branch.profiles]


def load(path: Path) -> Tree:
    """The tree of a file or folder. Raises `Refused` with all problems, or `ConfigError` if there is nothing to read."""
    return plant(read_path(path))


def load_texts(texts: Mapping[str, str]) -> Tree:
    """The tree of documents that are held elsewhere than in files: YAML or JSON by name. Names stand in all that is said.

    Raises `Refused` with all problems, or `ConfigError` if there is nothing to read.
    """
    return plant(read_texts(texts))


def plant(nodes: Iterable[Node]) -> Tree:
    """The tree of documents, in whatever order they come. Raises `Refused`."""
    found = sorted(documents(nodes), key=lambda one: (one.name, one.at))
    problems = list(_twice(found))
    policies = {one.name: one for one in found if isinstance(one.model, Policy)}
    profiles = [one for one in found if isinstance(one.model, Profile)]
    problems += _parents([*policies.values(), *profiles], policies)
    problems += _cycles(policies)
    if problems:  # the rest needs a tree
        raise Refused(problems)
    if too_deep := list(_too_deep(policies)):
        raise Refused(too_deep)
    problems += _locked([*policies.values(), *profiles], policies)
    problems += _contradictions(profiles)
    local = {one.name: one for one in found if isinstance(one.model, Local)}
    problems += _too_much(policies, profiles, local.values())
    if problems:
        raise Refused(problems)
    branches = _branches(policies, profiles)
    parents = {name: one.parent for name, one in policies.items()}
    return Tree(
        roots=tuple(branch for name, branch in sorted(branches.items()) if parents[name] is None),
        branches=branches,
        parents=parents,
        local=local,
    )


def ancestors(name: str, parents: Mapping[str, str | None]) -> list[str]:
    """Those above `name`, the nearest first. There must be no cycle."""
    found: list[str] = []
    above = parents[name]
    while above is not None:
        found.append(above)
        above = parents[above]
    return found


def _twice(found: Iterable[Document]) -> Iterable[Problem]:
    first: dict[tuple[bool, str], Document] = {}
    for one in found:
        key = (isinstance(one.model, Local), one.name)
        if key in first:
            yield Problem(one.at, f"there is another `{one.name}` at {first[key].at}: names are unique")
        first.setdefault(key, one)


def _parents(found: Iterable[Document], policies: Mapping[str, Document]) -> Iterable[Problem]:
    close: dict[str, str] = {}  # many have lost the same parent
    for one in found:
        if one.parent is not None and one.parent not in policies:
            if one.parent not in close:
                close[one.parent] = nearest(one.parent, policies)
            yield Problem(one.parent_at, f"there is no policy `{one.parent}`{close[one.parent]}")


def _cycles(policies: Mapping[str, Document]) -> Iterable[Problem]:
    done: set[str] = set()
    for name in policies:
        path: list[str] = []
        here = name
        while here in policies and here not in done and here not in path:
            path.append(here)
            here = policies[here].parent or ""
        if here in path:
            circle = path[path.index(here) :]
            start = circle.index(min(circle))
            circle = circle[start:] + circle[:start]
            text = " -> ".join([*circle, circle[0]])
            yield Problem(policies[circle[0]].parent_at, f"these policies inherit from each other in a circle: {text}")
        done.update(path)


def _too_deep(policies: Mapping[str, Document]) -> Iterable[Problem]:
    levels: dict[str, int] = {}
    for name in policies:
        way = [name]
        while (above := policies[way[-1]].parent) is not None and way[-1] not in levels:
            way.append(above)
        for here in reversed(way):
            parent = policies[here].parent
            levels[here] = levels[parent] + 1 if parent is not None else 1
        if levels[name] == MOST_LEVELS + 1:
            yield Problem(policies[name].parent_at, f"policies stand more than {MOST_LEVELS} levels deep")


def _locked(found: Iterable[Document], policies: Mapping[str, Document]) -> Iterable[Problem]:
    parents = {name: one.parent for name, one in policies.items()}
    for one in found:
        above = [*([one.parent] if one.parent else []), *(ancestors(one.parent, parents) if one.parent else [])]
        if isinstance(one.model, Profile):  # a policy's own profiles are its author's
            above = above[1:]
        for setting, said in one.settings.items():
            holders = [name for name in above if setting in policies[name].lock]
            if holders:
                lock = Lock(holders[-1], policies[holders[-1]].lock[setting])
                yield Problem(said.at, _why_locked(setting, lock, policies[lock.policy]))


def _why_locked(setting: str, lock: Lock, holder: Document) -> str:
    assert isinstance(holder.model, Policy)
    cause = locked_with(holder.model.lock, setting)
    together = f" together with `{cause}`" if cause else ""
    way_out = f"take it out here, say it in `{lock.policy}` or a profile of it, or take out the lock there"
    return f"`{setting}` is locked by {lock}{together}: {way_out}"


def _contradictions(profiles: Iterable[Document]) -> Iterable[Problem]:
    """Two profiles of one policy and one priority that say the same setting: nothing would tell which counts."""
    said: dict[tuple[str | None, int, str], Document] = {}
    for one in profiles:
        assert isinstance(one.model, Profile)
        for setting, value in one.settings.items():
            if CATALOGUE[setting].merged and isinstance(value.value, list):
                continue
            key = (one.parent, one.model.priority, setting)
            if (other := said.setdefault(key, one)) is not one:
                yield Problem(
                    value.at,
                    f"the profile `{other.name}` ({other.settings[setting].at}) of the same policy also says `{setting}`: "
                    "give them different priorities",
                )


def _too_much(
    policies: Mapping[str, Document], profiles: Iterable[Document], local: Iterable[Document]
) -> Iterable[Problem]:
    """Merged settings that may add up to more than one document may say, as if all profiles held."""
    parents = {name: one.parent for name, one in policies.items()}
    own: defaultdict[str, Counter[str]] = defaultdict(Counter)
    last: dict[tuple[str, str], At] = {}
    for one in (*policies.values(), *profiles):
        holder = one.name if isinstance(one.model, Policy) else one.parent or ""
        own[holder].update(_items(one))
        last.update({(holder, setting): said.at for setting, said in one.settings.items()})
    heaviest: Counter[str] = Counter()
    for name in policies:
        above = ancestors(name, parents)
        for setting, count in own[name].items():
            total = count + sum(own[upper][setting] for upper in above)
            heaviest[setting] = max(heaviest[setting], total)
            if total > MOST_ITEMS:
                yield _too_many(last[name, setting], setting, total)
    for one in local:
        for setting, count in _items(one).items():
            if count + heaviest[setting] > MOST_ITEMS:
                yield _too_many(one.settings[setting].at, setting, count + heaviest[setting])


def _items(one: Document) -> dict[str, int]:
    return {setting: len(said.value) for setting, said in one.settings.items() if CATALOGUE[setting].merged}


def _too_many(at: At, setting: str, count: int) -> Problem:
    return Problem(at, f"`{setting}` has {count:,} items with what is inherited, more than {MOST_ITEMS:,}")


def _branches(policies: Mapping[str, Document], profiles: Iterable[Document]) -> dict[str, Branch]:
    children: defaultdict[str, list[str]] = defaultdict(list)
    for name, one in policies.items():
        if one.parent is not None:
            children[one.parent].append(name)
    rules: defaultdict[str, list[ProfileRule]] = defaultdict(list)
    for one in profiles:
        assert isinstance(one.model, Profile)
        assert one.parent is not None
        rules[one.parent].append(ProfileRule(one, one.model, compiled(one.model.when)))
    waiting = Counter({name: len(children[name]) for name in policies})
    ready = [name for name in policies if not waiting[name]]
    made: dict[str, Branch] = {}
    while ready:  # leaves first: no recursion, however deep the tree
        name = ready.pop()
        one = policies[name]
        assert isinstance(one.model, Policy)
        made[name] = Branch(
            document=one,
            selects=compiled(one.model.selector),
            children=tuple(made[child] for child in sorted(children[name])),
            profiles=tuple(sorted(rules[name], key=lambda rule: (rule.model.priority, rule.document.name))),
        )
        if one.parent is not None:
            waiting[one.parent] -= 1
            if not waiting[one.parent]:
                ready.append(one.parent)
    return made
