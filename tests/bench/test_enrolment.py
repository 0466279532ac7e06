"""The benchmark of enrolment with one launch: all of it runs, and the goal is met."""

from __future__ import annotations

import pytest

from bench.enrolment import enrolment


@pytest.mark.slow
def test_one_launch() -> None:
    ((what, median, *_),) = enrolment(1).rows
    assert what.startswith("launch")
    assert 0 < float(median) < 60
