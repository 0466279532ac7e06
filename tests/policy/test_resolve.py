from __future__ import annotations

import json
import random
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.estate import Instance
from policy.document import read_text
from policy.resolve import Resolved, Unresolved, resolve
from policy.settings import CATALOGUE, DEFAULTS
from policy.tree import Tree
from tests.policy.documents import NOW, machine, policy, problems, tree


def resolved(planted: Tree, instance: Instance, local: str = "") -> Resolved:
    found = resolve(planted, instance, NOW, planted.local[local] if local else None)
    assert isinstance(found, Resolved), found
    return found


COMPANY = policy(
    "company", "settings: {limits: {scan_usd: 1, month_usd: 9}, exclusions: {paths: [/a/x]}}\nlock: [limits.month_usd]"
)
AWS = policy(
    "aws", "selector: {cloud: aws}\nsettings: {limits: {scan_usd: 2}, exclusions: {paths: [/b/x, /a/x]}}", "company"
)
DEEP = policy("deep", "selector: {tags: {env: prod}}\nsettings: {limits: {scan_usd: 3}}", "aws")


def test_the_deepest_counts_and_lists_merge() -> None:
    planted = tree(DEEP, AWS, COMPANY)
    found = resolved(planted, machine(tags={"env": "prod"}))
    assert found.path == ("company", "aws", "deep")
    assert found.get("limits.scan_usd") == 3
    assert found.get("exclusions.paths") == ["/a/x", "/b/x"]
    assert [source.name for source in found.values["exclusions.paths"].decided] == ["company", "aws"]
    assert [source.name for source in found.values["limits.scan_usd"].overridden] == ["company", "aws"]
    lock = found.values["limits.month_usd"].lock
    assert lock is not None
    assert str(lock).startswith("company (p.yaml:")
    assert found.settings().limits is not None
    assert resolved(planted, machine("kvm", tags={"env": "prod"})).path == ("company",)
    assert found.get("scan.depth") == DEFAULTS["scan.depth"]
    with pytest.raises(KeyError):
        found.get("scan.dept")


def test_two_beside_each_other_are_an_error_that_names_both() -> None:
    found = resolve(tree(policy("b"), policy("a")), machine(), NOW)
    assert found == Unresolved("`a`, `b` stand beside each other and all select it", ("a", "b"))
    assert resolve(tree(policy("a", "selector: {cloud: gcp}")), machine(), NOW) == Unresolved("no policy selects it")


@pytest.mark.parametrize(
    ("when", "until", "since", "holds"),
    [
        pytest.param("tags: {env: dev}", "never", "", True, id="holds"),
        pytest.param("tags: {env: prod}", "never", "", False, id="condition-does-not"),
        pytest.param("not: {address: 10.0.0.0/8}", "never", "", False, id="in-the-office"),
        pytest.param("tags: {env: dev}", "2027-01-15", "", True, id="its-last-day"),
        pytest.param("tags: {env: dev}", "2027-01-14", "", False, id="over"),
        pytest.param("tags: {env: dev}", "2027-01-15T13:00+01:00", "", False, id="over-this-moment"),
        pytest.param("tags: {env: dev}", "never", "2027-01-16", False, id="not-yet"),
    ],
)
def test_profiles(when: str, until: str, since: str, holds: bool) -> None:
    begin = f"since: {since}\n" if since else ""
    text = f"when: {{{when}}}\n{begin}until: {until}\nsettings: {{scan: {{depth: full}}}}"
    planted = tree(
        policy("a"), policy("b", "settings: {scan: {depth: changed}}", "a"), policy("p", text, "a", "Profile")
    )
    found = resolved(planted, machine(tags={"env": "dev"}, addresses=("10.1.1.1", "nonsense")))
    assert found.get("scan.depth") == ("full" if holds else "changed")
    assert [state.why_not == "" for state in found.profiles] == [holds]


