"""`kumomori instances` and `kumomori cloud`: what machines there are, whether they may be scanned, what scans left behind."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table
from typer import Argument, Exit, Option, Typer

from cli import tasks
from cli.aws import DATA, Access, Data, Endpoint, ExternalId, RoleName
from cli.connection import AllowHttp, Ca, TokenFile, Url, checked, opened
from cli.installation import FleetData, installation
from cli.pipes import reader_may_leave
from cli.scan import warn
from cli.tables import ListFormat
from cloud.location import Location
from core.errors import CloudError, ConfigError, Error
from core.estate import Instance, Place, Resource
from core.text import printable
from infra.aws import policies
from infra.aws.policies import Setup
from scanner.ledger import FileLedger, sweep

if TYPE_CHECKING:
    from cloud.aws.check import Checked
    from cloud.aws.connector import AwsConnector

app = Typer(
    no_args_is_help=True,
    help="Accounts that are protected; permissions, and what scans left behind.",
    rich_markup_mode=None,
)
_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9-]*://[^/]+")
_MARK = {True: "yes", False: "NO", None: "not tried"}


class Cloud(StrEnum):
    AWS = "aws"


@app.callback()
def _cloud() -> None:
    """Accounts that are protected; permissions, and what scans left behind."""


def instances(
    cloud: Annotated[Cloud, Argument(help="Which cloud.")] = Cloud.AWS,
    account: Annotated[
        list[str] | None, Option(help="Account to list. Repeatable. [default: your own]", show_default=False)
    ] = None,
    region: Annotated[
        list[str] | None, Option(help="Region to list. Repeatable. [default: all that are enabled]", show_default=False)
    ] = None,
    organization: Annotated[
        bool, Option("--organization", help="All accounts of the organisation; needs --role.")
    ] = False,
    owner_tag: Annotated[str, Option(help="Tag that names the owner of an instance.", show_default=False)] = "",
    role: RoleName = "",
    external_id: ExternalId = "",
    endpoint_url: Endpoint = "",
    output_format: Annotated[ListFormat, Option("--format", help="What to print.")] = ListFormat.TABLE,
) -> None:
    """List every instance of a cloud with its disks: accounts and regions one after the other.

    Exits 0: all of it was listed; 3: an account or region could not be (each is named); 2: it could not start.
    """
    from cli import entering
    from cloud.aws.accounts import Unreachable
    from cloud.aws.inventory import Rules

    _ = cloud
    access = Access(role, external_id, endpoint_url)
    rules = Rules(owner_tag=owner_tag)
    missing: list[str] = []
    entered: list[Place] = []

    def found() -> Iterator[Instance]:
        for one in entering.connectors(access, account or (), region or (), "none", rules, organization=organization):
            if isinstance(one, Unreachable):
                missing.append(f"{one.place}: {one.error}")
                continue
            entered.append(one.place)
            try:
                yield from one.instances()
            except CloudError as error:
                missing.append(f"{one.place}: {error}")

    with reader_may_leave():
        if output_format is ListFormat.JSONL:
            for instance in found():
                sys.stdout.write(json.dumps(_as_json(instance)) + "\n")
        else:
            _print_instances(found())
    if not missing and not entered:
        missing.append("there is no account or region to look in")
    for line in missing:
        warn(f"not listed: {line}")
    raise Exit(3 if missing else 0)


def _as_json(instance: Instance) -> dict[str, object]:
    found = asdict(instance)
    found["tags"] = dict(instance.tags)
    found["launched"] = instance.launched.isoformat() if instance.launched else None
    return found


def _print_instances(found: Iterable[Instance]) -> None:
    """A table for each account and region: a place is listed whole before the next begins."""
    console = Console(markup=False, highlight=False)
    count = 0
    for place, some in groupby(found, key=lambda one: one.place):
        table = Table(box=None, pad_edge=False)
        for title in ("Instance", "Name", "State", "OS", "Disks", "Owner", ""):
            table.add_column(title, overflow="fold")
        for one in some:
            count += 1
            disks = ", ".join(_disk_words(disk.size_bytes, disk.obstacle, disk.key) for disk in one.disks)
            left_out = f"left out: {one.excluded}" if one.excluded else ""
            words = (one.id, one.name, one.state.value, one.os, disks, one.owner, left_out)
            table.add_row(*(printable(word) for word in words))
        console.print(str(place))
        console.print(table)
        console.print()
    console.print(f"{count} instance{'' if count == 1 else 's'}")


def _disk_words(size: int, obstacle: str, key: str) -> str:
    words = f"{size / (1 << 30):g} GiB"
    if obstacle:
        return f"{words} (cannot be scanned)"
    return f"{words} (encrypted)" if key else words


@app.command("check", short_help="Try each permission that a scan needs.")
def check_access(
    location: Annotated[
        str,
        Argument(
            metavar="WHERE",
            help="CLOUD://ACCOUNT, as `cloud list` names it: its fleet tries. aws://ACCOUNT/REGION: this machine does.",
            show_default=False,
        ),
    ],
    role: RoleName = "",
    external_id: ExternalId = "",
    endpoint_url: Endpoint = "",
    data: Data = DATA,
    fleet_data: FleetData = None,
    timeout: tasks.Seconds = 300,
    console: Url = "",
    token_file: TokenFile = None,
    ca: Ca = None,
    allow_http: AllowHttp = False,
) -> None:
    """Can it do all that a scan needs? Tries each permission without changing anything; says which statement is missing.

    Of an account, its fleet is asked through the console (a token of scopes scan and read): in all regions that it enters, with its own
    credentials and the role that `cloud add` named. With a region, it is tried from here, with this shell's credentials and --role.
    Exits 0: yes; 1: something is missing; 3: nothing is missing, but not all could be tried, or the fleet did not answer; 2: it could
    not start.
    """
    if _ACCOUNT.fullmatch(location):
        if role or external_id or fleet_data:
            raise ConfigError(
                "--role, --external-id and --fleet-data are for a check from here, which needs a region: aws://ACCOUNT/REGION"
            )
        with opened(console, token_file, ca=ca, allow_http=allow_http) as api, checked():
            raise Exit(tasks.check(api, location, timeout))
    from cli import entering
    from cloud.aws.check import check

    place = Location.parse(location).place
    name = installation(data, fleet_data)
    found = list(check(entering.connector(Access(role, external_id, endpoint_url), place, name)))
    with reader_may_leave():
        _print_checks(found)
        whose = "this fleet" if fleet_data else "this installation"
        sys.stdout.write(f"The name that the policies are bound to is that of {whose}: {name}\n")
    raise Exit(1 if any(one.ok is False for one in found) else 3 if any(one.ok is None for one in found) else 0)


def _print_checks(found: Sequence[Checked]) -> None:
    console = Console(markup=False, highlight=False)
    table = Table(box=None, pad_edge=False)
    for title in ("Permission", "Given", ""):
        table.add_column(title, overflow="fold")
    for one in found:
        table.add_row(*(printable(word) for word in (one.permission, _MARK[one.ok], one.detail)))
    console.print(table)
    for advice in dict.fromkeys(one.advice for one in found if one.advice):
        console.print(printable(advice))
    console.print(f"\n{_verdict(found)}")


def _verdict(found: Sequence[Checked]) -> str:
    """The result in one sentence."""
    missing, untried = (sum(one.ok is ok for one in found) for ok in (False, None))
    left = f", and {untried} could not be tried" if untried else ""
    if missing:
        return f"{_many(missing, 'check')} failed{left}."
    return (
        f"Nothing is missing, but {untried} could not be tried yet." if untried else "All that a scan needs is there."
    )


class Duty(StrEnum):
    SCANNER = "scanner"
    READER = "reader"
    RESPONDER = "responder"
    ORGANIZATION = "organization"


@app.command("policy", short_help="Print the IAM policy that a role needs.")
def policy(
    duty: Annotated[
        Duty,
        Argument(
            help="scanner: the role in each account that is scanned. reader: the account that reads with --lend. "
            "organization: your own account, with --organization. responder: isolates and stops."
        ),
    ] = Duty.SCANNER,
    any_snapshot: Annotated[
        bool,
        Option(
            "--any-snapshot",
            help="Also read snapshots that Kumomori did not make (`scan snapshot`, `ls`, `cat`, `diff`).",
        ),
    ] = False,
    reader_account: Annotated[
        str, Option(help="The account that reads with --lend: adds what lending needs.", show_default=False)
    ] = "",
    copy_key: Annotated[
        str,
        Option(
            help="With --reader-account: key for copies of snapshots under AWS's own key, as an ARN.",
            show_default=False,
        ),
    ] = "",
    key: Annotated[
        list[str] | None,
        Option(help="Key that disks may be encrypted with, as an ARN. Repeatable. [default: any]", show_default=False),
    ] = None,
    role: Annotated[str, Option(help="organization: the role to take in each account.")] = "KumomoriScanner",
    data: Data = DATA,
    fleet_data: FleetData = None,
) -> None:
    """Print the IAM policy that a role needs, and no more: it binds every write to the tag of this installation.

    The role that a fleet takes (`cloud add aws --role`) needs it with --fleet-data: a fleet has a name of its own.

    Exits 0: it was printed; 2: it could not start.
    """
    if reader_account and not re.fullmatch(r"[0-9]{12}", reader_account):
        raise ConfigError(f"{printable(reader_account)}: is no account of AWS; --reader-account takes its 12 digits")
    for one in (*(key or ()), *([copy_key] if copy_key else ())):
        if not one.startswith("arn:"):
            raise ConfigError(f"{printable(one)}: is no ARN; a policy names keys like arn:aws:kms:REGION:ACCOUNT:key/…")
    if copy_key and not reader_account:
        raise ConfigError("--copy-key goes with --reader-account")
    setup = Setup(
        installation(data, fleet_data),
        any_snapshot=any_snapshot,
        scanner_account=reader_account,
        copy_key=copy_key,
        keys=tuple(key or ("*",)),
    )
    made = {
        Duty.SCANNER: lambda: policies.scanner(setup),
        Duty.READER: lambda: policies.reader(setup),
        Duty.RESPONDER: lambda: policies.responder(setup),
        Duty.ORGANIZATION: lambda: policies.organization(setup, [role]),
    }
    with reader_may_leave():
        sys.stdout.write(json.dumps(made[duty](), indent=2) + "\n")


@app.command("sweep", short_help="Delete what scans that died left in a cloud.")
def sweep_place(
    location: Annotated[str, Argument(metavar="aws://ACCOUNT/REGION", help="Where.", show_default=False)],
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would be deleted.")] = False,
    kept: Annotated[bool, Option("--kept", help="Also what `scan instance --keep` kept there.")] = False,
    lost: Annotated[
        list[str] | None,
        Option(
            metavar="INSTALLATION",
            help="Also what an installation left whose --data folder is lost, once it has expired: kept snapshots, too. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    retired: Annotated[
        str,
        Option(
            metavar="INSTALLATION",
            help="Also everything that an installation left there, expired or not, with the snapshots that its fleet keeps: "
            "before its role is taken away. Stop its fleet first.",
            show_default=False,
        ),
    ] = "",
    role: RoleName = "",
    external_id: ExternalId = "",
    endpoint_url: Endpoint = "",
    data: Data = DATA,
) -> None:
    """Delete what scans that died left in a cloud; never what another installation or a living scan made.

    What others left there and has expired is named.
    Exits 0: nothing of ours is left; 3: something could not be deleted (it is tried again next time); 2: it could not start.
    """
    from cli import entering
    from cloud.aws.tags import plain
    from cloud.expired import sweep_expired

    place = Location.parse(location).place
    for name in lost or ():
        plain("name after --lost", name)
    if retired:
        plain("name after --retired", retired)
    with FileLedger(data) as ledger:
        connector = entering.connector(Access(role, external_id, endpoint_url), place, ledger.installation)
        staying = ledger.entries(place, kept=True)
        if kept and not dry_run:
            ledger.unkeep(place)
        found, failed = swept(ledger, connector, dry_run=dry_run)
        others = dict.fromkeys(lost or (), False) | ({retired: True} if retired else {})
        for name, everything in others.items():
            if name == ledger.installation and not everything:
                continue
            named = replace(connector, installation=name)
            of_lost = _said(sweep_expired(named, everything=everything, dry_run=dry_run), dry_run=dry_run)
            found, failed = found + of_lost[0], failed + of_lost[1]
        _tell_of_others(connector, others)
    if kept and dry_run:
        for one in staying:
            warn(f"{one.kind} {one.id}: would be deleted (kept)")
        found += len(staying)
    elif staying and not kept:
        warn(f"{place}: {_many(len(staying), 'kept snapshot')} left alone: --kept deletes, --kept --dry-run lists")
    if not found:
        warn(f"{place}: nothing to delete")
    raise Exit(3 if failed else 0)


def _tell_of_others(connector: AwsConnector, lost: Collection[str]) -> None:
    """Names of installations are made up with their folders: of a lost one nobody would ever sweep anything."""
    now = datetime.now(UTC)
    expired = Counter(name for name, one in connector.ours().of_others() if one.expires <= now and name not in lost)
    for name, count in expired.items():
        warn(
            f"{connector.place}: {_many(count, 'snapshot')} of the installation {name} expired; if its --data folder is lost, "
            f"`kumomori cloud sweep {connector.place} --lost {name}` deletes what did"
        )


def swept(ledger: FileLedger, connector: AwsConnector, *, dry_run: bool = False) -> tuple[int, int]:
    """How many were found, and of them how many could not be deleted; each is named."""
    return _said(sweep(ledger, connector, connector.place, dry_run=dry_run), dry_run=dry_run)


def _said(results: Iterable[tuple[Resource, Error | None]], *, dry_run: bool) -> tuple[int, int]:
    total = failed = 0
    for resource, error in results:
        total += bool(resource.id) or error is not None
        name = f"{resource.kind} {resource.id or 'of ' + resource.of}"
        if error is not None:
            failed += 1
            warn(f"{name}: not deleted: {error}")
        elif resource.id:
            warn(f"{name}: {'would be deleted' if dry_run else 'deleted'}")
    return total, failed


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
