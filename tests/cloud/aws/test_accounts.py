"""Roles, accounts and regions: one that cannot be entered is one error, the others go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.credentials import RefreshableCredentials
from botocore.utils import parse_timestamp

from cloud.aws.accounts import (
    Account,
    Role,
    Sessions,
    Unreachable,
    enabled_regions,
    list_accounts,
    places,
    to_timestamp,
)
from cloud.aws.connector import connect
from cloud.aws.listing import bounded
from core.errors import AccessDenied, CloudError, ConfigError
from core.estate import Place
from demo.aws.emulator import REGION, EmulatedAws
from tests.cloud.aws.conftest import INSTALLATION, launch

HOME = REGION
FIRST, SECOND, THIRD = "200000000001", "200000000002", "200000000003"
ROLE = Role(external_id="secret-word")


def test_role_in_another_account(sessions: Callable[[str], Sessions], emulator: EmulatedAws) -> None:
    of = sessions("organization")
    session = of.assume(FIRST, ROLE, HOME)
    assert of.identity(session, HOME) == FIRST
    other = emulator.client("ec2", FIRST)
    launched = launch(other)
    connector = connect(of, session, FIRST, HOME, INSTALLATION)
    assert [one.id for one in connector.instances()] == [launched]
    (call,) = emulator.log.calls("sts:AssumeRole")[-1:]
    assert call.status == 200
    assert "role/KumomoriScanner" in emulator.log.calls("ec2:DescribeInstances")[-1].caller.principal


def test_external_id_is_sent(sessions: Callable[[str], Sessions], emulator: EmulatedAws) -> None:
    emulator.rules.external_ids[ROLE.arn(FIRST)] = "secret-word"
    of = sessions("organization")
    of.assume(FIRST, ROLE, HOME)
    with pytest.raises(AccessDenied, match="KumomoriAssume") as caught:
        of.assume(FIRST, replace(ROLE, external_id="guess"), HOME)
    assert caught.value.permission == "sts:AssumeRole"


def age(session: boto3.Session) -> None:
    credentials: Any = session.get_credentials()
    assert isinstance(credentials, RefreshableCredentials)
    credentials.__dict__["_expiry_time"] = datetime.now(UTC) - timedelta(seconds=1)


def test_role_is_renewed_before_it_expires(sessions: Callable[[str], Sessions], emulator: EmulatedAws) -> None:
    of = sessions("organization")
    session = of.assume(FIRST, ROLE, HOME)
    ec2 = of.client(session, "ec2", HOME)
    before = emulator.log.count("sts:AssumeRole")
    ec2.describe_regions()
    assert emulator.log.count("sts:AssumeRole") == before
    age(session)
    ec2.describe_regions()
    assert emulator.log.count("sts:AssumeRole") == before + 1


def test_role_withdrawn_in_the_middle(sessions: Callable[[str], Sessions], emulator: EmulatedAws) -> None:
    of = sessions("organization")
    session = of.assume(FIRST, ROLE, HOME)
    connector = connect(of, session, FIRST, HOME, INSTALLATION)
    emulator.rules.refused_roles.add(ROLE.arn(FIRST))
    age(session)
    with pytest.raises(AccessDenied, match="sts:AssumeRole is denied"):
        list(connector.instances())


@pytest.mark.parametrize(
    "wrong",
    [
        {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "x" * 40},
        {"aws_access_key_id": "ASIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "x" * 40, "aws_session_token": "t" * 40},
    ],
    ids=["unknown-key", "unknown-session"],
)
def test_wrong_credentials(emulator: EmulatedAws, wrong: dict[str, str]) -> None:
    of = Sessions(boto3.Session(**wrong, region_name=HOME), endpoint_url=emulator.endpoint)  # type: ignore[arg-type]
    for call in (lambda: of.identity(of.base, HOME), lambda: of.assume(FIRST, ROLE, HOME)):
        with pytest.raises(CloudError, match="does not know these credentials") as caught:
            call()
        assert "EXAMPLE" not in str(caught.value)


def test_no_credentials(emulator: EmulatedAws) -> None:
    of = Sessions(endpoint_url=emulator.endpoint)
    with pytest.raises(ConfigError, match="set AWS_PROFILE"):
        of.identity(of.base, HOME)


def test_unreachable_endpoint() -> None:
    of = Sessions(boto3.Session("a", "s", region_name=HOME), endpoint_url="http://127.0.0.1:9")
    with pytest.raises(CloudError, match="did not answer"):
        of.identity(of.base, HOME)


def test_region_that_cannot_be(sessions: Callable[[str], Sessions]) -> None:
    of = sessions("organization")
    with pytest.raises(CloudError):
        of.client(of.base, "ec2", "no such region!")


def test_regions_of_an_account(connector: Any, emulator: EmulatedAws, account: str) -> None:
    emulator.rules.disabled_regions.add((account, "us-west-2"))
    found = enabled_regions(connector.ec2, account)
    assert HOME in found
    assert "us-west-2" not in found
    assert found == tuple(sorted(found))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({}, ()),
        ({"Regions": None}, ()),
        ({"Regions": [None, {}, {"RegionName": 7}, {"RegionName": "../.."}]}, ()),
        ({"Regions": [{"RegionName": "af-south-1", "OptInStatus": "not-opted-in"}, {"RegionName": "us-gov-west-1"}]}, ("us-gov-west-1",)),
    ],
)  # fmt: skip
def test_odd_regions(answer: Any, found: tuple[str, ...]) -> None:
    class Ec2:
        def describe_regions(self, **_: Any) -> Any:
            return answer

    assert enabled_regions(Ec2(), "1") == found


def test_an_account_without_any_region_is_not_passed_over(
    sessions: Callable[[str], Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty list would look as if all of it had been listed."""
    monkeypatch.setattr("cloud.aws.accounts.enabled_regions", lambda *_: ())
    of = sessions("organization")
    (found,) = places(of, [Account(FIRST)], None, home=HOME)
    assert isinstance(found, Unreachable)
    assert "ec2:DescribeRegions" in str(found.error)


