"""Policies and instances for tests, in few words."""

from __future__ import annotations

from datetime import UTC, datetime

from core.estate import Instance, Place
from policy.document import Refused, read_text
from policy.tree import Tree, plant

NOW = datetime(2027, 1, 15, 12, tzinfo=UTC)


def policy(name: str, rest: str = "", parent: str = "", kind: str = "Policy") -> str:
    above = f", parent: {parent}" if parent else ""
    return f"---\napiVersion: kumomori/v1\nkind: {kind}\nmetadata: {{name: {name}{above}}}\n{rest}\n"


def tree(*texts: str) -> Tree:
    return plant(read_text("p.yaml", "".join(texts)))


def problems(*texts: str) -> list[str]:
    """What is said about documents that are refused."""
    try:
        tree(*texts)
    except Refused as error:
        return [str(one) for one in error.problems]
    raise AssertionError("it was not refused")


def machine(cloud: str = "aws", account: str = "1", region: str = "r", id: str = "i-1", **others: object) -> Instance:  # noqa: A002
    return Instance(Place(cloud, account, region), id, **others)  # type: ignore[arg-type]
