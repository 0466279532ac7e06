from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.estate import Instance
from policy.model import Selector
from policy.selectors import compiled, everything, matcher
from tests.policy.documents import machine

ONE = machine(
    "aws",
    "0123",
    "eu-central-1",
    "i-0a",
    name="shop-1",
    os="Linux",
    network="vpc-1",
    addresses=("10.1.2.3", "2001:db8::1"),
    tags={"env": "prod", "role": "web", "empty": ""},
)


@pytest.mark.parametrize(
    ("selector", "selects"),
    [
        pytest.param({"cloud": "AWS"}, True, id="clouds-in-any-case"),
        pytest.param({"os": "linux"}, True, id="systems-in-any-case"),
        pytest.param({"name": "Shop-*"}, False, id="names-to-the-letter"),
        pytest.param({"account": ["9", "0123"]}, True, id="one-of"),
        pytest.param({"cloud": "aws", "account": "9"}, False, id="all-that-is-said"),
        pytest.param({"name": "shop-?"}, True, id="one-character"),
        pytest.param({"name": "shop-[0-9]"}, False, id="no-character-classes"),
        pytest.param({"role": "web"}, True, id="role-is-a-tag"),
        pytest.param({"site": "eu-*"}, True, id="site-is-the-region"),
        pytest.param({"image": "*"}, False, id="not-known"),
        pytest.param({"owner": "*"}, False, id="not-known-either"),
        pytest.param({"tags": {"env": "prod"}}, True, id="tag"),
        pytest.param({"tags": {"env": "pro"}}, False, id="a-pattern-fits-the-whole"),
        pytest.param({"tags": {"ENV": "prod"}}, False, id="keys-to-the-letter"),
        pytest.param({"tags": {"empty": "*"}}, True, id="an-empty-tag-is-there"),
        pytest.param({"tags": {"gone": "*"}}, False, id="no-such-tag"),
        pytest.param({"address": "10.0.0.0/8"}, True, id="address"),
        pytest.param({"address": ["192.0.2.0/24", "2001:db8::/32"]}, True, id="any-address"),
        pytest.param({"address": "10.1.2.4/32"}, False, id="another-address"),
        pytest.param({"any": [{"name": "x"}, {"network": "vpc-1"}]}, True, id="any"),
        pytest.param({"all": [{"name": "x"}, {"network": "vpc-1"}]}, False, id="all"),
        pytest.param({"not": {"name": "x"}}, True, id="not"),
        pytest.param({"not": {"all": [{"cloud": "aws"}, {"not": {"name": "x"}}]}}, False, id="nested"),
        pytest.param({"cloud": "aws", "any": [{"name": "x"}], "not": {"name": "y"}}, False, id="beside-each-other"),
    ],
)
def test_selectors(selector: dict[str, object], selects: bool) -> None:
    assert compiled(Selector.model_validate_json(json.dumps(selector)))(ONE) is selects


def test_without_a_selector() -> None:
    assert compiled(None) is everything
    assert everything(ONE)


leaves = st.sampled_from([{"cloud": "aws"}, {"cloud": "kvm"}, {"tags": {"x": "*"}}, {"name": "a*"}])
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda one: {"not": one}),
        st.lists(inner, min_size=1, max_size=3).map(lambda several: {"all": several}),
        st.lists(inner, min_size=1, max_size=3).map(lambda several: {"any": several}),
    ),
    max_leaves=8,
)
machines = st.builds(
    lambda cloud, name, tags: machine(cloud, name=name, tags=tags),
    st.sampled_from(["aws", "kvm"]),
    st.sampled_from(["", "a", "ab", "b"]),
    st.sampled_from([{}, {"x": ""}, {"y": "1"}]),
)


@given(trees, trees, machines)
def test_the_laws_of_and_or_not(first: dict[str, object], second: dict[str, object], one: Instance) -> None:
    def selects(selector: dict[str, object]) -> bool:
        return compiled(Selector.model_validate_json(json.dumps(selector)))(one)

    assert selects({"not": first}) is not selects(first)
    assert selects({"all": [first, second]}) is (selects(first) and selects(second))
    assert selects({"not": {"any": [first, second]}}) is selects({"all": [{"not": first}, {"not": second}]})


@given(st.text(max_size=20), st.text(max_size=20))
def test_words_are_themselves(word: str, other: str) -> None:
    plain = word.replace("*", "x").replace("?", "y")
    assert matcher([plain])(plain)
    assert matcher([plain])(other) == (plain == other)
    assert matcher([f"{plain}*"])(plain + other)