def test_what_cannot_be_entered_is_one_error_each(sessions: Callable[[str], Sessions], emulator: EmulatedAws) -> None:
    emulator.rules.refused_roles.add(ROLE.arn(SECOND))
    emulator.rules.disabled_regions.add((THIRD, "us-east-1"))
    accounts = [Account(FIRST), Account(SECOND), Account(THIRD)]
    found = list(places(sessions("organization"), accounts, ROLE, home=HOME, regions=[HOME, "us-east-1"]))
    entered = [str(one[0]) for one in found if isinstance(one, tuple)]
    assert entered == [f"aws://{FIRST}/{HOME}", f"aws://{FIRST}/us-east-1", f"aws://{THIRD}/{HOME}"]
    refused = {str(one.place): str(one.error) for one in found if isinstance(one, Unreachable)}
    assert set(refused) == {f"aws://{SECOND}/{HOME}", f"aws://{THIRD}/us-east-1"}
    assert "sts:AssumeRole is denied" in refused[f"aws://{SECOND}/{HOME}"]
    assert "not enabled" in refused[f"aws://{THIRD}/us-east-1"]


def test_all_enabled_regions(sessions: Callable[[str], Sessions]) -> None:
    found = list(places(sessions("organization"), [Account(FIRST)], ROLE, home=HOME))
    assert len(found) > 10
    assert all(isinstance(one, tuple) for one in found)


def test_own_account_without_a_role(sessions: Callable[[str], Sessions], account: str) -> None:
    of = sessions("scanner")
    ((place, session),) = [
        one for one in places(of, [Account(account)], None, home=HOME, regions=[HOME]) if isinstance(one, tuple)
    ]
    assert (place, session) == (Place("aws", account, HOME), of.base)


