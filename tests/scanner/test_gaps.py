"""Gaps stay bounded, and none of them is lost in the count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Corrupt, Encrypted, Error, LimitExceeded, Unreadable, Unsupported
from core.findings import Gap, GapReason, InFile, InVolume, Location, Machine, OnDisk
from scanner.gaps import GapLog, reason_of

places: st.SearchStrategy[Location] = st.one_of(
    st.just(Machine()),
    st.builds(OnDisk, st.integers(0, 2)),
    st.builds(InVolume, st.integers(0, 2)),
    st.builds(InFile, st.integers(0, 2), st.binary(max_size=3)),
)
gaps_of_all_kinds = st.builds(Gap, places, st.sampled_from(GapReason), st.text(max_size=2), st.integers(1, 5))


def logged(gaps: list[Gap], limit: int = 1000, most_bytes: int = 1 << 20) -> list[Gap]:
    log = GapLog(limit, most_bytes)
    for gap in gaps:
        log.add(gap)
    return list(log)


@pytest.mark.parametrize(
    ("many", "limit", "listed", "rest"),
    [
        pytest.param(0, 3, 0, 0, id="none"),
        pytest.param(3, 3, 3, 0, id="exactly"),
        pytest.param(4, 3, 3, 1, id="one-more"),
        pytest.param(5_000, 3, 3, 4_997, id="many"),
        pytest.param(1_001, 1_000, 1_000, 1, id="default"),
    ],
)
def test_the_rest_is_counted(many: int, limit: int, listed: int, rest: int) -> None:
    gaps = [Gap(InFile(1, b"/%06d" % number), GapReason.CORRUPT, "x") for number in range(many)]
    expected = gaps[:listed]
    if rest:
        detail = f"{rest:,} more of this kind, not listed one by one"
        expected = [*expected, Gap(InVolume(1), GapReason.CORRUPT, detail, rest)]
    assert logged(gaps, limit) == expected


def test_kinds_are_kept_apart() -> None:
    gaps = [
        Gap(InFile(0, b"/a"), GapReason.CORRUPT, ""),
        Gap(InVolume(0), GapReason.SWAP, ""),
        Gap(InFile(1, b"/a"), GapReason.CORRUPT, ""),
        Gap(OnDisk(0), GapReason.CORRUPT, ""),
        Gap(Machine(), GapReason.CORRUPT, ""),
    ]
    assert logged(gaps, 1) == gaps


def test_long_details_are_bounded() -> None:
    gaps = [Gap(InFile(0, b"/%d" % number), GapReason.LIMIT, "x" * 1000) for number in range(10)]
    kept = logged(gaps, most_bytes=2500)
    assert [gap.count for gap in kept] == [1, 1, 8]


@given(st.lists(gaps_of_all_kinds), st.integers(1, 3))
def test_nothing_is_lost(gaps: list[Gap], limit: int) -> None:
    distinct = list(dict.fromkeys(gaps))
    kept = logged([*gaps, *gaps[:1]], limit)
    assert sum(gap.count for gap in kept) >= sum(gap.count for gap in distinct)
    assert {gap.reason for gap in kept} == {gap.reason for gap in gaps}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Encrypted("x"), GapReason.ENCRYPTED),
        (Unsupported("x"), GapReason.UNSUPPORTED_FEATURE),
        (LimitExceeded("x"), GapReason.LIMIT),
        (Unreadable("x"), GapReason.UNREADABLE),
        (Corrupt("x"), GapReason.CORRUPT),
    ],
)
def test_every_error_has_its_reason(error: Error, reason: GapReason) -> None:
    assert reason_of(error) is reason
