"""From an order's place to a connector, by what the console told of its account; and what scans cost there.

The only module of the fleet that knows which clouds there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from client.model import AccountIn
from cloud import Connector
from cloud.aws.accounts import Role, Sessions
from cloud.aws.connector import AwsConnector
from cloud.aws.enter import enter
from cloud.aws.prices import Calls, Expected, Prices, first_scan, later_scan, storage_usd_month
from cloud.pace import Quotas
from core.errors import ConfigError, Gone
from core.estate import Disk, Image, Instance, Place
from scanner.fleet import kept, leaving
from scanner.fleet.database import Database

SETTLE_SECONDS: Final = 90.0  # how late what was made may be listed, before its disk is given up


class MachineGone(Gone):
    """The listing of its place names the machine (or image) no longer: not one of its disks or snapshots alone."""


class Site(Connector, Protocol):
    """A connector that can also be asked for one machine."""

    def instance(self, wanted: str) -> Instance:
        """As it is now. Raises `Gone`."""
        ...

    def image(self, wanted: str) -> Image:
        """Raises `Gone`."""
        ...


@dataclass(frozen=True, slots=True)
class Spent:
    """What reading has cost: US dollars, and the blocks that were fetched; None where a platform has none."""

    usd: float = 0.0
    blocks: int | None = None


class Clouds(Protocol):
    """The seam: how workers and sweepers enter clouds."""

    def enter(self, place: Place, blocks_per_second: float | None = None) -> Site:
        """A new connector, whose calls are counted from now on; it reads no more than that. Raises `ConfigError`, `CloudError`, `Unavailable`."""
        ...

    def spent(self, site: Site) -> Spent:
        """By a connector of `enter`, so far."""
        ...


class AccountClouds:
    """Enters what the console named, with the role it named, if any, from this fleet's own credentials.

    `sweeping`: also what it names no longer and is still to be cleared.
    """

    def __init__(
        self,
        database: Database,
        installation: str,
        *,
        endpoint_url: str = "",
        home_region: str = "",
        sweeping: bool = False,
    ) -> None:
        self._database = database
        self._installation = installation
        self._home = home_region
        self._endpoint_url = endpoint_url
        self._sweeping = sweeping
        self._sessions: Sessions | None = None

    def enter(self, place: Place, blocks_per_second: float | None = None) -> Site:
        if place.cloud != "aws":
            raise ConfigError(f"{place}: this fleet cannot enter that cloud")
        account = next((one for one in self._accounts() if (one.cloud, one.account) == ("aws", place.account)), None)
        if account is None:
            raise ConfigError(f"{place}: the account is not one of this fleet's")
        if account.regions and place.region not in account.regions:
            raise ConfigError(f"{place}: the region is not one that was named for the account")
        if self._sessions is None:
            self._sessions = Sessions(endpoint_url=self._endpoint_url or None)
        role = Role(account.role, account.external_id) if account.role else None
        made = enter(self._sessions, place, role, self._installation, home=self._home)
        quotas = Quotas() if blocks_per_second is None else Quotas(min(blocks_per_second, Quotas.blocks_per_second))
        return replace(made, settle_seconds=SETTLE_SECONDS, quotas=quotas)

    def _accounts(self) -> Sequence[AccountIn]:
        named = accounts(self._database)
        if not self._sweeping:
            return named
        with self._database.read() as connection:
            return (*named, *(one.account for one in leaving.left(connection) if not one.cleared))

    def spent(self, site: Site) -> Spent:
        quotas = getattr(site, "quotas", None)
        if not isinstance(quotas, Quotas):
            return Spent()
        calls = Calls(list_snapshot_blocks=quotas.lists.taken, get_snapshot_block=quotas.blocks.taken)
        return Spent(float(calls.dollars(Prices())), quotas.blocks.taken)


def kept_for(site: Site, seconds: float) -> Site:
    """`site`, on whose snapshots stands that they may be needed for so long."""
    return replace(site, lifetime_seconds=seconds) if isinstance(site, AwsConnector) else site


def accounts(database: Database) -> Sequence[AccountIn]:
    """As the console told them last. Raises `Unavailable`."""
    with database.read() as connection:
        told = kept.read(connection, kept.ACCOUNTS, "[]")
    return tuple(AccountIn.model_validate(one) for one in json.loads(told))


def usd_expected(cloud: str, disks: Iterable[Disk], *, incremental: bool, keep: bool) -> float:
    """What a scan of these should cost at most: requests, and an hour of snapshots or, if they are kept, a day."""
    if cloud != "aws":
        return 0.0
    scan = later_scan if incremental else first_scan
    seconds = 86400 if keep else 3600
    calls = sum((scan(Expected(one.size_bytes, keep_seconds=seconds)) for one in disks if not one.obstacle), Calls())
    return float(calls.dollars(Prices()))


def usd_month(cloud: str, sizes_bytes: Iterable[int]) -> float:
    """What keeping snapshots of disks of these sizes costs a month."""
    return sum(map(storage_usd_month, sizes_bytes)) if cloud == "aws" else 0.0
