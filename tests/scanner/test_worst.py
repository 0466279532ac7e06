"""Which findings are kept when there are too many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.findings import Finding, InFile, Rule, Severity
from scanner.worst import Worst

WHERE = InFile(0, b"/x")


def a_finding(severity: Severity, name: str) -> Finding:
    return Finding(Rule("a", "b", severity, "c"), WHERE, name)


def test_the_worst_stay_in_the_order_in_which_they_came() -> None:
    kept = Worst(3, 1000)
    came = [
        *(("a", Severity.LOW, True), ("b", Severity.HIGH, True), ("c", Severity.LOW, True)),
        *(("d", Severity.LOW, False), ("e", Severity.CRITICAL, False), ("f", Severity.HIGH, False)),
        *(("g", Severity.HIGH, False), ("h", Severity.INFO, False)),
    ]
    for name, severity, fits in came:
        assert kept.add(a_finding(severity, name), 1) is fits, name
    assert [one.subject for one in kept] == ["b", "e", "f"]


def test_bytes_are_bounded_too() -> None:
    kept = Worst(100, 10)
    assert kept.add(a_finding(Severity.LOW, "a"), 6)
    assert kept.add(a_finding(Severity.LOW, "b"), 4)
    assert not kept.add(a_finding(Severity.HIGH, "c"), 5)
    assert [one.subject for one in kept] == ["c"]
    assert kept.add(a_finding(Severity.INFO, "d"), 5), "there is room again"
    assert not kept.add(a_finding(Severity.CRITICAL, "too large"), 11)
    assert list(kept) == []


@given(st.lists(st.sampled_from(list(Severity)), max_size=50), st.integers(1, 20))
def test_none_that_is_left_out_is_worse(given: list[Severity], most: int) -> None:
    kept = Worst(most, 1 << 30)
    fits = [kept.add(a_finding(severity, str(number)), 1) for number, severity in enumerate(given)]
    assert all(fits) is (len(given) <= most)
    assert len(kept) == min(most, len(given))
    expected = sorted(range(len(given)), key=lambda number: (-given[number].rank, number))[:most]
    assert [one.subject for one in kept] == [str(number) for number in sorted(expected)]
