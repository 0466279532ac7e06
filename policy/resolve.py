"""Which policy holds for an instance, what it says in effect, and why. Pure: the same documents, instance and time give the same.

1. From the top, the policy that selects the instance is entered, then the one below it that does, and so on: the deepest
   counts. Where two beside each other select it, that instance has no answer but an error that names both.
2. On the way down each policy replaces what it inherits, or adds to it where the setting is merged.
3. Profiles that hold override: those of upper policies first, then those of lower ones; within one policy by priority.
4. What the machine's administrator sets locally counts last, but nowhere where a policy on the way has locked the setting.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile
from typing import Any, Final

from core.errors import ConfigError
from core.estate import Instance
from policy.document import At
from policy.settings import CATALOGUE, DEFAULTS, Settings
from policy.tree import Branch, Lock, ProfileRule, Tree
from policy.typed import Document, Said

BUILT_IN: Final = "built-in default"
_NOWHERE: Final = At("")


@dataclass(frozen=True, slots=True)
class Source:
    """Who said a value, and where; the built-in defaults stand in no document."""

    name: str
    at: At | None = None
    kind: str = "policy"

    def __str__(self) -> str:
        return self.name if self.at is None else f"{self.kind} {self.name} ({self.at})"


@dataclass(frozen=True, slots=True)
class Item:
    """A list's item, or a mapping's name, as it counts. `decided` said it, each where the item stands.

    `overridden` gave that name another value.
    """

    value: Any
    decided: tuple[Source, ...]
    overridden: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting as it counts. `decided` said it: one, or of a merged setting all that added to it, the uppermost first.

    `overridden` said something else that does not count, the last of them nearest; `lock` is the uppermost lock.
    """

    setting: str
    value: Any
    decided: tuple[Source, ...]
    overridden: tuple[Source, ...] = ()
    lock: Lock | None = None
    layers: tuple[tuple[Said, Source], ...] = ()

    def items(self) -> list[Item]:
        """Of a merged setting, each item with who said it and where, in the order of `value`; else nothing."""
        if not CATALOGUE[self.setting].merged:
            return []
        said: dict[str, list[tuple[Any, Source]]] = {}
        for one, source in self.layers:
            for value, at in zip(one.value, one.items, strict=True):
                content = one.value[value] if isinstance(one.value, dict) else None
                said.setdefault(_key(value), []).append((content, Source(source.name, at, source.kind)))
        found = []
        for value in self.value:
            every = said[_key(value)]
            decided = _last_same(every)
            found.append(Item(value, decided, tuple(source for _, source in every[: len(every) - len(decided)])))
        return found


@dataclass(frozen=True, slots=True)
class ProfileState:
    """A profile on the way. `why_not` is empty if it holds."""

    name: str
    at: At
    why_not: str


@dataclass(frozen=True)
class Resolved:
    """What holds for an instance: `path` names the policies from the top to the one that counts.

    `locks` are those of all settings, also of such that nobody says.
    """

    path: tuple[str, ...]
    profiles: tuple[ProfileState, ...]
    values: Mapping[str, Effective]
    local: str = ""
    locks: Mapping[str, Lock] = field(default_factory=dict)

    @property
    def policy(self) -> str:
        return self.path[-1]

    def get(self, setting: str) -> Any:
        """The value, plain as in JSON; None if nobody said anything. A setting that does not exist is a KeyError."""
        _ = CATALOGUE[setting]
        found = self.values.get(setting)
        return None if found is None else found.value

    def settings(self) -> Settings:
        """Typed."""
        return Settings.model_validate_json(_as_json(self.values))


