from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from core.estate import Instance
from policy.compare import Report, compare, survey
from policy.resolve import Resolved, Resolver
from policy.tree import Tree
from tests.policy.documents import NOW, machine, policy, problems, tree

ESTATE = [machine(id=f"i-{number}", tags={"env": "dev" if number else "prod"}) for number in range(5)]


def said(report: Report) -> list[str]:
    return [str(one) for one in report.problems]


def surveyed(*texts: str) -> Report:
    return survey(tree(*texts), ESTATE, NOW)


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        pytest.param("cloud: gcp", "p.yaml:5:1: `a` selects 0 of 5 instances of the estate: nothing", id="nothing"),
        pytest.param("cloud: '*'", "p.yaml:5:1: `a` selects 5 of 5 instances of the estate: everything", id="all"),
        pytest.param("not: {tags: {env: prd}}", "`a` selects 5 of 5 instances", id="misspelt-exception"),
        pytest.param("tags: {env: dev}", "", id="some"),
    ],
)
def test_a_root_that_selects_nothing_or_everything(selector: str, words: str) -> None:
    report = surveyed(policy("a", f"selector: {{{selector}}}"))
    assert words in "".join(said(report))
    assert bool(report.problems) == bool(words)
    assert report.as_json()["valid"] is not bool(words)


@pytest.mark.parametrize(
    ("may_select", "selector", "refused"),
    [
        pytest.param("nothing", "cloud: gcp", False, id="nothing"),
        pytest.param("[everything]", "cloud: aws", False, id="everything"),
        pytest.param("[nothing, everything]", "cloud: gcp", False, id="both"),
        pytest.param("[everything]", "cloud: gcp", True, id="another-was-meant"),
        pytest.param("nothing", "cloud: aws", True, id="another-was-meant-too"),
    ],
)
@pytest.mark.parametrize("kind", ["Policy", "Profile"])
def test_what_is_meant_is_said(kind: str, may_select: str, selector: str, refused: bool) -> None:
    name = "selector" if kind == "Policy" else "when"
    until = "" if kind == "Policy" else "until: never\n"
    text = policy("b", f"{until}{name}: {{{selector}}}\nmay_select: {may_select}", "a", kind)
    assert bool(surveyed(policy("a"), text).problems) == refused


def test_the_floor_is_not_everything() -> None:
    report = surveyed(policy("a"), policy("b", "selector: {tags: {env: dev}}", "a"), policy("c", "", "b"))
    assert report.problems == ()
    assert [(row.title, row.selects, row.holds) for row in report.rows] == [("a", 5, 1), ("  b", 4, 0), ("    c", 4, 4)]


def test_counts_are_of_what_the_parent_selects() -> None:
    report = surveyed(
        policy("a"),
        policy("b", "selector: {tags: {env: dev}}", "a"),
        policy("c", "selector: {tags: {env: d*}}", "b"),
        policy("d", "selector: {tags: {env: prod}}", "b"),
    )
    assert [one.partition("; ")[0] for one in said(report)] == [
        "p.yaml:15:1: `c` selects 4 of 4 instances that `b` selects: everything",
        "p.yaml:20:1: `d` selects 0 of 4 instances that `b` selects: nothing",
    ]


def test_below_nothing_it_is_said_once() -> None:
    below = policy("c", "selector: {tags: {env: prod}}", "b")
    (only,) = said(surveyed(policy("a"), policy("b", "selector: {cloud: gcp}", "a"), below))
    assert "`b` selects 0 of 5" in only
    meant = policy("b", "selector: {cloud: gcp}\nmay_select: nothing", "a")
    assert surveyed(policy("a"), meant, below).problems == ()


@pytest.mark.parametrize(
    ("when", "since", "until", "words"),
    [
        pytest.param("tags: {env: dev}", "2027-02-01", "2027-02-07", "", id="next-month-it-selects-some"),
        pytest.param("tags: {env: dv}", "2027-02-01", "2027-02-07", "0 of 5", id="next-month-it-selects-nothing"),
        pytest.param("cloud: aws", "2027-02-01", "never", "5 of 5", id="next-month-it-selects-everything"),
        pytest.param("tags: {env: dv}", "2026-01-01", "2026-02-01", "", id="over"),
    ],
)
def test_the_time_of_a_profile_is_no_selector(when: str, since: str, until: str, words: str) -> None:
    text = policy("b", f"since: {since}\nuntil: {until}\nwhen: {{{when}}}", "a", "Profile")
    report = surveyed(policy("a"), text)
    assert words in "".join(said(report))
    assert bool(report.problems) == bool(words)
    assert bool(report.notes) == (until == "2026-02-01")
    assert report.rows[1].holds == 0


