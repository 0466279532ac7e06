from __future__ import annotations

from typing import Any

import pulumi
import pytest

from client.api import Console
from client.model import AccountIn, Scope
from console.serve import Running
from infra.console import CloudAccount
from infra.console.account import AccountProvider
from tests.console.made import ACCOUNT, enrol, finding, scanned
from tests.infra.console.conftest import Stack

GIVEN: dict[str, Any] = {"account": ACCOUNT.account, "role": "KumomoriScanner", "regions": ["eu-west-1"]}


def production(**others: Any) -> None:
    CloudAccount("production", **{**GIVEN, **others})


def accounts(api: Console) -> dict[str, AccountIn]:
    return {f"{one.cloud}://{one.account}": one for one in api.accounts()}


def test_from_the_first_to_the_last(stack: Stack, api: Console) -> None:
    engine = stack()
    assert engine.preview(production).ok().ops == {"production": "create"}
    assert accounts(api) == {}
    engine.up(production).ok()
    assert accounts(api)["aws://123456789012"].regions == ("eu-west-1",)
    assert engine.up(production).ok().ops == {}
    seen = engine.preview(lambda: production(regions=["eu-west-1", "us-east-1"])).ok()
    assert 'regions: ["eu-west-1"] => ["eu-west-1", "us-east-1"]' in seen.text
    engine.up(lambda: production(regions=["eu-west-1", "us-east-1"])).ok()
    assert accounts(api)["aws://123456789012"].regions == ("eu-west-1", "us-east-1")
    assert engine.up(lambda: production(account="999999999999")).ok().ops == {"production": "replace"}
    assert list(accounts(api)) == ["aws://999999999999"]
    engine.destroy().ok()
    assert accounts(api) == {}


def test_destroyed_its_findings_stay(stack: Stack, api: Console, running: Running) -> None:
    database = running.console.database
    engine = stack()
    engine.up(lambda: production(role="", regions=[])).ok()
    enrol(database, "i-1")
    scanned(database, [finding("a"), finding("b")])
    before = {one.id for one in api.findings(state=None)}
    assert len(before) == 2
    engine.destroy().ok()
    assert accounts(api) == {}
    assert {one.id for one in api.findings(state=None)} == before
    (machine,) = api.instances(state="all")
    assert machine.closed is not None


def test_a_change_by_hand_shows_and_is_changed_back(stack: Stack, api: Console) -> None:
    engine = stack()
    engine.up(production).ok()
    api.add_account(AccountIn(**GIVEN, cloud="aws", fleet="mine"))
    assert engine.preview(production).ok().ops == {"production": "update"}
    assert 'fleet: "mine" => "default"' in engine.preview(production, refresh=True).ok().text
    engine.up(production).ok()
    assert accounts(api)["aws://123456789012"].fleet == "default"
    api.remove_account("aws", "123456789012")
    assert engine.preview(production).ok().ops == {"production": "update"}
    assert "is not there any more" in engine.refresh().ok().text
    assert engine.up(production).ok().ops == {"production": "create"}
    api.remove_account("aws", "123456789012")
    engine.destroy().ok()


def test_an_account_that_is_enrolled_in_another_way(stack: Stack, api: Console) -> None:
    engine, other = stack(), stack("shop")
    engine.up(production).ok()
    said = other.up(lambda: production(fleet="shop", role="Other")).refused()
    assert "aws://123456789012: is enrolled already, with another fleet, role" in said
    assert accounts(api)["aws://123456789012"].fleet == "default"
    engine.resources.clear()  # a creation that broke off is taken up
    assert engine.up(production).ok().ops == {"production": "create"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"account": "../x"}, "account: account: String should match pattern", id="account"),
        pytest.param({"account": "x" * 64}, "account: account: String should match pattern", id="long"),
        pytest.param({"cloud": "gcp"}, "cloud: cloud: Input should be 'aws' or 'file'", id="cloud"),
        pytest.param({"fleet": "A B"}, "fleet: fleet: String should match pattern", id="fleet"),
        pytest.param({"regions": ["x" * 41]}, "regions: regions.0: String should have at most 40", id="region"),
        pytest.param({"regions": ["x"] * 101}, "regions: regions: Tuple should have at most 100", id="regions"),
        pytest.param({"role": "x" * 513}, "role: role: String should have at most 512", id="role"),
        pytest.param({"queue_url": 7}, "queue_url: queue_url: Input should be a valid string", id="number"),
    ],
)
def test_what_a_preview_refuses(given: dict[str, Any], words: str) -> None:
    news = {"cloud": "aws", **GIVEN, **given}
    (failure,) = AccountProvider().check({}, news).failures
    assert words in f"{failure.property}: {failure.reason}"
    later = pulumi.output.Unknown()  # type: ignore[no-untyped-call]
    unknown = {name: later if name in given else value for name, value in news.items()}
    assert AccountProvider().check({}, unknown).failures == []


def test_a_refusal_ends_the_program(stack: Stack, api: Console) -> None:
    said = stack().up(lambda: production(account="../x")).refused()
    assert "production: account: account: String should match pattern" in said
    assert accounts(api) == {}


def test_a_token_without_rights_is_told_which(stack: Stack, api: Console) -> None:
    engine = stack("acme", Scope.READ, Scope.POLICY)
    assert "this needs the scope `admin`" in engine.up(production).refused()
    assert engine.resources == {}


def test_values_that_other_resources_give(stack: Stack, api: Console) -> None:
    def program() -> None:
        first = CloudAccount("first", account="1")
        CloudAccount("second", account="2", role=first.id.apply(lambda id_: f"role-of-{id_}"))

    engine = stack()
    seen = engine.preview(program).ok()
    assert "role: null => [unknown]" in seen.text
    engine.up(program).ok()
    assert accounts(api)["aws://2"].role == "role-of-aws://1"
    assert engine.up(program).ok().ops == {}
    assert engine.destroy().ok().order("delete") == ["second", "first"]
