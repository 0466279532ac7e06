"""`kumomori estate`, `findings` and `gaps`: what the console knows of machines, and of what is wrong in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Exit, Option, Typer

from cli import names
from cli.connection import with_console
from cli.names import OfInstance
from cli.pipes import reader_may_leave
from cli.tables import ListAs, ListFormat, ago, found, number, print_list
from cli.times import moment
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import FindingOut, GapOut, InstanceOut

findings_app = Typer(invoke_without_command=True, rich_markup_mode=None)


class InstanceFilter(StrEnum):
    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


class FindingFilter(StrEnum):
    OPEN = "open"
    ACCEPTED = "accepted"
    FIXED = "fixed"
    ALL = "all"


class SeverityFilter(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@with_console
def estate(
    api: Api,
    text: Annotated[str, Option(help="Only those with this in their name or id.", show_default=False)] = "",
    state: Annotated[InstanceFilter, Option(help="closed: those that are gone.")] = InstanceFilter.OPEN,
    output_format: ListAs = ListFormat.TABLE,
) -> None:
    """Every machine that the console knows: by what policy it is protected, what its last scan found, when the next is due.

    Exits 0: they were listed; 2: it could not start.
    """
    titles = ("Instance!", "Name", "Policy", "Scanned!", "Result", "Next!")
    with reader_may_leave():
        count = print_list(
            api.instances(state=state.value, text=text), output_format, titles, _instance_words, "instance"
        )
        if not count and output_format is ListFormat.TABLE and not text and state is InstanceFilter.OPEN:
            sys.stdout.write(
                "No account is there, or none was listed yet: see `kumomori cloud list` and `cloud add`.\n"
            )


def _instance_words(one: InstanceOut) -> tuple[str, ...]:
    policy = one.policy or "none" + (f": {one.unprotected}" if one.unprotected else "")
    if one.policy and one.unprotected:
        policy = f"{one.policy}: not protected, {one.unprotected}"
    following = f"gone {ago(one.closed)}" if one.closed else _next(one)
    scanned = ago(one.last_scanned) or "never"
    return (
        one.instance.id,
        one.instance.name,
        policy,
        scanned,
        found(one.last_result, one.open_findings, one.gaps),
        following,
    )


def _next(one: InstanceOut) -> str:
    """A time that has passed stands there until the next one is planned."""
    if one.next_scan is None or (one.last_scanned is not None and one.last_scanned >= one.next_scan):
        return ""
    return ago(one.next_scan) if one.next_scan > datetime.now(UTC) else "due"


@findings_app.callback()
@with_console
def findings(
    api: Api,
    context: Context,
    state: Annotated[FindingFilter, Option(help="Which.")] = FindingFilter.OPEN,
    severity: Annotated[SeverityFilter | None, Option(help="Only of this severity.", show_default=False)] = None,
    instance: OfInstance = "",
    output_format: ListAs = ListFormat.TABLE,
) -> None:
    """What is wrong in the machines, worst first. `findings accept` and `findings reopen` take the beginning of an id.

    Exits 0: there are none of these; 1: there are; 2: it could not start.
    """
    from client.model import FindingState

    _ = context
    wanted = None if state is FindingFilter.ALL else FindingState(state.value)
    titles = ("Id!", "Severity!", "Finding", "Where", "Instance!")
    with reader_may_leave():
        rows = api.findings(
            state=wanted,
            severity=severity.value if severity else "",
            instance=names.instance_key(api, instance) if instance else "",
        )
        count = print_list(rows, output_format, titles, _finding_words, "finding")
    raise Exit(1 if count else 0)


def _finding_words(one: FindingOut) -> tuple[str, ...]:
    where = f"{one.path}: {one.subject}" if one.path and one.subject else one.path or one.subject
    title = one.title if one.state.value == "open" else f"{one.title} ({one.state.value})"
    return (one.id[:8], one.severity.value, title, where, names.short(one.instance))


FindingId = Annotated[
    str, Argument(metavar="ID", help="The beginning of its id, at least 6 characters.", show_default=False)
]


@findings_app.command(short_help="Say that a finding is known and may stay.")
@with_console
def accept(
    api: Api,
    finding: FindingId,
    why: Annotated[str, Option(help="Why it may stay: others will read it.", show_default=False)],
    until: Annotated[
        str, Option(help="Until when, like 2027-01-31; it is open again then. [default: for good]", show_default=False)
    ] = "",
    instance: OfInstance = "",
) -> None:
    """Accept a finding: it is not counted as open any more, on this instance. Who did it and why is kept.

    Exits 0: it is accepted; 2: it could not be.
    """
    from client.model import AcceptIn

    one = names.finding(api, finding, instance)
    done = api.accept(one.instance, one.id, AcceptIn(why=why, until=moment(until)))
    sys.stdout.write(f"accepted: {printable(f'{done.title}, {done.path or done.subject} on {done.instance}')}\n")


@findings_app.command(short_help="Take an acceptance back.")
@with_console
def reopen(api: Api, finding: FindingId, instance: OfInstance = "") -> None:
    """Open an accepted finding again.

    Exits 0: it is open; 2: it could not be.
    """
    one = names.finding(api, finding, instance)
    done = api.reopen(one.instance, one.id)
    sys.stdout.write(f"open: {printable(f'{done.title}, {done.path or done.subject} on {done.instance}')}\n")


@with_console
def gaps(api: Api, instance: OfInstance = "", output_format: ListAs = ListFormat.TABLE) -> None:
    """What the last scan of each machine could not look at, and why.

    Exits 0: all of it was looked at, or the gaps are of kinds that the policy accepts; 3: there are others; 2: it could not start.
    """
    titles = ("Reason", "Where", "Detail", "Count#", "Accepted", "Instance!")
    left = 0

    def words(one: GapOut) -> tuple[str, ...]:
        accepted = "yes" if one.accepted else ""
        return (one.reason, one.where, one.detail, number(one.count), accepted, names.short(one.instance))

    def counted() -> Iterator[GapOut]:
        nonlocal left
        for one in api.gaps(instance=names.instance_key(api, instance) if instance else ""):
            left += not one.accepted
            yield one

    with reader_may_leave():
        print_list(counted(), output_format, titles, words, "gap")
    raise Exit(3 if left else 0)
