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
from typing import Any

from core.errors import ConfigError
from core.estate import Instance
from policy.document import At
from policy.settings import CATALOGUE, DEFAULTS, Settings
from policy.tree import Branch, Lock, ProfileRule, Tree, escaped
from policy.typed import Document

BUILT_IN = "built-in default"


@dataclass(frozen=True, slots=True)
class Source:
    """Who said a value, and where; the built-in defaults stand in no document."""

    name: str
    at: At | None = None
    kind: str = "policy"

    def __str__(self) -> str:
        return self.name if self.at is None else f"{self.kind} {self.name} ({self.at})"


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
    """No policy selects the instance, or nothing tells which of several does."""

    reason: str
    policies: tuple[str, ...] = ()


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
                return Unresolved(f"{escaped(names)} stand beside each other and all select it", names)
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
    said: dict[str, list[tuple[Any, Source]]] = {
        name: [(value, Source(BUILT_IN, kind=""))] for name, value in DEFAULTS.items()
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
            said.setdefault(setting, []).append((value.value, source))
    found = {}
    for setting, layers in sorted(said.items()):
        lost = (refused[setting],) if setting in refused else ()
        found[setting] = _combined(setting, layers, locks.get(setting), lost)
    return found


def _combined(setting: str, layers: list[tuple[Any, Source]], lock: Lock | None, lost: tuple[Source, ...]) -> Effective:
    sources = tuple(source for _, source in layers)
    if not CATALOGUE[setting].merged:
        value, source = layers[-1]
        return Effective(setting, value, (source,), (*sources[:-1], *lost), lock)
    if isinstance(layers[0][0], dict):
        mapping: dict[str, Any] = {}
        for value, _ in layers:
            mapping.update(value)
        return Effective(setting, mapping, sources, lost, lock)
    items: dict[str, Any] = {}
    for value, _ in layers:
        for item in value:
            items.setdefault(item if isinstance(item, str) else json.dumps(item, sort_keys=True), item)
    return Effective(setting, list(items.values()), sources, lost, lock)


def _as_json(values: Mapping[str, Effective]) -> str:
    nested: dict[str, dict[str, Any]] = {}
    for name, one in values.items():
        section, _, setting = name.partition(".")
        nested.setdefault(section, {})[setting] = one.value
    return json.dumps(nested)
