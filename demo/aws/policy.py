"""What an IAM policy allows: enough of its language to run a program under the very policy that its operator is given.

Statements with Action, NotAction, Resource and Effect, `*` and `?`; conditions by string, ARN and boolean on request tags,
resource tags, `ec2:CreateAction` and the like. A condition of another kind is refused when the policy is read: nothing is
allowed by being overlooked.
Source: IAM User Guide, "IAM JSON policy elements reference" and "Policy evaluation logic".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

Context = Mapping[str, Sequence[str]]
_ELEMENTS = {"Sid", "Effect", "Action", "NotAction", "Resource", "Condition"}
_OPERATORS = {"StringEquals", "StringLike", "StringNotEquals", "ArnEquals", "ArnLike", "Bool", "Null"}


@dataclass(frozen=True, slots=True)
class _Condition:
    operator: str
    if_exists: bool
    for_all: bool
    key: str
    values: tuple[str, ...]

    def holds(self, context: Context) -> bool:
        found = context.get(self.key.lower())
        if self.operator == "Null":
            return (found is None) == (self.values[0].lower() == "true")
        if self.for_all:
            return all(self._is(one) for one in found or ())
        if found is None:
            return self.if_exists or self.operator == "StringNotEquals"
        if self.operator == "StringNotEquals":
            return not any(one in self.values for one in found)
        return any(self._is(one) for one in found)

    def _is(self, found: str) -> bool:
        if self.operator == "StringEquals":
            return found in self.values
        if self.operator == "Bool":
            return found.lower() in {value.lower() for value in self.values}
        return any(fnmatchcase(found, value) for value in self.values)


@dataclass(frozen=True, slots=True)
class _Statement:
    allow: bool
    actions: tuple[str, ...]
    negated: bool
    resources: tuple[str, ...]
    conditions: tuple[_Condition, ...]

    def applies(self, action: str, resource: str, context: Context) -> bool:
        named = any(fnmatchcase(action.lower(), one.lower()) for one in self.actions)
        if named == self.negated or not any(fnmatchcase(resource, one) for one in self.resources):
            return False
        return all(condition.holds(context) for condition in self.conditions)


class Policy:
    """One policy document, as a dictionary. Raises `ValueError` if it has something that is not understood here."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._statements = [_statement(one) for one in _listed(document.get("Statement", []))]

    def allows(self, action: str, resource: str, context: Context) -> bool:
        """Whether `action` is allowed on `resource` (an ARN, or `*`); a denial beats all else. Keys of `context` are lower-case."""
        applying = [one for one in self._statements if one.applies(action, resource, context)]
        return bool(applying) and all(one.allow for one in applying)


def _statement(raw: Mapping[str, Any]) -> _Statement:
    unknown = set(raw) - _ELEMENTS
    if unknown or raw.get("Effect") not in ("Allow", "Deny"):
        raise ValueError(f"a statement with an element that is not understood: {sorted(unknown) or raw.get('Effect')}")
    actions = tuple(_listed(raw.get("Action", raw.get("NotAction"))))
    resources = tuple(_listed(raw.get("Resource")))
    if not actions or not resources:
        raise ValueError("a statement without Action or Resource")
    conditions = tuple(
        _condition(operator, key, _listed(values))
        for operator, pairs in raw.get("Condition", {}).items()
        for key, values in pairs.items()
    )
    return _Statement(raw["Effect"] == "Allow", actions, "NotAction" in raw, resources, conditions)


def _condition(operator: str, key: str, values: Sequence[Any]) -> _Condition:
    name = operator
    for_all = name.startswith("ForAllValues:")
    name = name.removeprefix("ForAllValues:").removeprefix("ForAnyValue:")
    if_exists = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    if name not in _OPERATORS or (for_all and name == "StringNotEquals"):
        raise ValueError(f"a condition that is not understood: {operator}")
    texts = tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    return _Condition(name, if_exists, for_all, key, texts)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
