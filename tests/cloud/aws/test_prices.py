"""Prices by hand against prices by code."""

from __future__ import annotations

from decimal import Decimal

import pytest

from cloud.aws.prices import Calls, Estimate, Expected, Prices, estimate, first_scan, later_scan
from core.errors import ConfigError

TIB = 1 << 40
MONTH = 30 * 86400
FREE_STORAGE = Prices(storage_per_gib_month=Decimal(0))


@pytest.mark.parametrize(
    ("calls", "dollars"),
    [
        pytest.param(Calls(), "0", id="nothing"),
        pytest.param(Calls(list_snapshot_blocks=1000), "0.0006", id="list"),
        pytest.param(Calls(list_changed_blocks=1000), "0.0006", id="changed"),
        pytest.param(Calls(get_snapshot_block=1000), "0.003", id="get"),
        pytest.param(Calls(stored_byte_seconds=100 * (1 << 30) * MONTH), "5", id="100-gib-for-a-month"),
        pytest.param(Calls(1, 1, 204_800), "0.6144012", id="100-gib-read"),
    ],
)
def test_true_count(calls: Calls, dollars: str) -> None:
    assert calls.dollars(Prices()) == Decimal(dollars)


def test_sum_of_scans() -> None:
    assert Calls(1, 2, 3, 4) + Calls(10, 20, 30, 40) == Calls(11, 22, 33, 44)


@pytest.mark.parametrize(
    ("disk", "first", "later"),
    [
        pytest.param(Expected(0), Calls(1), Calls(1, 1), id="empty"),
        pytest.param(Expected(1), Calls(1, 0, 1, (512 << 10) * 3600), Calls(1, 1, 1, (512 << 10) * 3600), id="one-byte"),
        pytest.param(Expected(10 << 30, written=1, read=1, changed=0, keep_seconds=0), Calls(3, 0, 20480), Calls(3, 1), id="10-gib-all"),
        pytest.param(Expected(16 * TIB, written=1, read=0, changed=1, keep_seconds=0), Calls(3356), Calls(3356, 3356, 33_554_432), id="16-tib"),
    ],
)  # fmt: skip
def test_expected_calls(disk: Expected, first: Calls, later: Calls) -> None:
    assert first_scan(disk) == first
    assert later_scan(disk) == later


def test_estimate_of_a_month() -> None:
    disks = [Expected(100 << 30, written=1, read=1, changed=0.01, keep_seconds=0)] * 2
    found = estimate(disks, 30, FREE_STORAGE)
    assert found.first == 2 * (Decimal("0.6144") + 21 * Decimal("0.0000006"))
    assert found.later < found.first / 50
    assert found.month == found.first + 29 * found.later
    assert estimate(disks, 0) == Estimate(estimate(disks, 1).first, estimate(disks, 1).later, Decimal(0))
    assert estimate([], 5).month == 0


def test_prices_of_the_operator() -> None:
    own = Prices(Decimal(1), Decimal(2), Decimal(3))
    assert Calls(1000, 0, 1000, (1 << 30) * MONTH).dollars(own) == 6


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prices(list_per_1000=Decimal(-1)),
        lambda: Expected(-1),
        lambda: Expected(1, written=1.1),
        lambda: Expected(1, read=float("nan")),
        lambda: Expected(1, keep_seconds=-1),
        lambda: estimate([], -1),
    ],
)
def test_what_cannot_be(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]
