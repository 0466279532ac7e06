"""`kumomori worker` and `kumomori sweep`: a fleet on this machine, and what it left in clouds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Exit, Option

from cli.connection import UP_DATA, AllowHttp, Ca
from cli.scan import warn
from cli.tables import many
from core.errors import ConfigError
from core.text import printable

if TYPE_CHECKING:
    from scanner.fleet.database import Database
    from scanner.fleet.settings import Settings

_PREFIX: Final = "KUMOMORI_FLEET_"


def worker(
    fleet: Annotated[str, Option(help="Name of the fleet that this machine joins.", show_default=False)],
    console: Annotated[
        str,
        Option(
            "--console", metavar="URL", envvar="KUMOMORI_CONSOLE", help="Address of the console.", show_default=False
        ),
    ],
    token_file: Annotated[
        Path,
        Option(
            metavar="FILE",
            envvar="KUMOMORI_TOKEN_FILE",
            help="File with a token of scope `fleet` for this fleet. It is read again when it changes.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path, Option("--data", metavar="DIR", help="Folder for manifests, verdicts, and a database if none is named.")
    ] = Path("var/fleet"),
    workers: Annotated[int, Option(min=1, max=256, help="Scans at the same time on this machine.")] = 2,
    region: Annotated[
        list[str] | None,
        Option(help="Only scan what is in this region. Repeatable. [default: all]", show_default=False),
    ] = None,
    ca: Ca = None,
    allow_http: AllowHttp = False,
) -> None:
    """Be a fleet on this machine, or a part of one: scans are made here, with the credentials for clouds that are here.

    Machines of one fleet share a database of PostgreSQL: its address, which holds a password, is KUMOMORI_FLEET_DATABASE in the
    environment. So are all rarer settings (docs/console.md). It ends with Ctrl-C, and goes on with its scans the next time.
    Exits 0: ended as it was told; 2: it could not start.
    """
    from scanner.fleet import supervisor

    given = {
        "FLEET": fleet,
        "CONSOLE": console,
        "TOKEN_FILE": str(token_file.absolute()),
        "DATA": str(_folder(data)),
        "SLOTS": str(workers),
        "ALLOW_HTTP": str(allow_http),
    }
    if region:
        given["REGIONS"] = ",".join(region)
    if ca is not None:
        given["CA"] = str(ca.absolute())
    raise Exit(supervisor.run(_settings(given, data)))


def _folder(data: Path) -> Path:
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"{printable(str(data))}: cannot be the data folder: {error.strerror or error}") from None
    return data.resolve()


def _settings(given: dict[str, str], data: Path) -> Settings:
    """What the options say over what the environment says. Raises `ConfigError`."""
    from scanner.fleet.settings import Settings

    usual = {f"{_PREFIX}DATABASE": f"sqlite:///{data.resolve() / 'fleet.db'}"}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        usual[f"{_PREFIX}ENDPOINT_URL"] = endpoint
    return Settings.from_environment(usual | os.environ | {_PREFIX + name: value for name, value in given.items()})


def sweep(
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would be deleted.")] = False,
    data: Annotated[Path, Option("--data", metavar="DIR", help="The --data of `kumomori up`.")] = UP_DATA,
) -> None:
    """Delete what the fleet of `kumomori up` made in clouds and no scan or base needs any more. It does so by itself all the time.

    Uses the fleet's ledger and this shell's credentials, whether it runs or not. What bases keep is counted, and stays.
    Exits 0: nothing is left, or with --dry-run, nothing would be deleted; 1: with --dry-run, something would be; 3: something could
    not be deleted, or a place not be entered; 2: it could not start.
    """
    from scanner.fleet import kept
    from scanner.fleet.clouds import AccountClouds
    from scanner.fleet.database import Database
    from scanner.fleet.migrations import upgrade
    from scanner.fleet.sweeper import sweep_clouds

    path = data.resolve() / "fleet.db"
    if not path.is_file():
        raise ConfigError(f"{printable(str(data))}: holds no fleet; give the --data of `kumomori up`")
    found = failed = 0
    database = Database(f"sqlite:///{path}")
    try:
        upgrade(database)
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        clouds = AccountClouds(database, kept.installation(database), endpoint_url=endpoint, sweeping=True)
        for one in sweep_clouds(database, None, clouds, dry_run=dry_run):
            found += 1
            failed += one.error is not None
            name = (
                f"{one.resource.kind} {one.resource.id or 'of ' + one.resource.of}" if one.resource else "not entered"
            )
            done = "would be deleted" if dry_run else "deleted"
            warn(f"{one.place}: {name}: {one.error or done}")
        bases, size = _bases(database)
    finally:
        database.close()
    if not found:
        warn("nothing to delete")
    if bases:
        warn(f"{many(bases, 'snapshot')} kept as bases of the next scans, of {size / (1 << 30):,.0f} GiB of disks")
    raise Exit(3 if failed else 1 if dry_run and found else 0)


def _bases(database: Database) -> tuple[int, int]:
    """How many snapshots are kept, and the bytes of their disks."""
    from sqlalchemy import func, select

    from scanner.fleet.tables import resource

    with database.read() as connection:
        rows = select(func.count(), func.coalesce(func.sum(resource.c.size_bytes), 0)).where(
            resource.c.kept_for.is_not(None)
        )
        found = connection.execute(rows).one()
    return int(found[0]), int(found[1])
