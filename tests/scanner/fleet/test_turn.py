"""Whose turn it is: a pure choice, checked row by row and against what must always hold."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanner.fleet.turn import Candidate, Limits, Load, choose


def one(
    id_: str, machine: str = "", placement: str = "", account: str = "a", region: str = "r", **limits: int | None
) -> Candidate:
    return Candidate(
        id_, machine or id_, placement, "aws", account, region, limits.get("host"), limits.get("account_most")
    )


@pytest.mark.parametrize(
    ("running", "waiting", "limits", "chosen"),
    [
        pytest.param([], [], Limits(), None, id="nothing waits"),
        pytest.param([], [one("x"), one("y")], Limits(), "x", id="the first"),
        pytest.param([one("x")], [one("y")], Limits(total=1), None, id="full"),
        pytest.param([one("x", region="r")], [one("y", region="r"), one("z", region="s")], Limits(per_region=1), "z", id="region"),
        pytest.param([one("x")], [one("y", account_most=1), one("z", account="b", account_most=1)], Limits(), "z", id="account"),
        pytest.param([one("x", placement="h")], [one("y", placement="h", host=1), one("z", placement="g", host=1)], Limits(), "z", id="host"),
        pytest.param([one("x", placement="")], [one("y", placement="", host=1)], Limits(), "y", id="hosts that are not known"),
        pytest.param([one("x", machine="m")], [one("y", machine="m"), one("z")], Limits(), "z", id="a machine once at a time"),
        pytest.param([], [one("y", account_most=0), one("z")], Limits(), "z", id="0 forbids"),
        pytest.param([one("x", account_most=1)], [one("y", account_most=2)], Limits(), "y", id="its own limit counts"),
    ],
)  # fmt: skip
def test_choice(running: list[Candidate], waiting: list[Candidate], limits: Limits, chosen: str | None) -> None:
    found = choose(waiting, Load.of(running), limits)
    assert (found and found.id) == chosen


def test_the_same_account_number_in_two_clouds() -> None:
    other = one("x")._replace(cloud="azure")
    assert choose([one("y", account_most=1)], Load.of([other]), Limits()) is not None


_CANDIDATES = st.lists(
    st.builds(
        Candidate,
        id=st.integers().map(str),
        machine=st.sampled_from("mnop"),
        placement=st.sampled_from(["", "h", "g"]),
        cloud=st.sampled_from(["aws", "azure"]),
        account=st.sampled_from("ab"),
        region=st.sampled_from("rs"),
        most_per_host=st.sampled_from([None, 1, 2]),
        most_per_account=st.sampled_from([None, 1, 3]),
    ),
    max_size=30,
)


@given(_CANDIDATES, st.builds(Limits, total=st.integers(0, 5), per_region=st.integers(0, 3)))
def test_no_limit_is_passed_and_nothing_waits_that_could_start(waiting: list[Candidate], limits: Limits) -> None:
    running: list[Candidate] = []
    left = list(waiting)
    while (found := choose(left, Load.of(running), limits)) is not None:
        before = Load.of(running)
        accounts = Counter((one.cloud, one.account) for one in running)
        assert found.machine not in before.machines
        assert found.most_per_account is None or accounts[found.cloud, found.account] < found.most_per_account
        running.append(found)
        left.remove(found)
        assert not limits.total or len(running) <= limits.total
        assert (
            not limits.per_region
            or max(Counter((one.cloud, one.region) for one in running).values()) <= limits.per_region
        )
    load = Load.of(running)
    assert not any(load.admits(one, limits) for one in left)
