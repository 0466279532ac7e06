from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pulumi
import pytest

from client.api import Console
from client.model import AccountIn, FleetIn, Scope, SweptLine, Task, TaskAnswer
from console.clock import now
from console.serve import Running
from console.store import fleets, tasks
from core.errors import Unavailable
from infra.console import CloudAccount, account
from infra.console.account import AccountProvider
from tests.console.api.test_policies import until
from tests.console.made import ACCOUNT, enrol, finding, scanned
from tests.infra.console.conftest import Secret, Stack

pytestmark = pytest.mark.slow

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
    for program in (lambda: production(fleet="shop", role="Other"), production):
        said = other.up(program).refused()
        assert "aws://123456789012: is enrolled already, by pulumi/acme/dev/production; remove it there" in said
    assert accounts(api)["aws://123456789012"].fleet == "default"
    assert other.resources == {}
    assert "by pulumi/acme/dev/production" in engine.up(_renamed).refused(), "else the old one's end would remove it"
    engine.resources.clear()  # a creation that broke off is taken up
    assert engine.up(production).ok().ops == {"production": "create"}


def _renamed() -> None:
    CloudAccount("shop", **GIVEN)


def test_an_account_that_was_enrolled_by_hand(stack: Stack, api: Console) -> None:
    """Is taken over by who says the same of it; who changes it by hand later leaves it the program's."""
    engine = stack()
    api.add_account(AccountIn(**GIVEN, cloud="aws", fleet="mine"))
    said = engine.up(production).refused()
    assert "aws://123456789012: is enrolled already, with another fleet; remove it" in said
    assert accounts(api)["aws://123456789012"].managed_by == ""
    engine.up(lambda: production(fleet="mine")).ok()
    assert accounts(api)["aws://123456789012"].managed_by == "pulumi/acme/dev/production"
    api.add_account(AccountIn(**GIVEN, cloud="aws", fleet="yours"))
    assert accounts(api)["aws://123456789012"].managed_by == "pulumi/acme/dev/production"
    engine.destroy().ok()
    assert accounts(api) == {}


def test_an_account_that_is_somebody_elses_by_now(stack: Stack, api: Console) -> None:
    engine, other = stack(), stack("shop")
    engine.up(production).ok()
    api.remove_account("aws", "123456789012")
    other.up(production).ok()
    assert "by pulumi/shop/dev/production" in engine.up(lambda: production(fleet="x")).refused()
    engine.destroy().ok()
    assert accounts(api)["aws://123456789012"].managed_by == "pulumi/shop/dev/production"


@pytest.fixture
def fleet(running: Running) -> None:
    with running.console.database.write() as connection:
        fleets.register(connection, FleetIn(name="default"), "test", now())


@contextmanager
def answering(running: Running, answer: TaskAnswer | None) -> Iterator[list[Task]]:
    """A fleet that fetches what it is asked for, and answers that, or nothing."""
    asked: list[Task] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.05):
            for one in tasks.fetch(running.console.database, "default", now()):
                asked.append(one)
                if answer is not None:
                    with running.console.database.write() as connection:
                        tasks.answer(connection, "default", one.id, answer, now())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield asked
    finally:
        ended.set()
        thread.join()


UNDATED = TaskAnswer(evidence=1)
LEFT = TaskAnswer(evidence=2, evidence_until=datetime(2030, 1, 2, 3, 4, tzinfo=UTC))
FAILED = TaskAnswer(
    problem="not done with scans that are ending: 1",
    swept=(SweptLine(place="aws://1/r", kind="snapshot", id="snap-1", problem="denied"),),
)


@pytest.mark.usefixtures("fleet")
def test_destroyed_its_fleet_keeps_nothing_there(stack: Stack, api: Console, running: Running) -> None:
    engine = stack()
    engine.up(production).ok()
    for answer, words in (
        (LEFT, "2 snapshots are kept as evidence until 2030-01-02 03:04Z"),
        (UNDATED, "1 snapshots are kept as evidence; copy"),
        (FAILED, "snap-1: denied"),
    ):
        with answering(running, answer):
            said = engine.destroy().refused()
        assert words in said
        assert "clear=False" in said
        assert len(engine.resources) == 1, "until then the role that it depends on stays"
    with answering(running, TaskAnswer()) as asked:
        engine.up(lambda: production(clear_evidence=True)).ok()
        engine.destroy().ok()
    assert [(one.kind, one.account, one.evidence) for one in asked] == [("clear", "aws://123456789012", True)]
    assert accounts(api) == {}


@pytest.mark.usefixtures("fleet")
def test_without_clear_nobody_is_waited_for(stack: Stack, api: Console, running: Running) -> None:
    engine = stack()
    engine.up(lambda: production(clear=False)).ok()
    with answering(running, LEFT) as asked:
        engine.destroy().ok()
        assert asked == []
    assert accounts(api) == {}


@pytest.mark.usefixtures("fleet")
def test_a_fleet_that_does_not_answer(secret: Secret, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    provider, token = AccountProvider(), secret("slow")
    monkeypatch.setattr(account, "_BEGIN_SECONDS", 0.1)
    monkeypatch.setattr(account, "_CLEAR_SECONDS", 0.2)
    monkeypatch.setattr(provider, "console", lambda: Console(running.address, token))
    props = AccountIn(cloud="aws", account="1", managed_by="me").model_dump() | {"clear": True, "clear_evidence": False}
    provider.create(props)
    with pytest.raises(Unavailable, match=r"the fleet default has not begun .* after [0-9]+ seconds; see that it runs"):
        provider.delete("aws://1", props)
    with (
        answering(running, None) as asked,
        pytest.raises(Unavailable, match=r"default is not done .* after [0-9]+ seconds"),
    ):
        until(lambda: asked)
        provider.delete("aws://1", props)


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
        pytest.param({"clear": "no"}, "clear: clear: is true or false", id="clear"),
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
