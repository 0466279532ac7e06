"""The benchmark of reconciling on few instances: that all are sent once and nothing twice."""

from __future__ import annotations

import pytest

from bench.reconcile import reconciling


@pytest.mark.slow
def test_section() -> None:
    text = reconciling(1_500).markdown()
    assert "1,500 instances of one account" in text
    assert "second reconcile, no change" in text
