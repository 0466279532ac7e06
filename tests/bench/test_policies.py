"""The benchmark of policies on few instances: that both trees have a policy for each, and that what is counted is that."""

from __future__ import annotations

import pytest

from bench import policies as bench_policies
from bench.policies import documents, estate, measure, policies
from policy.document import read_text
from policy.tree import Tree, plant


def planted(shape: str, count: int) -> Tree:
    return plant(read_text("bench.yaml", "".join(documents(shape, count))))


@pytest.mark.parametrize(("shape", "levels"), [("tree", 3), ("flat", 2)])
def test_shapes(shape: str, levels: int) -> None:
    tree = planted(shape, 20)
    assert len(tree.branches) == 20
    assert len(tree.profiles()) == 2
    deepest = 0
    for start in tree.parents:
        name: str | None = start
        level = 0
        while name is not None:
            level, name = level + 1, tree.parents[name]
        deepest = max(deepest, level)
    assert deepest == levels


@pytest.mark.parametrize("shape", ["tree", "flat"])
def test_measure(shape: str) -> None:
    parts = measure(shape, 100, 20)
    assert list(parts) == ["read", "resolve", "count"]
    assert all(0 <= part < 30 for part in parts.values())


def test_an_estate_without_policies_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_policies, "estate", lambda instances, _: estate(instances, 2))
    with pytest.raises(AssertionError):
        measure("flat", 100, 20)


@pytest.mark.slow
def test_section() -> None:
    text = policies(100, 20, 1).markdown()
    assert "100 instances with four tags and 20 policies" in text
    assert "all beside each other below one" in text
