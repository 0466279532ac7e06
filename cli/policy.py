"""`kumomori policy`: check policies, say what holds for an instance and why, and what a change would change for whom."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

from rich.console import Console
from rich.table import Table
from typer import Argument, Exit, Option, Typer

from cli.pipes import reader_may_leave
from cli.times import moment
from core.errors import ConfigError
from core.text import printable

if TYPE_CHECKING:
    from policy.compare import Report
    from policy.resolve import Effective, Resolved

app = Typer(
    no_args_is_help=True, help="Policies: what is protected, and how. Check, explain, compare.", rich_markup_mode=None
)


class PolicyFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


Folder = Annotated[
    Path, Argument(metavar="DIR", help="Folder of policies (.yaml, .yml, .json), or one file.", show_default=False)
]
Format = Annotated[PolicyFormat, Option("--format", help="What to print.")]
At = Annotated[
    str | None,
    Option(
        "--at", help="As if it were then: 2027-01-31T12:00, UTC unless it says so. [default: now]", show_default=False
    ),
]
_SHOWN: Final = 5
_ESTATE_HELP = "File of instances, as `kumomori instances --format jsonl` prints them."


@app.callback()
def _policy() -> None:
    """Policies: what is protected, and how. Check, explain, compare."""


@app.command(short_help="Check policies before anything is applied.")
def validate(
    folder: Folder,
    estate: Annotated[Path | None, Option(help=_ESTATE_HELP, show_default=False)] = None,
    at: At = None,
    output_format: Format = PolicyFormat.TABLE,
) -> None:
    """Check policies before anything is applied: each problem with its document, line, column and the nearest spelling.

    With --estate also how many instances each policy and profile selects. A selector that selects nothing or everything is
    refused unless `may_select` beside it says that it is meant; so are two policies beside each other that select one instance.
    Exits 0: all is well; 1: they are refused; 3: they can be applied, but a profile has ended, or an instance has no policy;
    2: it could not start.
    """
    from policy.compare import survey
    from policy.document import Refused
    from policy.estate import read_estate
    from policy.tree import load

    try:
        tree = load(folder)
    except Refused as error:
        with reader_may_leave():
            _print_problems(error, output_format)
        raise Exit(1) from None
    report = survey(tree, read_estate(estate) if estate else None, _moment(at))
    with reader_may_leave():
        if output_format is PolicyFormat.JSON:
            _print_json(report.as_json())
        else:
            _print_report(report, f"{folder}/")
    raise Exit(1 if report.problems else 3 if report.notes else 0)


def _print_problems(error: Any, output_format: PolicyFormat) -> None:
    if output_format is PolicyFormat.TABLE:
        for problem in error.problems:
            sys.stdout.write(f"{printable(str(problem))}\n")
        sys.stdout.write(f"\n{_count(len(error.problems), 'problem')}; nothing of it can be applied.\n")
        return
    _print_json({"valid": False, "problems": [problem.as_json() for problem in error.problems]})


def _print_report(report: Report, above: str) -> None:
    with_estate = report.instances is not None
    console = Console(markup=False, highlight=False)
    table = Table(box=None, pad_edge=False)
    titles = ("Policy", *(("Selects", "Holds for") if with_estate else ()), "Stands in")
    for title in titles:
        table.add_column(title, overflow="fold", justify="right" if title in {"Selects", "Holds for"} else "left")
    for row in report.rows:
        counts = (f"{row.selects:,}", f"{row.holds:,}") if with_estate else ()
        table.add_row(*(printable(word) for word in (row.title, *counts, str(row.at).removeprefix(above))))
    console.print(table)
    sys.stdout.write("\n")
    for line in (*map(str, report.problems), *report.notes):
        sys.stdout.write(f"{printable(line)}\n")
    counted = f" for {_count(report.instances, 'instance')}" if report.instances else ""
    verdict = "refused, nothing of it can be applied" if report.problems else "can be applied"
    policies = f"{report.policies:,} {'policy' if report.policies == 1 else 'policies'}"
    sys.stdout.write(f"{policies}, {_count(report.profiles, 'profile')}{counted}: {verdict}.\n")


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


@app.command(short_help="What holds for one instance, and why.")
def explain(
    folder: Folder,
    instance: Annotated[
        Path,
        Argument(metavar="INSTANCE.json", help="One line of `kumomori instances --format jsonl`.", show_default=False),
    ],
    local: Annotated[
        str | None, Option(help="Name of a `Local` document: what is set on the machine itself.", show_default=False)
    ] = None,
    at: At = None,
    output_format: Format = PolicyFormat.TABLE,
) -> None:
    """What holds for one instance, and why: for each value the document, the line and the lock that decided.

    Exits 0: it was explained; 1: no policy holds for it, or two do; 2: it could not start.
    """
    from policy.checks import nearest
    from policy.estate import read_instance
    from policy.explain import as_json
    from policy.resolve import Unresolved, resolve
    from policy.tree import load

    tree = load(folder)
    one = read_instance(instance)
    if local is not None and local not in tree.local:
        raise ConfigError(f"there is no Local document `{printable(local)}`{nearest(local, tree.local)}")
    found = resolve(tree, one, _moment(at), tree.local[local] if local is not None else None)
    with reader_may_leave():
        if output_format is PolicyFormat.JSON:
            _print_json(as_json(str(one), found))
        elif isinstance(found, Unresolved):
            sys.stdout.write(f"{printable(str(one))}: {printable(str(found))}\n")
        else:
            _print_resolved(str(one), found)
    raise Exit(1 if isinstance(found, Unresolved) else 0)


def _print_resolved(name: str, found: Resolved) -> None:
    sys.stdout.write(f"{printable(name)}: {' > '.join(found.path)}\n")
    for profile in found.profiles:
        sys.stdout.write(f"profile {profile.name} ({printable(str(profile.at))}): {profile.why_not or 'holds'}\n")
    sys.stdout.write("\n")
    for one in found.values.values():
        sys.stdout.write(f"{one.setting} = {printable(_value(one.value))}\n")
        for line in _because(one):
            sys.stdout.write(f"    {printable(line)}\n")


def _because(one: Effective) -> list[str]:
    lines = []
    items = one.items()
    for item in items:
        lines.append(f"{_value(item.value)}: by {', '.join(map(str, item.decided))}")
        lines += [f"    instead of {source}" for source in reversed(item.overridden)]
    if not items:
        lines = [f"by {', '.join(map(str, one.decided))}"]
    if one.lock is not None:
        lines.append(f"locked by {one.lock}")
    said = {(source.kind, source.name) for item in items for source in item.overridden}
    return lines + [
        f"instead of {source}"
        for source in reversed(one.overridden)
        if source.at is not None and (source.kind, source.name) not in said
    ]


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@app.command()
def diff(
    old: Annotated[Path, Argument(metavar="OLD", help="Folder of policies as they are.", show_default=False)],
    new: Annotated[Path, Argument(metavar="NEW", help="The same, as they shall be.", show_default=False)],
    estate: Annotated[Path, Option(help=_ESTATE_HELP, show_default=False)],
    at: At = None,
    output_format: Format = PolicyFormat.TABLE,
) -> None:
    """What would change for whom, if NEW took the place of OLD.

    Exits 0: nothing; 1: something; 2: it could not start, or one of the two is refused.
    """
    from policy.compare import compare
    from policy.estate import read_estate
    from policy.tree import load

    changes = compare(load(old), load(new), read_estate(estate), _moment(at))
    with reader_may_leave():
        if output_format is PolicyFormat.JSON:
            _print_json(
                {
                    "changes": [
                        {"setting": one.setting, "old": one.old, "new": one.new, "instances": list(one.instances)}
                        for one in changes
                    ]
                }
            )
        else:
            print_changes(changes)
    raise Exit(1 if changes else 0)


class Changed(Protocol):
    """What changes for whom, be it compared here or told by a console, which names no more than it needs to."""

    @property
    def setting(self) -> str: ...
    @property
    def old(self) -> Any: ...
    @property
    def new(self) -> Any: ...
    @property
    def instances(self) -> tuple[str, ...]: ...


def print_changes(changes: Sequence[Changed]) -> None:
    """One paragraph for each setting; of its instances the first five."""
    for line in change_lines(changes):
        sys.stdout.write(f"{line}\n")


def change_lines(changes: Sequence[Changed]) -> list[str]:
    """Printable."""
    lines = []
    for one in changes:
        count = getattr(one, "count", len(one.instances))
        lines.append(printable(f"{one.setting}: {_or_nothing(one.old)} -> {_or_nothing(one.new)}"))
        names = [printable(name) for name in one.instances[:_SHOWN]]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        lines.append(f"    {count:,}: {', '.join(names)}{more}")
    touched = {name for one in changes for name in one.instances}
    if not changes:
        return ["Nothing changes."]
    least = max(len(touched), *(getattr(one, "count", 0) for one in changes), 0)
    exact = all(getattr(one, "count", 0) <= len(one.instances) for one in changes)
    return [*lines, "", f"Something changes for {'' if exact else 'at least '}{_count(least, 'instance')}."]


def _or_nothing(value: object) -> str:
    return "nothing" if value is None else _value(value)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a policy document, for editors.

    Exits 0: it was printed.
    """
    from policy.model import json_schema

    with reader_may_leave():
        _print_json(json_schema())


def _print_json(document: object) -> None:
    # ASCII: names and tags are foreign, and a terminal obeys U+009B as it does ESC [
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=True).replace("\x7f", "\\u007f") + "\n")


def _moment(text: str | None) -> datetime:
    return moment(text or "") or datetime.now(UTC)
