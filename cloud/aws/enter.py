"""Into one region of one account: with a role there, or with one's own credentials."""

from __future__ import annotations

import boto3

from cloud.aws.accounts import Role, Sessions, enabled_regions
from cloud.aws.connector import AwsConnector, connect
from cloud.aws.inventory import Rules
from cloud.aws.sharing import ScannerAccount
from core.errors import AccessDenied, ConfigError
from core.estate import Place


def enter(
    sessions: Sessions,
    place: Place,
    role: Role | None,
    installation: str,
    *,
    home: str = "",
    rules: Rules | None = None,
    scanner: ScannerAccount | None = None,
    give_a_role: str = "a role",
) -> AwsConnector:
    """`home` is a region that is enabled whatever is named; without a role the credentials must be those of the account.

    Raises `ConfigError` without credentials, with those of another account (`give_a_role` says how a role is given) or for a
    region that is not enabled, `CloudError` if the role is refused.
    """
    home = home or sessions.base.region_name or place.region
    if role is not None:
        session = sessions.assume(place.account, role, home)
    else:
        session = sessions.base
        mine = sessions.identity(session, home)
        if mine != place.account:
            raise ConfigError(
                f"{place}: the credentials are those of account {mine}; give {give_a_role} of account {place.account}"
            )
    check_region(sessions, session, place, home)
    return connect(sessions, session, place.account, place.region, installation, rules=rules, scanner=scanner)


def check_region(sessions: Sessions, session: boto3.Session, place: Place, home: str) -> None:
    """What a region says that is not enabled does not tell that it is not. Raises `ConfigError`."""
    try:
        enabled = enabled_regions(sessions.client(session, "ec2", home), place.account)
    except AccessDenied:
        return  # `cloud check` names it
    if place.region not in enabled:
        raise ConfigError(f"{place}: the region is not enabled for this account, or there is none of that name")
