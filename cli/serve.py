"""`kumomori console`: a console alone, and `kumomori health`: whether what runs here works."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Argument, Exit, Option

from core.errors import ConfigError, Unavailable
from core.text import printable

if TYPE_CHECKING:
    from console.settings import Settings

_SECONDS: Final = 10
_MOST_BYTES: Final = 65_536
_NEAR: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where a server on all addresses is asked
_CONSOLE: Final = "KUMOMORI_CONSOLE_DATABASE"
_FLEET: Final = "KUMOMORI_FLEET_DATABASE"


class Part(StrEnum):
    CONSOLE = "console"
    WORKER = "worker"


def console(
    first_token: Annotated[
        Path | None,
        Option(metavar="FILE", help="Write an admin token to this new file if the console has no token yet."),
    ] = None,
) -> None:
    """Be a console. Its settings are in the environment, as KUMOMORI_CONSOLE_DATABASE may hold a password (docs/console.md).

    Prints its address when it answers there. It ends with Ctrl-C.
    Exits 0: ended as it was told; 2: it could not start.
    """
    from console import first, serve

    if first_token is not None and not first_token.exists():
        first.write(first_token, os.environ)
    raise Exit(serve.main(os.environ))


def health(
    part: Annotated[
        Part | None, Argument(help="What to ask. [default: the one whose database is known here]", show_default=False)
    ] = None,
    data: Annotated[Path, Option("--data", metavar="DIR", help="The --data of `kumomori worker`.")] = Path("var/fleet"),
) -> None:
    """Say whether the console or the fleet worker of this machine works. For containers: it takes the same environment.

    A console works if it answers on its own port and reaches its database. A worker works if a process of this machine holds
    a slot for scans in the fleet's database, which it renews there.
    Exits 0: it works; 1: it does not; 2: it cannot be said.
    """
    part = part or _known(os.environ, data)
    works, words = _ask_console(os.environ) if part is Part.CONSOLE else _ask_worker(os.environ, data)
    (sys.stdout if works else sys.stderr).write(f"{part}: {words}\n")
    raise Exit(0 if works else 1)


def _known(environment: Mapping[str, str], data: Path) -> Part:
    """Raises `ConfigError` if neither is."""
    if environment.get(_CONSOLE):
        return Part.CONSOLE
    if environment.get(_FLEET) or (data / "fleet.db").is_file():
        return Part.WORKER
    raise ConfigError(f"neither a console nor a worker is known here: {_CONSOLE} and {_FLEET} are not set")


def _ask_console(environment: Mapping[str, str]) -> tuple[bool, str]:
    from console.settings import from_environment

    settings = from_environment(environment)
    connection = _connection(settings)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        body = json.loads(answer.read(_MOST_BYTES))
        problems = [str(one) for one in body.get("problems", ())]
    except (OSError, http.client.HTTPException, ValueError, AttributeError, TypeError) as error:
        return False, f"does not answer as it should: {printable(str(error) or type(error).__name__)[:200]}"
    finally:
        connection.close()
    words = "; ".join(printable(one)[:200] for one in problems[:5]) or "works"
    return answer.status == http.client.OK, words


def _connection(settings: Settings) -> http.client.HTTPConnection:
    """To this machine's own console; its certificate names other addresses, so it is the certificate itself that is asked for."""
    host = _NEAR.get(settings.host, settings.host)
    if settings.certificate is None:
        return http.client.HTTPConnection(host, settings.port, timeout=_SECONDS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(settings.certificate)
    except OSError as error:
        raise ConfigError(f"{printable(str(settings.certificate))}: {error.strerror or error}") from None
    return http.client.HTTPSConnection(host, settings.port, timeout=_SECONDS, context=context)


def _ask_worker(environment: Mapping[str, str], data: Path) -> tuple[bool, str]:
    from sqlalchemy import select

    from scanner.fleet.database import Database
    from scanner.fleet.tables import slot

    file = data.resolve() / "fleet.db"
    address = environment.get(_FLEET, "")
    if not address:
        if not file.is_file():
            return False, f"{printable(str(file))}: is not there"
        address = f"sqlite:///{file}"
    mine = f"{socket.gethostname()}, process "
    database = Database(address)
    try:
        with database.read() as connection:
            now_ms = database.now_ms(connection)
            rows = connection.execute(
                select(slot.c.name, slot.c.worker).where(slot.c.holder.is_not(None), slot.c.lease_ends_ms > now_ms)
            ).all()
    except Unavailable as error:
        return False, printable(str(error))[:300]
    finally:
        database.close()
    held = sorted(row.name for row in rows if row.worker.startswith(mine) and row.name.startswith("slot-"))
    return bool(held), f"holds {', '.join(held)}" if held else "no process of this machine holds a slot"