def test_accounts_of_an_organisation(sessions: Callable[[str], Sessions], backdoor: Callable[[str], Any]) -> None:
    organizations = backdoor("organizations")
    organizations.create_organization(FeatureSet="ALL")
    made = [organizations.create_account(AccountName=f"a{at}", Email=f"a{at}@example.org") for at in range(25)]
    closed = made[3]["CreateAccountStatus"]["AccountId"]
    organizations.close_account(AccountId=closed)
    of = sessions("organization")
    found = {one.id: one.name for one in list_accounts(of.client(of.base, "organizations", HOME))}
    assert len(found) == 25  # with the management account, without the closed one
    assert closed not in found
    assert found[made[4]["CreateAccountStatus"]["AccountId"]] == "a4"


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        pytest.param({"Id": "1" * 12, "State": "ACTIVE"}, ["1" * 12], id="new-field"),
        pytest.param({"Id": "1" * 12, "Status": "ACTIVE"}, ["1" * 12], id="old-field"),
        pytest.param({"Id": "1" * 12, "State": "PENDING_CLOSURE", "Status": "ACTIVE"}, [], id="new-field-wins"),
        pytest.param({"Id": "1" * 12, "Status": "SUSPENDED"}, [], id="suspended"),
        pytest.param({"Id": "1" * 12}, [], id="no-status"),
        pytest.param({"Id": "arn:x", "State": "ACTIVE"}, [], id="odd-id"),
        pytest.param({"State": "ACTIVE"}, [], id="no-id"),
    ],
)
def test_account_states(raw: dict[str, Any], found: list[str]) -> None:
    class Organizations:
        def get_paginator(self, _: str) -> Any:
            return self

        def paginate(self) -> Any:
            return [{"Accounts": [raw, None]}, {"Accounts": "none"}, {}]

    assert [one.id for one in list_accounts(Organizations())] == found  # type: ignore[arg-type]


def test_endless_pages_are_cut_off() -> None:
    pages: Any = ({"Accounts": []} for _ in iter(int, 1))
    with pytest.raises(CloudError, match="does not come to an end after 10 pages"):
        list(bounded(pages, "organizations:ListAccounts", "organisation", most=10))


def test_listing_denied(sessions: Callable[[str], Sessions], emulator: EmulatedAws, account: str) -> None:
    emulator.deny("organizations:ListAccounts")
    of = sessions("organization")
    with pytest.raises(AccessDenied, match="KumomoriListAccounts"):
        list(list_accounts(of.client(of.base, "organizations", HOME)))


@pytest.mark.parametrize(
    "role", [{"name": ""}, {"name": "a b"}, {"name": "x\n"}, {"duration_seconds": 10}, {"duration_seconds": 10**6}]
)
def test_roles_that_cannot_be(role: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Role(**role)


@pytest.mark.parametrize(("name", "sent"), [("scan of Bjørn's", "scan-of-Bj-rn-s"), ("x", "x-"), ("y" * 99, "y" * 64)])
def test_session_names_are_ones_that_aws_takes(name: str, sent: str) -> None:
    from cloud.aws.accounts import _renewal

    asked: dict[str, Any] = {}

    class Sts:
        def assume_role(self, **given: Any) -> Any:
            asked.update(given)
            now = datetime.now(UTC)
            return {"Credentials": {"AccessKeyId": "a", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": now}}

    _renewal(Sts(), FIRST, replace(ROLE, session=name))()  # type: ignore[arg-type]
    assert asked["RoleSessionName"] == sent
    assert asked["ExternalId"] == "secret-word"


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:05.000Z",
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.123456+02:00",
        "Wed, 02 Jan 2026 03:04:05 GMT",
        "1412011200",
        1412011200,
        1412011200.5,
        "2026-01-02T03:04:05",
    ],
)
def test_times_are_read_as_the_sdk_does(text: Any) -> None:
    assert to_timestamp(text) == parse_timestamp(text)


@pytest.mark.parametrize("text", ["yesterday", None, [], "9" * 400])
def test_times_that_are_none(text: Any) -> None:
    for read in (to_timestamp, parse_timestamp):
        with pytest.raises((ValueError, TypeError, RuntimeError)):
            read(text)
