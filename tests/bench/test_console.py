from __future__ import annotations

import pytest

from bench.console import console


@pytest.mark.slow
def test_a_small_one() -> None:
    section = console(60, 5)
    assert [row[0] for row in section.rows] == ["SQLite", "PostgreSQL"]
    assert {row[-1] for row in section.rows} == {"0"}
    assert all(float(cell.replace(",", "")) > 0 for row in section.rows for cell in row[1:-1])
