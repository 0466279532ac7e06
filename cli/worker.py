"""`kumomori worker`: a fleet on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Exit, Option

from cli.connection import AllowHttp, Ca
from core.errors import ConfigError
from core.text import printable

if TYPE_CHECKING:
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