def test_a_profile_without_a_condition_is_no_selector() -> None:
    assert surveyed(policy("a"), policy("b", "until: never", "a", "Profile")).problems == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(policy("a", "may_select: nothing"), "p.yaml:5:1: `may_select` speaks of a `selector`", id="alone"),
        pytest.param(policy("a", "selector: {os: x}\nmay_select: [noting]"), "did you mean `nothing`?", id="misspelt"),
        pytest.param(policy("a", "selector: {os: x}\nmay_selekt: nothing"), "did you mean `may_select`?", id="name"),
        pytest.param(policy("a", "selector: {os: x}\nmay_select: []"), "p.yaml:6:13", id="empty"),
    ],
)
def test_may_select_refused(text: str, words: str) -> None:
    assert words in problems(text)[0]


def test_siblings_are_named_with_their_lines() -> None:
    report = surveyed(
        policy("a"),
        policy("c", "selector: {tags: {env: dev}}", "a"),
        policy("b", "selector: {name: x, tags: {env: '*'}}\nmay_select: nothing", "a"),
        policy("d", "selector: {id: i-1}", "a"),
        policy("below", "selector: {id: i-2}", "c"),
        policy("deeper", "selector: {id: i-1}\nmay_select: everything", "d"),
    )
    (only,) = said(report)
    assert only == (
        "p.yaml:21:1: `c` (p.yaml:10:1), `d` (p.yaml:21:1) stand beside each other and all select 1 instance, "
        "for which nothing would hold: aws://1/r/i-1"
    )
    # what stands below siblings is counted: it is not said to select nothing as well
    assert {row.title.strip(): row.selects for row in report.rows}["deeper"] == 1


def test_many_siblings_are_not_all_named() -> None:
    (only,) = said(surveyed(*(policy(f"p{number:03}") for number in range(300))))
    assert "and 280 more stand beside each other" in only


def test_two_roots() -> None:
    report = surveyed(policy("a"), policy("b"))
    assert "all select 5 instances" in said(report)[0]
    assert all(row.holds == 0 for row in report.rows)


def test_no_estate_and_an_empty_one() -> None:
    report = survey(tree(policy("a", "selector: {cloud: gcp}")), None, NOW)
    assert (report.problems, report.instances) == ((), None)
    assert "selects" not in report.as_json()["policies"][0]
    with pytest.raises(ConfigError, match="no instances"):
        survey(tree(policy("a")), iter(()), NOW)


def test_instances_without_a_policy_are_noted() -> None:
    (note,) = surveyed(policy("a", "selector: {tags: {env: dev}}")).notes
    assert note == "no policy holds for 1 of 5 instances: aws://1/r/i-0"


@st.composite
def forests(draw: st.DrawFn) -> Tree:
    texts = []
    for number in range(draw(st.integers(1, 6))):
        parent = draw(st.sampled_from(["", *(f"p{above}" for above in range(number))]))
        tags = draw(st.sets(st.sampled_from("xyz"), min_size=1))
        selector = f"selector: {{any: {json.dumps([{'tags': {tag: '*'}} for tag in sorted(tags)])}}}"
        texts.append(policy(f"p{number}", selector, parent))
    return tree(*texts)


@settings(max_examples=60, deadline=None)
@given(forests(), st.lists(st.sets(st.sampled_from("xyz")), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_what_is_counted_is_what_holds(planted: Tree, tags: list[set[str]], dice: random.Random) -> None:
    estate = [machine(id=f"i-{number}", tags=dict.fromkeys(one, "1")) for number, one in enumerate(tags)]
    report = survey(planted, estate, NOW)
    resolver = Resolver(planted, NOW)
    found = [resolver.resolve(one) for one in estate]
    for row in report.rows:
        assert row.holds == sum(isinstance(one, Resolved) and one.policy == row.title.strip() for one in found)
        assert row.selects == sum(_selects(planted, row.title.strip(), one) for one in estate)
    dice.shuffle(estate)
    assert {at.at for at in survey(planted, estate, NOW).problems} == {at.at for at in report.problems}


def _selects(planted: Tree, name: str | None, one: Instance) -> bool:
    """The policy and all above it select the instance."""
    while name is not None:
        if not planted.branches[name].selects(one):
            return False
        name = planted.parents[name]
    return True


def test_differences() -> None:
    old = tree(policy("a", "settings: {limits: {scan_usd: 1}}\nlock: [web.mode]"))
    new = tree(
        policy("a", "settings: {limits: {scan_usd: 1}}"),
        policy("b", "selector: {tags: {env: dev}}\nsettings: {limits: {scan_usd: 2}, web: {mode: audit}}", "a"),
    )
    changes = {one.setting: one for one in compare(old, new, ESTATE, NOW)}
    assert set(changes) == {"policy", "limits.scan_usd", "web.mode", "lock of web.mode"}
    assert (changes["web.mode"].old, changes["web.mode"].new) == (None, "audit")
    assert len(changes["limits.scan_usd"].instances) == 4
    assert len(changes["lock of web.mode"].instances) == 5
    assert compare(old, old, ESTATE, NOW) == []


def test_lines_that_move_are_no_difference() -> None:
    texts = [policy("a"), policy("b")]
    assert compare(tree(*texts), tree("# a comment\n", *texts), ESTATE, NOW) == []