def test_profiles_of_one_policy_count_by_priority() -> None:
    def profile(name: str, depth: str, priority: int) -> str:
        text = f"until: never\npriority: {priority}\nsettings: {{scan: {{depth: {depth}}}}}"
        return policy(name, text, "a", "Profile")

    planted = tree(policy("a"), profile("x", "full", 2), profile("y", "changed", 1))
    assert resolved(planted, machine()).get("scan.depth") == "full"
    assert (
        "give them different priorities" in problems(policy("a"), profile("x", "full", 1), profile("y", "full", 1))[0]
    )


def test_what_is_set_locally_counts_where_nothing_is_locked() -> None:
    local = policy("mine", "settings: {limits: {scan_usd: 7, month_usd: 7}, exclusions: {paths: [/c/x]}}", kind="Local")
    found = resolved(tree(COMPANY, AWS, local), machine(), "mine")
    assert found.get("limits.scan_usd") == 7
    assert found.get("limits.month_usd") == 9
    assert found.values["limits.month_usd"].overridden[-1].name == "mine"
    assert found.get("exclusions.paths") == ["/a/x", "/b/x", "/c/x"]


def test_a_local_rule_does_not_pass_a_locked_severity() -> None:
    local = policy("mine", "settings: {actions: {by_rule: {'*': [alert]}}}", kind="Local")
    upper = policy("a", "settings: {actions: {critical: [isolate]}}\nlock: [actions.critical]")
    found = resolved(tree(upper, local), machine(), "mine")
    assert found.get("actions.by_rule") is None


@pytest.mark.parametrize("name", ["role", "site", "region", "os", "name", "image", "owner", "network", "account"])
def test_what_is_not_known_of_an_instance_fits_no_pattern(name: str) -> None:
    bare = machine(account="", region="")
    assert isinstance(resolve(tree(policy("a", f"selector: {{{name}: '*'}}")), bare, NOW), Unresolved)
    assert resolved(tree(policy("a", f"selector: {{not: {{{name}: '*'}}}}")), bare).policy == "a"


@pytest.mark.slow
def test_lists_that_add_up_to_too_much_are_refused() -> None:
    def domains(name: str, count: int, parent: str = "", rest: str = "", kind: str = "Policy") -> str:
        words = [f"{name}{number}.example" for number in range(count)]
        return policy(name, f"{rest}settings: {json.dumps({'web': {'blocked_domains': words}})}", parent, kind)

    said = "`web.blocked_domains` has 10,001 items with what is inherited, more than 10,000"
    assert said in problems(domains("a", 6000), domains("b", 4001, "a"))[0]
    assert said in problems(domains("a", 6000), domains("p", 4001, "a", "until: never\n", "Profile"))[0]
    assert said in problems(domains("a", 6000), domains("m", 4001, kind="Local"))[0]
    fits = tree(domains("a", 6000), domains("b", 4000, "a"), domains("c", 4000, "a", "selector: {cloud: x}\n"))
    web = resolved(fits, machine()).settings().web
    assert web is not None
    assert len(web.blocked_domains or ()) == 10_000


# Properties over trees of any shape.

PLAIN = {"limits.scan_usd": st.integers(0, 3), "scan.depth": st.sampled_from(["full", "changed"])}
MERGED = {"exclusions.paths": st.lists(st.sampled_from(["/a/x", "/b/x", "/c/x"]), min_size=1, max_size=3)}
VALUES = st.fixed_dictionaries({}, optional={**PLAIN, **MERGED})


def _settings(values: dict[str, object]) -> str:
    nested: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        section, _, setting = name.partition(".")
        nested.setdefault(section, {})[setting] = value
    return f"settings: {json.dumps(nested)}"


@st.composite
def estates(draw: st.DrawFn) -> list[str]:
    """Documents that are valid: a tree by tags, where nobody says what is locked above."""
    texts: list[str] = []
    locked: list[set[str]] = []
    for number in range(draw(st.integers(1, 6))):
        parent = draw(st.integers(0, number - 1)) if number else None
        above = locked[parent] if parent is not None else set()
        values = {name: value for name, value in draw(VALUES).items() if name not in above}
        lock = draw(st.sets(st.sampled_from(sorted({**PLAIN, **MERGED})), max_size=2))
        locked.append(above | lock)
        selector = f"selector: {{tags: {{t{number}: 'y'}}}}\n" if number else ""
        rest = f"{selector}lock: {json.dumps(sorted(lock))}\n{_settings(values)}"
        texts.append(policy(f"p{number}", rest, f"p{parent}" if parent is not None else ""))
        if draw(st.booleans()):
            values = {name: value for name, value in draw(VALUES).items() if name not in above}
            texts.append(policy(f"profile{number}", f"until: never\n{_settings(values)}", f"p{number}", "Profile"))
    return texts


