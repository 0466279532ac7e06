"""`kumomori token`: who may ask the console for what."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from cli.connection import with_console, write_private
from cli.pipes import reader_may_leave
from cli.tables import ListAs, ListFormat, ago, at, print_list
from cli.times import moment
from core.errors import ConfigError, Error
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import TokenOut

app = Typer(no_args_is_help=True, help="Who may ask the console for what.", rich_markup_mode=None)
TokenName = Annotated[str, Argument(metavar="NAME", help="Its name.", show_default=False)]


class ScopeName(StrEnum):
    READ = "read"
    SCAN = "scan"
    TRIAGE = "triage"
    POLICY = "policy"
    FLEET = "fleet"
    ADMIN = "admin"


@app.callback()
def _token() -> None:
    """Who may ask the console for what."""


@app.command(short_help="Make a token.")
@with_console
def create(
    api: Api,
    name: TokenName,
    scope: Annotated[
        list[ScopeName],
        Option(
            help="What it may do. Repeatable. read: look; scan: order and stop scans, hold schedules; triage: accept findings; "
            "policy: apply policies; fleet: be a fleet; admin: everything.",
            show_default=False,
        ),
    ],
    fleet: Annotated[str, Option(help="With --scope fleet: the name of that fleet.", show_default=False)] = "",
    expires: Annotated[str, Option(help="When it ends, like 2027-01-31. [default: never]", show_default=False)] = "",
    output: Annotated[
        Path | None,
        Option(
            metavar="FILE", help="Write it to this new file, for --token-file. [default: print it]", show_default=False
        ),
    ] = None,
) -> None:
    """Make a token. It is shown this once: the console keeps only a hash of it.

    Exits 0: it is made; 2: it could not be.
    """
    from client.model import Scope, TokenIn

    if output is not None and output.exists():
        raise ConfigError(f"{printable(str(output))}: is there already; name a new file")
    scopes = tuple(Scope(one.value) for one in scope)
    made = api.create_token(TokenIn(name=name, scopes=scopes, fleet=fleet or None, expires=moment(expires)))
    if output is None:
        sys.stdout.write(f"{printable(made.secret)}\n")
        return
    try:
        write_private(output, made.secret + "\n")
    except Error:
        api.revoke_token(name)  # nobody has it
        raise
    sys.stdout.write(f"{printable(made.name)}: written to {printable(str(output))}\n")


@app.command("list", short_help="All tokens, without their secrets.")
@with_console
def list_tokens(api: Api, output_format: ListAs = ListFormat.TABLE) -> None:
    """All tokens: what each may do, and when it was used last.

    Exits 0: they were listed; 2: it could not start.
    """
    titles = ("Name", "Scopes", "Fleet", "Made", "Expires", "Last used")
    with reader_may_leave():
        print_list(api.tokens(), output_format, titles, _words, "token")


def _words(one: TokenOut) -> tuple[str, ...]:
    scopes = ", ".join(scope.value for scope in one.scopes)
    return (
        one.name,
        scopes,
        one.fleet or "",
        at(one.created),
        at(one.expires) or "never",
        ago(one.last_used) or "never",
    )


@app.command(short_help="End a token.")
@with_console
def revoke(api: Api, name: TokenName) -> None:
    """End a token: the next request with it is refused.

    Exits 0: it is revoked; 2: there is none, or it could not start.
    """
    api.revoke_token(name)
    sys.stdout.write(f"revoked: {printable(name)}\n")
