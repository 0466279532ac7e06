"""`kumomori cloud add`, `list` and `remove`: which accounts and sites a console knows. They join `cli.estate`'s commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option, Typer

from cli import tasks
from cli.aws import ExternalId
from cli.connection import with_console
from cli.pipes import reader_may_leave
from cli.scan import warn
from cli.tables import ListAs, ListFormat, ago, print_list
from core.errors import ConfigError
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import AccountOut

app = Typer(no_args_is_help=True, help="Protect what is in an account or at a site from now on.", rich_markup_mode=None)
FleetName = Annotated[str, Option("--fleet", help="The fleet that enters it.")]


@app.callback()
def _add() -> None:
    """Protect what is in an account or at a site from now on."""


@app.command(short_help="An account of AWS.")
@with_console
def aws(
    api: Api,
    account: Annotated[str, Argument(metavar="ACCOUNT", help="Its 12 digits.", show_default=False)],
    role: Annotated[
        str, Option(help="Role that the fleet takes there. [default: the fleet's own credentials]", show_default=False)
    ] = "",
    external_id: ExternalId = "",
    region: Annotated[
        list[str] | None,
        Option(help="Only this region. Repeatable. [default: all that are enabled]", show_default=False),
    ] = None,
    queue_url: Annotated[
        str,
        Option(
            help="Address of the SQS queue with EC2's events: machines are then found within seconds. "
            "[default: none, they are found by listing]",
            show_default=False,
        ),
    ] = "",
    fleet: FleetName = "default",
) -> None:
    """Add an account of AWS: all of its instances are listed, enrolled and scanned as the policies say. Again changes it.

    The role needs what `kumomori cloud policy` prints, and no more; `kumomori cloud check` tries it.
    Exits 0: it is added; 2: it could not be.
    """
    from client.model import AccountIn

    if len(account) != 12 or not account.isdecimal() or not account.isascii():
        raise ConfigError(f"{printable(account)}: is no account of AWS; it has 12 digits")
    _added(
        api.add_account(
            AccountIn(
                cloud="aws",
                account=account,
                fleet=fleet,
                regions=tuple(region or ()),
                role=role,
                external_id=external_id,
                queue_url=queue_url,
            )
        )
    )


@app.command("file", short_help="Machines that stand in a file.")
@with_console
def file(
    api: Api,
    site: Annotated[str, Argument(metavar="SITE", help="A name for where they are.", show_default=False)],
    instances: Annotated[
        Path,
        Option(
            metavar="FILE",
            help="File of machines, one a line, as `kumomori instances --format jsonl` prints them; on the fleet's machine.",
            show_default=False,
        ),
    ],
    fleet: FleetName = "default",
) -> None:
    """Add machines of your own that a file names: under policies like any other. Their disks are images on the fleet's machine.

    Exits 0: they are added; 2: they could not be.
    """
    from client.model import AccountIn

    _added(
        api.add_account(AccountIn(cloud="file", account=site, fleet=fleet, instances_file=str(instances.absolute())))
    )


def _added(one: AccountOut) -> None:
    sys.stdout.write(f"added: {printable(f'{one.cloud}://{one.account}')}, for the fleet {printable(one.fleet)}\n")
    if one.managed_by:
        warn(f"{printable(one.managed_by)} manages it, and changes it back the next time it is run")


@with_console
def list_accounts(api: Api, output_format: ListAs = ListFormat.TABLE) -> None:
    """The accounts and sites that the console knows, when each was last listed whole, and why it could not be.

    Exits 0: they were listed; 2: it could not start.
    """
    titles = ("Account!", "Fleet", "Regions", "Instances#", "Listed", "Problem")
    with reader_may_leave():
        print_list(api.accounts(), output_format, titles, _words, "account")


def _words(one: AccountOut) -> tuple[str, ...]:
    regions = ", ".join(one.regions) or ("all" if one.cloud != "file" else "")
    listed = ago(one.reconciled) or "not yet"
    return (f"{one.cloud}://{one.account}", one.fleet, regions, f"{one.instances:,}", listed, one.problem)


@with_console
def remove(
    api: Api,
    account: Annotated[str, Argument(metavar="CLOUD://ACCOUNT", help="As `cloud list` names it.", show_default=False)],
    clear: Annotated[
        bool,
        Option("--clear", help="Have its fleet delete now what it keeps there, and wait for it. Again does no harm."),
    ] = False,
    evidence: Annotated[
        bool, Option("--evidence", help="With --clear: also the snapshots that are kept as evidence.")
    ] = False,
    fleet: Annotated[
        str,
        Option(
            help="With --clear, of an account that was removed before: its fleet. [default: all]", show_default=False
        ),
    ] = "",
) -> None:
    """Protect an account no longer. What is in it stays in the console as closed; its fleet deletes what it keeps there, and needs its role for that until then.

    Exits 0: it is removed; 3: with --clear, not all is deleted, or the fleet did not answer; 2: there is none, or it could not start.
    """
    cloud, separator, name = account.partition("://")
    if not separator or not cloud or not name:
        raise ConfigError(f"{printable(account)}: write it as `kumomori cloud list` does, like aws://123456789012")
    if not clear and (evidence or fleet):
        raise ConfigError("--evidence and --fleet need --clear")
    known = next((one for one in api.accounts() if (one.cloud, one.account) == (cloud, name)), None)
    if known is not None and known.managed_by:
        warn(f"{printable(known.managed_by)} manages it, and would add it again")
    if known is not None or not clear:
        api.remove_account(cloud, name)
        sys.stdout.write(f"removed: {printable(account)}\n")
    if clear:
        raise Exit(tasks.clear(api, account, known.fleet if known is not None else fleet, evidence=evidence))
    if cloud != "file":
        sys.stdout.write(
            "In an hour its fleet deletes the snapshots that it keeps there: leave the role in place until then; "
            f"`kumomori cloud remove {printable(account)} --clear` does it now.\n"
        )
