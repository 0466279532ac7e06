from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.pace import Cancelled, Pace, Pacer, Quotas, backoff_seconds

SECONDS = st.floats(0, 2, allow_nan=False)
STEPS = st.lists(st.tuples(SECONDS, st.sampled_from(["call", "told off"])), max_size=200)


@given(st.floats(1, 5000), STEPS)
def test_never_more_than_the_quota(quota: float, steps: list[tuple[float, str]]) -> None:
    """In any stretch of time there are at most as many calls as the quota allows, and what a burst makes up for."""
    pace = Pace(quota)
    now = 100.0
    due = []
    for seconds, what in steps:
        now += seconds
        if what == "call":
            due.append(now + pace.reserve(now))
        else:
            pace.throttled(now)
        assert 0.02 * quota <= pace.rate <= quota
    assert due == sorted(due)
    for first in range(len(due)):
        for last in range(first + 1, len(due)):
            assert last - first <= (due[last] - due[first] + 0.05) * quota * (1 + 1e-6) + 1


@given(st.floats(1, 5000), st.integers(1, 300))
def test_it_recovers(quota: float, times: int) -> None:
    pace = Pace(quota)
    for second in range(times):
        pace.throttled(1000 + second * 0.3)
    low = pace.rate
    assert low < quota
    pace.reserve(2000)
    assert pace.rate == quota


def test_refusals_of_one_moment_count_once() -> None:
    pace = Pace(100)
    for _ in range(50):
        pace.throttled(10.0)
    assert pace.rate == pytest.approx(85)
    pace.throttled(10.3)
    assert pace.rate == pytest.approx((85 + 100 * 0.03 * 0.3) * 0.85)


def test_it_finds_a_quota_that_nobody_told_it() -> None:
    """A service that allows 400 a second, and we believe in 1000: most of the 400 are used, few calls are refused."""
    pace = Pace(1000)
    now, allowance, filled = 50.0, 1.0, 50.0
    done = refused = 0
    while now < 80.0:
        now += pace.reserve(now)
        allowance = min(40.0, allowance + (now - filled) * 400)
        filled = now
        if allowance >= 1:
            allowance -= 1
            done += 1
        else:
            refused += 1
            pace.throttled(now)
    assert done >= 0.9 * 400 * 30
    assert refused < 0.2 * done


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, -1)])
def test_no_quota(rate: float, burst: float) -> None:
    with pytest.raises(ValueError):
        Pace(rate, burst_seconds=burst)


def test_a_wait_ends_when_it_is_told_to() -> None:
    pacer = Pacer(0.001)
    stop = threading.Event()
    pacer.wait(stop)
    threading.Timer(0.05, stop.set).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        pacer.wait(stop)
    assert time.monotonic() - begun < 60
    with pytest.raises(Cancelled):
        Pacer(1000).wait(stop)


def test_quotas_are_shared_and_bounded() -> None:
    quotas = Quotas(blocks_per_second=10, snapshot_blocks_per_second=5)
    one = quotas.of_snapshot("snap-1")
    assert quotas.of_snapshot("snap-1") is one
    assert (quotas.blocks.rate, one.rate) == (10, 5)
    for number in range(5000):
        quotas.of_snapshot(f"snap-x{number}")
    assert quotas.of_snapshot("snap-1") is not one


@given(st.integers(1, 10**6))
def test_back_off_is_bounded(attempt: int) -> None:
    assert 0 <= backoff_seconds(attempt, most=5) <= 5