instances = st.sets(st.sampled_from([f"t{number}" for number in range(1, 6)])).map(
    lambda names: machine(tags=dict.fromkeys(names, "y"))
)


@settings(max_examples=60, deadline=None)
@given(estates(), instances, VALUES, st.randoms(use_true_random=False))
def test_properties(texts: list[str], instance: Instance, local: dict[str, object], dice: random.Random) -> None:
    texts = [*texts, policy("local", _settings(local), kind="Local")]
    text = "".join(texts)
    planted = tree(text)
    found = resolve(planted, instance, NOW, planted.local["local"])
    shuffled = list(texts)
    dice.shuffle(shuffled)
    other_tree = tree(*shuffled)
    other = resolve(other_tree, instance, NOW, other_tree.local["local"])
    assert resolve(planted, instance, NOW, planted.local["local"]) == found
    if isinstance(found, Unresolved):
        assert other == found
        return
    assert isinstance(other, Resolved)
    assert other.path == found.path
    assert {name: one.value for name, one in other.values.items()} == {n: one.value for n, one in found.values.items()}
    _explained(text, found)
    _locks_win(found)
    # what holds, written as one policy, says the same
    again = tree(policy("all", _settings({name: one.value for name, one in found.values.items()})))
    assert {name: one.value for name, one in resolved(again, instance).values.items()} == {
        name: one.value for name, one in found.values.items()
    }


def _explained(text: str, found: Resolved) -> None:
    """Every value is said in the lines that the explanation names."""
    lines = text.splitlines()
    for name, one in found.values.items():
        assert one.decided
        said: list[object] = []
        for source in one.decided:
            if source.at is None:
                assert DEFAULTS[name] == one.value
                continue
            section, _, setting = name.partition(".")
            line = lines[source.at.line - 1]
            assert line[source.at.column - 1 :].startswith(f'"{setting}"')
            said.append(json.loads(line.removeprefix("settings: "))[section][setting])
        if CATALOGUE[name].merged:
            assert all(item in one.value for items in said for item in items)  # type: ignore[attr-defined]
        elif said:
            assert said == [one.value]


def _locks_win(found: Resolved) -> None:
    """What is locked is decided by the policy that locked it, its profiles, or those above."""
    for one in found.values.values():
        if one.lock is None:
            continue
        allowed = found.path[: found.path.index(one.lock.policy) + 1]
        for source in one.decided:
            assert source.at is None or source.name.replace("profile", "p") in allowed
            assert source.kind != "local"


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(PLAIN)), st.integers(1, 4), st.booleans())
def test_a_lock_that_is_violated_is_always_refused(name: str, depth: int, as_profile: bool) -> None:
    texts = [policy("p0", f"lock: [{name}]")]
    texts += [policy(f"p{number}", parent=f"p{number - 1}") for number in range(1, depth + 1)]
    value = _settings({name: 1 if "usd" in name else "full"})
    rest = f"until: never\n{value}" if as_profile else value
    texts.append(policy("bad", rest, f"p{depth}", "Profile" if as_profile else "Policy"))
    (said,) = problems(*texts)
    assert f"`{name}` is locked by p0 (p.yaml:5:8)" in said


def test_a_time_without_offset() -> None:
    with pytest.raises(Exception, match="offset"):
        resolve(tree(policy("a")), machine(), NOW.replace(tzinfo=None))
    assert read_text("x.yaml", "") == []
    assert isinstance(resolve(tree(policy("a")), machine(), NOW + timedelta(days=1)), Resolved)
