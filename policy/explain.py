"""What holds for an instance, and why, as JSON: for each value the document, the line and the lock that decided."""

from __future__ import annotations

from typing import Any

from policy.document import At
from policy.resolve import Item, Resolved, Source, Unresolved


def as_json(name: str, found: Resolved | Unresolved) -> dict[str, Any]:
    """`name` is the instance's. Without a policy, `policy` is None and `reason` says why."""
    if isinstance(found, Unresolved):
        return {"instance": name, "policy": None, "reason": str(found), "policies": list(found.policies)}
    return {
        "instance": name,
        "policy": found.policy,
        "path": list(found.path),
        "profiles": [
            {"name": one.name, "at": str(one.at), "holds": not one.why_not, "why_not": one.why_not}
            for one in found.profiles
        ],
        "settings": {
            one.setting: {
                "value": one.value,
                "decided": [_source(source) for source in one.decided],
                "overridden": [_source(source) for source in one.overridden],
                "lock": {"policy": one.lock.policy, **_place(one.lock.at)} if one.lock else None,
                **({"items": [_item_json(item) for item in one.items()]} if one.items() else {}),
            }
            for one in found.values.values()
        },
    }


def _item_json(item: Item) -> dict[str, Any]:
    return {
        "item": item.value,
        "decided": [_source(source) for source in item.decided],
        "overridden": [_source(source) for source in item.overridden],
    }


def _source(source: Source) -> dict[str, Any]:
    return {"kind": source.kind or "built-in", "name": source.name, **(_place(source.at) if source.at else {})}


def _place(at: At) -> dict[str, Any]:
    return {"document": at.document, "line": at.line, "column": at.column}
