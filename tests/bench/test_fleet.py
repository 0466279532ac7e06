"""Limits hold while several workers claim scans at once, and nobody waits without need; `make bench` does it with 500 machines."""

from __future__ import annotations

import pytest

from bench.fleet import Crowd, simulate
from tests.postgres import Postgres


@pytest.mark.slow
def test_limits_hold_and_the_time_is_near_the_ideal(postgres: Postgres) -> None:
    url = postgres.database()
    crowd = Crowd(machines=60, hosts=12, workers=4, capacity=3, scan_seconds=2.0, per_account=3, per_host=2, total=8)
    found = simulate(url, crowd)
    postgres.drop(url)
    assert found.ended == crowd.machines
    for total, account, host in (found.most, found.written):
        assert (total <= 8, account <= 3, host <= 2) == (True, True, True), found
    assert found.written[0] == 8, "all of the limit is used"
    assert found.ratio < 2.0, found  # on a machine that does much else; the page of the benchmark has the figure


def test_the_ideal_is_what_the_tightest_limit_allows() -> None:
    assert Crowd().ideal_seconds() == 42 * 4.0
    assert Crowd(per_account=1).ideal_seconds() == 140 * 4.0
    assert Crowd(hosts=2).ideal_seconds() == 125 * 4.0
    assert len(Crowd().accounts()) == 500
