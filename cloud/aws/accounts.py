"""Sessions, accounts and regions: from one set of credentials to every account of an organisation.

Source: STS API reference, AssumeRole; Organizations API reference, ListAccounts; EC2 API reference, DescribeRegions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, RefreshableCredentials
from botocore.loaders import Loader
from botocore.session import Session as CoreSession
from botocore.utils import parse_timestamp

from cloud.aws.errors import translated_errors
from cloud.aws.listing import bounded
from core.errors import CloudError, ConfigError
from core.estate import Place

if TYPE_CHECKING:
    from mypy_boto3_organizations import OrganizationsClient
    from mypy_boto3_sts import STSClient

# Reads may be repeated by the SDK. What makes something may not: a repeated CreateSnapshots is a second set of snapshots.
READS: Final = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 6})
ONCE: Final = Config(connect_timeout=10, read_timeout=120, retries={"mode": "standard", "total_max_attempts": 1})
_ACCOUNT: Final = re.compile(r"\d{12}")
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-\d{1,2}")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_+=,.@-]")
_USABLE: Final = ("opt-in-not-required", "opted-in")


@dataclass(frozen=True, slots=True)
class Role:
    """The role to take in each account. `session` stands in CloudTrail beside every call; `duration_seconds` 900 to 43200.

    AWS allows 3600 at most when a role is taken from a role. Raises `ConfigError`.
    """

    name: str = "KumomoriScanner"
    external_id: str = ""
    session: str = "kumomori"
    duration_seconds: int = 3600
    partition: str = "aws"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w+=,.@/-]{1,512}", self.name):
            raise ConfigError(f"a role's name may have letters, digits and +=,.@/-, not {self.name[:40]!r}")
        if not 900 <= self.duration_seconds <= 43200:
            raise ConfigError("a role's session lasts 900 to 43200 seconds")

    def arn(self, account: str) -> str:
        return f"arn:{self.partition}:iam::{account}:role/{self.name}"


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """An account, or a region of one, that could not be entered, and why: the others go on."""

    place: Place
    error: CloudError


class Sessions:
    """Sessions in accounts, made from `base`. All share one cache of service models, which are most of a session's memory.

    `endpoint_url` is for tests and private endpoints; it serves all services.
    """

    def __init__(
        self, base: boto3.Session | None = None, *, endpoint_url: str | None = None, loader: Loader | None = None
    ) -> None:
        self._loader = loader or Loader()
        self.base = base or self._session()
        self.endpoint_url = endpoint_url

    def client(self, session: boto3.Session, service: Any, region: str, *, config: Config = READS) -> Any:
        """An SDK client. Raises `ConfigError` without credentials, `CloudError` for a region that cannot be."""
        with translated_errors(f"{service}:*", region):
            return session.client(service, region_name=region, endpoint_url=self.endpoint_url, config=config)

    def identity(self, session: boto3.Session, region: str) -> str:
        """The account that `session` is in. Raises `CloudError` for wrong credentials."""
        sts: STSClient = self.client(session, "sts", region)
        with translated_errors("sts:GetCallerIdentity", "AWS"):
            return str(sts.get_caller_identity()["Account"])

    def assume(self, account: str, role: Role, region: str) -> boto3.Session:
        """A session in `account`, renewed by itself before it expires. Raises `AccessDenied` naming sts:AssumeRole."""
        sts: STSClient = self.client(self.base, "sts", region)
        renew = _renewal(sts, account, role)
        credentials = RefreshableCredentials.create_from_metadata(renew(), renew, method="sts-assume-role")
        return self._session(region_name=region, provider=_Given(credentials))

    def _session(self, *, region_name: str | None = None, provider: CredentialProvider | None = None) -> boto3.Session:
        core = CoreSession()
        core.register_component("data_loader", self._loader)
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=to_timestamp)
        if provider:
            core.register_component("credential_provider", CredentialResolver([provider]))
        return boto3.Session(botocore_session=core, region_name=region_name)


def to_timestamp(value: Any) -> datetime:
    """As the SDK reads a time of an answer, whose general parser takes half of the processor time of a long listing."""
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)
    return found if found.tzinfo else parse_timestamp(value)


class _Given(CredentialProvider):
    METHOD = "kumomori-role"

    def __init__(self, credentials: RefreshableCredentials) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> RefreshableCredentials:
        return self._credentials


def _renewal(sts: STSClient, account: str, role: Role) -> Callable[[], dict[str, str]]:
    arn = role.arn(account)
    asked: dict[str, Any] = {
        "RoleArn": arn,
        "RoleSessionName": _NOT_IN_NAMES.sub("-", role.session)[:64].ljust(2, "-"),
        "DurationSeconds": role.duration_seconds,
    }
    if role.external_id:
        asked["ExternalId"] = role.external_id

    def renew() -> dict[str, str]:
        with translated_errors("sts:AssumeRole", arn):
            given = sts.assume_role(**asked)["Credentials"]
            return {
                "access_key": given["AccessKeyId"],
                "secret_key": given["SecretAccessKey"],
                "token": given["SessionToken"],
                "expiry_time": given["Expiration"].isoformat(),
            }

    return renew


def list_accounts(organizations: OrganizationsClient) -> Iterator[Account]:
    """The active accounts of the organisation. Raises `AccessDenied`, `CloudError`.

    `Status` is what older answers have; AWS replaces it by `State`.
    """
    pages = organizations.get_paginator("list_accounts").paginate()
    for page in bounded(pages, "organizations:ListAccounts", "organisation"):
        for raw in _dicts(page, "Accounts"):
            found = raw.get("Id")
            if (
                (raw.get("State") or raw.get("Status")) == "ACTIVE"
                and isinstance(found, str)
                and _ACCOUNT.fullmatch(found)
            ):
                yield Account(found, str(raw.get("Name") or "")[:128])


def enabled_regions(ec2: Any, account: str) -> tuple[str, ...]:
    """Regions that the account may use, sorted. Raises `AccessDenied`, `CloudError`."""
    with translated_errors("ec2:DescribeRegions", account):
        answer = ec2.describe_regions(AllRegions=False, Filters=[{"Name": "opt-in-status", "Values": list(_USABLE)}])
    found = set()
    for raw in _dicts(answer, "Regions"):
        name = raw.get("RegionName")
        if isinstance(name, str) and _REGION.fullmatch(name) and raw.get("OptInStatus", _USABLE[0]) in _USABLE:
            found.add(name)
    return tuple(sorted(found))


def places(
    sessions: Sessions, accounts: Sequence[Account], role: Role | None, *, home: str, regions: Sequence[str] = ()
) -> Iterator[tuple[Place, boto3.Session] | Unreachable]:
    """Every account in every region that is enabled for it, or in `regions`, with a session to work there.

    `home` is the region that accounts are asked for their regions in. Without a `role` the own credentials are used, for
    which there is one account only. A role that cannot be taken or a region that is not enabled is an `Unreachable`.
    """
    for account in accounts:
        try:
            session = sessions.assume(account.id, role, home) if role else sessions.base
            enabled = enabled_regions(sessions.client(session, "ec2", home), account.id)
        except CloudError as error:
            yield Unreachable(Place("aws", account.id, home), error)
            continue
        if not enabled:  # every account has some: nothing at all must not look like an empty account
            place = Place("aws", account.id, home)
            yield Unreachable(place, CloudError(f"{place}: ec2:DescribeRegions names no region of this account"))
            continue
        for region in regions or enabled:
            place = Place("aws", account.id, region)
            if region in enabled:
                yield place, session
            else:
                yield Unreachable(place, CloudError("the region is not enabled for this account"))


def _dicts(answer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = answer.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