@dataclass(frozen=True, slots=True)
class Unresolved:
    """No policy selects the instance, or nothing tells which of several does. `places` are those of their selectors."""

    reason: str
    policies: tuple[str, ...] = ()
    places: tuple[At, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        """With the places, which `reason` leaves out: they move when a line is written above."""
        where = ", ".join(f"`{name}` at {at}" for name, at in zip(self.policies, self.places, strict=True))
        return f"{self.reason} ({where})" if where else self.reason


@dataclass(slots=True)
class Resolver:
    """Resolves many instances at one moment; what many of them share is worked out once."""

    tree: Tree
    now: datetime
    _known: dict[tuple[Any, ...], Resolved] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.now.tzinfo is None:
            raise ConfigError("the time to resolve for needs an offset")

    def resolve(self, instance: Instance, local: Document | None = None) -> Resolved | Unresolved:
        way = self._way(instance)
        if isinstance(way, Unresolved):
            return way
        states = tuple(self._state(profile, instance) for branch in way for profile in branch.profiles)
        key = (way[-1].name, states)
        found = self._known.get(key) if local is None else None
        if found is None:
            rules = [profile for branch in way for profile in branch.profiles]
            active = [rule for rule, state in zip(rules, states, strict=True) if not state]
            found = Resolved(
                path=tuple(branch.name for branch in way),
                profiles=tuple(
                    ProfileState(rule.document.name, rule.document.at, state)
                    for rule, state in zip(rules, states, strict=True)
                ),
                values=_values(way, active, local),
                local="" if local is None else local.name,
                locks=_locks(way),
            )
            if local is None:
                self._known[key] = found
        return found

    def _state(self, profile: ProfileRule, instance: Instance) -> str:
        return profile.not_in_time(self.now) or ("" if profile.holds_for(instance) else "its condition does not hold")

    def _way(self, instance: Instance) -> Sequence[Branch] | Unresolved:
        way: list[Branch] = []
        level = self.tree.roots
        while True:
            found = [branch for branch in level if branch.selects(instance)]
            if len(found) > 1:
                names = tuple(branch.name for branch in found)
                words = ", ".join(f"`{name}`" for name in names)
                places = tuple(branch.document.selector_at for branch in found)
                return Unresolved(f"{words} stand beside each other and all select it", names, places)
            if not found:
                break
            way += found
            level = found[0].children
        return way or Unresolved("no policy selects it")


def resolve(tree: Tree, instance: Instance, now: datetime, local: Document | None = None) -> Resolved | Unresolved:
    """One instance at one moment."""
    return Resolver(tree, now).resolve(instance, local)


def _locks(way: Sequence[Branch]) -> dict[str, Lock]:
    """The uppermost lock of each setting, whether somebody says the setting or not."""
    locks: dict[str, Lock] = {}
    for branch in way:
        for setting, at in branch.document.lock.items():
            locks.setdefault(setting, Lock(branch.name, at))
    return locks


def _values(way: Sequence[Branch], active: Iterable[ProfileRule], local: Document | None) -> dict[str, Effective]:
    locks = _locks(way)
    said: dict[str, list[tuple[Said, Source]]] = {
        name: [(Said(value, _NOWHERE), Source(BUILT_IN, kind=""))] for name, value in DEFAULTS.items()
    }
    documents = [(branch.document, "policy") for branch in way]
    documents += [(rule.document, "profile") for rule in active]
    documents += [(local, "local")] if local is not None else []
    refused: dict[str, Source] = {}
    for document, kind in documents:
        for setting, value in document.settings.items():
            source = Source(document.name, value.at, kind)
            if kind == "local" and setting in locks:
                refused[setting] = source
                continue
            said.setdefault(setting, []).append((value, source))
    found = {}
    for setting, layers in sorted(said.items()):
        lost = (refused[setting],) if setting in refused else ()
        found[setting] = _combined(setting, layers, locks.get(setting), lost)
    return found


def _combined(
    setting: str, layers: list[tuple[Said, Source]], lock: Lock | None, lost: tuple[Source, ...]
) -> Effective:
    sources = tuple(source for _, source in layers)
    if not CATALOGUE[setting].merged:
        said, source = layers[-1]
        return Effective(setting, said.value, (source,), (*sources[:-1], *lost), lock)
    kept = tuple(layers)
    if isinstance(layers[0][0].value, dict):
        mapping: dict[str, Any] = {}
        for said, _ in layers:
            mapping.update(said.value)
        beaten: set[str] = set()  # names that somebody below gave another value
        decided: list[Source] = []
        for said, source in reversed(layers):
            beaten.update(name for name, value in said.value.items() if mapping[name] != value)
            if said.value.keys() - beaten:
                decided.append(source)
        lost = (*(source for source in sources if source not in decided), *lost)
        return Effective(setting, mapping, tuple(reversed(decided)), lost, lock, kept)
    items: dict[str, Any] = {}
    for said, _ in layers:
        for item in said.value:
            items.setdefault(_key(item), item)
    return Effective(setting, list(items.values()), sources, lost, lock, kept)


def _key(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item, sort_keys=True)


def _last_same(every: Sequence[tuple[Any, Source]]) -> tuple[Source, ...]:
    """Those at the end of `every` that say the same as the last one."""
    same = takewhile(lambda one: one[0] == every[-1][0], reversed(every))
    return tuple(source for _, source in same)[::-1]


def _as_json(values: Mapping[str, Effective]) -> str:
    nested: dict[str, dict[str, Any]] = {}
    for name, one in values.items():
        section, _, setting = name.partition(".")
        nested.setdefault(section, {})[setting] = one.value
    return json.dumps(nested)
