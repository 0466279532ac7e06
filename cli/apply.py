"""`kumomori policy apply` and `sync`: policies from a folder to the console, as one. They join `cli.policy`'s commands."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Exit, Option

from cli.connection import with_console
from cli.pipes import reader_may_leave
from cli.policy import Folder, print_changes
from core.errors import ConfigError, Conflict, Gone
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import DryRun, PolicyProblem, PolicySet, PolicyVersion

_SHOWN_LINES: Final = 400
DryRunOption = Annotated[bool, Option("--dry-run", help="Only say what it would do.")]
Message = Annotated[str, Option("--message", "-m", help="Why, for the history of policies.", show_default=False)]


@with_console
def apply(api: Api, folder: Folder, message: Message = "", dry_run: DryRunOption = False) -> None:
    """Apply the policies of a folder in place of all that hold now: all of it or nothing. Says what changes for whom.

    Exits 0: applied, or with --dry-run it could be; 1: refused, each problem with its place; 3: with --dry-run, it could be
    applied, but something should be looked at; 2: it could not start, or somebody else applied policies meanwhile.
    """
    wanted, now = _wanted(folder, message), _now(api)
    with reader_may_leave():
        found = _tried(api, wanted)
        _print_dry_run(found)
        if not dry_run:
            _apply(api, wanted, now)
    raise Exit(3 if dry_run and found.notes else 0)


@with_console
def sync(api: Api, folder: Folder, message: Message = "", dry_run: DryRunOption = False) -> None:
    """Apply the policies of a folder if they differ from those that hold: for pipelines that follow a repository.

    Prints how the documents differ, and what changes for whom. Exits 0: they are the same now; 1: refused, each problem with its
    place; 3: with --dry-run, they differ; 2: it could not start, or somebody else applied policies meanwhile.
    """
    wanted, now = _wanted(folder, message), _now(api)
    holding = (now.documents if now else None) or {}
    if dict(wanted.documents) == dict(holding):
        sys.stdout.write("The same policies hold already: nothing to do.\n")
        return
    with reader_may_leave():
        _print_diff(holding, wanted.documents)
        _print_dry_run(_tried(api, wanted))
        if not dry_run:
            _apply(api, wanted, now)
    raise Exit(3 if dry_run else 0)


def _wanted(folder: Path, message: str) -> PolicySet:
    """Raises `Exit` 1 after it said what cannot be read."""
    from client.model import PolicySet
    from policy.document import Refused, texts

    try:
        found = texts(folder)
    except Refused as error:
        for problem in error.problems:
            sys.stdout.write(f"{printable(str(problem))}\n")
        raise Exit(1) from None
    return PolicySet(documents=found, message=message)


def _now(api: Api) -> PolicyVersion | None:
    try:
        found = api.policies()
    except Gone:
        return None
    return found if found.version else None


def _tried(api: Api, wanted: PolicySet) -> DryRun:
    """Raises `Exit` 1 after it said what is refused."""
    from client.api import Refused

    try:
        found = api.dry_run(wanted)
        problems = found.problems
    except Refused as error:
        if not error.problems:
            raise
        problems = error.problems
    if problems:
        _print_problems(problems)
        raise Exit(1)
    return found


def _print_problems(problems: tuple[PolicyProblem, ...]) -> None:
    for one in problems:
        sys.stdout.write(f"{printable(f'{one.document}:{one.line}:{one.column}: {one.problem}')}\n")
    count = len(problems)
    sys.stdout.write(f"\n{count} problem{'' if count == 1 else 's'}; nothing was applied.\n")


def _print_dry_run(found: DryRun) -> None:
    for note in found.notes:
        sys.stdout.write(f"note: {printable(note)}\n")
    print_changes(found.changes)


def _print_diff(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    lines: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name, "").splitlines(), new.get(name, "").splitlines()
        lines += difflib.unified_diff(before, after, f"holding/{name}", f"folder/{name}", lineterm="", n=2)
    for line in lines[:_SHOWN_LINES]:
        sys.stdout.write(f"{printable(line)}\n")
    if len(lines) > _SHOWN_LINES:
        sys.stdout.write(f"… and {len(lines) - _SHOWN_LINES:,} more lines\n")
    sys.stdout.write("\n")


def _apply(api: Api, wanted: PolicySet, now: PolicyVersion | None) -> None:
    from client.api import Refused

    try:
        done = api.apply_policies(wanted, etag=now.etag if now else None)
    except Conflict as error:
        raise ConfigError(
            f"somebody else applied policies meanwhile, so nothing was changed ({error}); look at theirs, then run it again"
        ) from None
    except Refused as error:
        if not error.problems:
            raise
        _print_problems(error.problems)
        raise Exit(1) from None
    sys.stdout.write(f"Applied: version {done.version}.\n")
