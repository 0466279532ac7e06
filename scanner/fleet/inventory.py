"""What machines there are in the accounts of a fleet: listings place by place, single instances, and queues of events."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import boto3

from client.model import AccountIn
from cloud.aws.accounts import Account, Role, Sessions, Unreachable, places
from cloud.aws.events import EventQueue
from cloud.aws.inventory import Rules
from cloud.aws.listing import instances_by_id, list_instances
from core.errors import CloudError, ConfigError, Error
from core.estate import Instance, Place
from core.text import printable
from policy.estate import read_estate
from scanner.fleet.settings import PREFIX, Settings

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

SITE: Final = "site"  # the region of a machine from a file that names none
_SQS: Final = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?|([a-z0-9-]+)\.queue\.amazonaws\.com")
_REGION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_MOST_SESSIONS: Final = 1_000
_MOST_CLIENTS: Final = 64


@dataclass(frozen=True, slots=True)
class Listing:
    """`instances` is streamed and raises `Error` where it breaks off; of a file they may be of several places."""

    place: Place
    instances: Iterator[Instance]


class Inventory:
    """Safe to use from many threads. `sessions` is for tests."""

    def __init__(self, settings: Settings, sessions: Sessions | None = None) -> None:
        self._settings = settings
        self._given = sessions
        self._rules = Rules()
        self._clients: dict[tuple[AccountIn, str], EC2Client] = {}  # for events
        self._sessions: dict[tuple[str, str, str], boto3.Session] = {}

    def listings(self, account: AccountIn) -> Iterator[Listing | Unreachable]:
        """Every place of `account` that this fleet serves; what cannot be entered is an `Unreachable`, the others go on."""
        if account.cloud == "file":
            yield Listing(Place("file", account.account, SITE), machines(account, self._settings.sites))
            return
        served = account.regions or self._settings.regions
        # What goes wrong with all of it is told of a place that is listed when it goes well.
        here = Place("aws", account.account, served[0] if served else self._settings.home_region)
        try:
            role = self._role(account)
            sessions = self._aws()
            self._check_identity(sessions, account)
            found = places(
                sessions,
                [Account(account.account)],
                role,
                home=self._settings.home_region,
                regions=[one for one in served if self._settings.serves("aws", one)],
            )
            for one in found:
                if isinstance(one, Unreachable):
                    yield one if not served or one.place.region in served else replace(one, place=here)
                elif self._settings.serves("aws", one[0].region):
                    place, session = one
                    ec2 = sessions.client(session, "ec2", place.region)
                    yield Listing(place, list_instances(ec2, place, self._rules))
        except CloudError as error:
            yield Unreachable(here, error)
        except Error as error:
            yield Unreachable(here, CloudError(str(error)))

    def by_id(self, account: AccountIn, region: str, ids: Sequence[str]) -> list[Instance]:
        """Those of `ids` that the cloud lists by now. Raises `ConfigError`, `CloudError`."""
        place = Place("aws", account.account, region)
        key = (account, region)
        if key not in self._clients:
            if len(self._clients) >= _MOST_CLIENTS:
                self._clients.clear()
            sessions = self._aws()
            self._clients[key] = sessions.client(self._entered(sessions, account), "ec2", region)
        return list(instances_by_id(self._clients[key], place, self._rules, ids))

    def queue(self, url: str, accounts: Collection[AccountIn]) -> EventQueue:
        """The queue at `url`, in which only `accounts` may speak. Raises `ConfigError`, `CloudError`.

        It is read by the role of the account that it is in, if that is one of `accounts`, else by the fleet's own credentials.
        """
        sessions = self._aws()
        region, owner = _parts(url)
        owning = [one for one in accounts if one.account == owner and one.role]
        session = self._entered(sessions, owning[0]) if owning else sessions.base
        region = region or next((one.regions[0] for one in accounts if one.regions), self._settings.home_region)
        return EventQueue(sessions.client(session, "sqs", region), url, {one.account for one in accounts})

    def _aws(self) -> Sessions:
        if self._given is None:
            self._given = Sessions(endpoint_url=self._settings.endpoint_url or None)
        return self._given

    def _role(self, account: AccountIn) -> Role | None:
        return Role(account.role, account.external_id) if account.role else None

    def _check_identity(self, sessions: Sessions, account: AccountIn) -> None:
        """Without a role there is one account that can be entered."""
        if account.role:
            return
        mine = sessions.identity(sessions.base, self._settings.home_region)
        if mine != account.account:
            raise ConfigError(
                f"aws://{account.account}: the fleet's credentials are those of account {printable(mine)}: give the account a role"
            )

    def _entered(self, sessions: Sessions, account: AccountIn) -> boto3.Session:
        role = self._role(account)
        if role is None:
            self._check_identity(sessions, account)
            return sessions.base
        key = (account.account, account.role, account.external_id)
        if key not in self._sessions:
            if len(self._sessions) >= _MOST_SESSIONS:
                self._sessions.clear()
            self._sessions[key] = sessions.assume(account.account, role, self._settings.home_region)
        return self._sessions[key]


def machines(account: AccountIn, sites: Collection[Path] = ()) -> Iterator[Instance]:
    """The machines of `account.instances_file`. Their region is kept; cloud and account are those of `account`. `sites`: folders in
    one of which the file must lie, whatever links lead to it; empty: anywhere.

    Raises `ConfigError` if it cannot be read, changes meanwhile, has a line that is no machine, or none at all: as if all
    machines had vanished.
    """
    path = Path(account.instances_file)
    shown = printable(account.instances_file)[:200]
    if not path.is_absolute():
        raise ConfigError(f"{shown or 'instances_file'}: give the file's whole path on the fleet's machine")
    if sites and not any(Path(os.path.realpath(one)) in Path(os.path.realpath(path)).parents for one in sites):
        raise ConfigError(f"{shown}: lies in none of the folders of {PREFIX}SITES")
    if path.exists() and not path.is_file():  # a pipe would hold up the listing of all others
        raise ConfigError(f"{shown}: is no file; give one with a machine a line")
    before = signature(path)
    seen: set[tuple[str, str]] = set()
    for one in read_estate(path):
        region = one.place.region or SITE
        if not _REGION.fullmatch(region):
            raise ConfigError(f"{shown}: {printable(one.id)[:100]}: its region may have letters, digits and ._-")
        if (region, one.id) in seen:
            raise ConfigError(f"{shown}: {printable(one.id)[:100]} stands there twice in {region}")
        seen.add((region, one.id))
        yield _at_home(one, Place("file", account.account, region))
    if signature(path) != before:
        raise ConfigError(f"{shown}: it changed while it was read")


def signature(path: Path) -> tuple[int, int, int]:
    """Another one if the file was changed or replaced; zeros if it cannot be looked at."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


def _at_home(one: Instance, place: Place) -> Instance:
    disks = tuple(type(disk)(**{**vars(disk), "place": place}) for disk in one.disks)
    return Instance(**{**vars(one), "place": place, "disks": disks})


def _parts(url: str) -> tuple[str, str]:
    """The region and account of a queue: https://sqs.eu-central-1.amazonaws.com/111122223333/name. Raises `ConfigError`."""
    try:
        parsed = urlsplit(url)
        host, path = parsed.hostname or "", parsed.path.split("/")
    except ValueError:
        host, path = "", []
    if not host or len(path) < 3:
        raise ConfigError(
            f"{printable(url)[:200]}: is no address of a queue, like https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"
        )
    found = _SQS.fullmatch(host)
    return (found[1] or found[2] if found else ""), path[1]
