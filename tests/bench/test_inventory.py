"""The benchmark of inventories on few instances: that both sides list the same."""

from __future__ import annotations

import pytest

from bench import inventory as bench_inventory
from bench.inventory import inventory
from bench.measure import Failed


@pytest.mark.slow
def test_section() -> None:
    text = inventory(2, 250, 1).markdown()
    assert "500 instances in 2 accounts" in text
    assert "µs of CPU per instance" in text


@pytest.mark.slow
def test_a_side_that_misses_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_inventory, "DISKS", 3)
    with pytest.raises(Failed, match="ours listed 10 instances, 20 disks"):
        inventory(1, 10, 1)
