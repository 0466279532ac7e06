"""From what the options say to connectors of AWS, and what a scan costs there.

Imported by the commands when they enter a cloud: the SDK takes a tenth of a second to load, which the others need not wait for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from cli.aws import Access
from cloud.aws.accounts import Account, Role, Sessions, Unreachable, list_accounts, places
from cloud.aws.connector import AwsConnector, connect
from cloud.aws.enter import enter
from cloud.aws.inventory import Rules
from cloud.aws.prices import Calls, Expected, Prices, first_scan, later_scan
from cloud.aws.sharing import ScannerAccount
from core.errors import CloudError, ConfigError
from core.estate import Disk, Place

_HOME: Final = "us-east-1"  # where an account is asked for its regions, if nothing else is named


def _sessions(access: Access) -> Sessions:
    return Sessions(endpoint_url=access.endpoint or None)


def _assumed(access: Access) -> Role | None:
    if not access.role:
        if access.external_id:
            raise ConfigError("--external-id goes with --role")
        return None
    return Role(access.role, access.external_id)


def connector(access: Access, place: Place, installation: str, rules: Rules | None = None) -> AwsConnector:
    """Raises `ConfigError` without credentials or with those of another account, `CloudError` if the role is refused."""
    sessions = _sessions(access)
    role = _assumed(access)
    home = sessions.base.region_name or place.region  # which is enabled, whatever is named
    scanner = None
    if access.lend or access.copy_key:
        if role is None or not access.lend:
            raise ConfigError("--lend needs the role in the other account (--role), and --copy-key goes with --lend")
        reader = sessions.identity(sessions.base, home)
        scanner = ScannerAccount(reader, sessions.base, access.copy_key)
    return enter(
        sessions,
        place,
        role,
        installation,
        home=home,
        rules=rules,
        scanner=scanner,
        give_a_role="a role with --role",
    )


def connectors(
    access: Access,
    accounts: Sequence[str],
    regions: Sequence[str],
    installation: str,
    rules: Rules,
    *,
    organization: bool,
) -> Iterator[AwsConnector | Unreachable]:
    """One for each account and region. Raises `ConfigError`, `CloudError` if the accounts cannot be listed."""
    sessions = _sessions(access)
    role = _assumed(access)
    home = sessions.base.region_name or (regions[0] if regions else _HOME)
    if organization:
        if role is None:
            raise ConfigError("--organization needs the role to take in each account: give --role")
        found = list(list_accounts(sessions.client(sessions.base, "organizations", home)))
        if not found:
            raise CloudError("organisation: organizations:ListAccounts names no active account")
    elif accounts:
        found = [Account(one) for one in accounts]
    else:
        found = [Account(sessions.identity(sessions.base, home))]
    if role is None and [one.id for one in found] != [sessions.identity(sessions.base, home)]:
        raise ConfigError("to see other accounts than your own, give the role to take in each with --role")
    for one in places(sessions, found, role, home=home, regions=regions):
        if isinstance(one, Unreachable):
            yield one
            continue
        place, session = one
        try:
            yield connect(sessions, session, place.account, place.region, installation, rules=rules)
        except CloudError as error:
            yield Unreachable(place, error)


def price_before(disks: Sequence[Disk], *, incremental: bool) -> str:
    """One line: what reading these disks should cost at most, by the assumptions of `cloud.aws.prices.Expected`."""
    scan = later_scan if incremental else first_scan
    calls = sum((scan(Expected(disk.size_bytes)) for disk in disks if not disk.obstacle), Calls())
    return (
        f"about {calls.get_snapshot_block:,} blocks of 512 KiB at most, "
        f"${calls.dollars(Prices()):.4f} for requests and an hour of snapshots"
    )


def price_after(connector: AwsConnector) -> str:
    """One line: the calls that were made through this connector, and what they cost."""
    quotas = connector.quotas
    calls = Calls(list_snapshot_blocks=quotas.lists.taken, get_snapshot_block=quotas.blocks.taken)
    blocks, lists = quotas.blocks.taken, quotas.lists.taken
    return (
        f"{blocks:,} block{'' if blocks == 1 else 's'} read and {lists:,} list{'' if lists == 1 else 's'}, "
        f"${calls.dollars(Prices()):.6f} for requests"
    )
