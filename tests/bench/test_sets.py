"""The benchmark of file sets, small: its answers are right, and a machine's set takes little beside its image's."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.sets import Shape, simulate


@pytest.mark.slow
def test_a_machine_costs_what_differs(tmp_path: Path) -> None:
    found = simulate(f"sqlite:///{tmp_path}/console.sqlite", Shape(machines=20, shared=20_000, own=20))
    assert found.image_bytes < 20_000 * 32 * 2.5
    assert found.machine_bytes < 20 * 20_000
