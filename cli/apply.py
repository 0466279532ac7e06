"""`kumomori policy apply` and `sync`: policies from a folder to the console, as one. They join `cli.policy`'s commands.

Documents below `pulumi/` belong to programs (infra/console): a folder changes all others, and these stay as they are.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Exit, Option

from cli.comment import Comment
from cli.connection import with_console
from cli.pipes import reader_may_leave
from cli.policy import Folder, change_lines, print_changes
from core.errors import ConfigError, Conflict, Gone
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import DryRun, PolicyProblem, PolicySet, PolicyVersion

_SHOWN_LINES: Final = 400
DryRunOption = Annotated[bool, Option("--dry-run", help="Only say what it would do.")]
Message = Annotated[str, Option("--message", "-m", help="Why, for the history of policies.", show_default=False)]


class SyncFormat(StrEnum):
    TEXT = "text"
    MARKDOWN = "markdown"


@dataclass(frozen=True, slots=True)
class _Sets:
    """What shall hold and what does; `kept` are the documents of programs in both."""

    wanted: PolicySet
    now: PolicyVersion | None
    kept: Mapping[str, str]

    @property
    def holding(self) -> Mapping[str, str]:
        return (self.now.documents if self.now else None) or {}

    def differing(self) -> list[str]:
        names = sorted({*self.holding, *self.wanted.documents})
        return [name for name in names if self.holding.get(name) != self.wanted.documents.get(name)]


class _Problems(Exception):
    """Each with its place, as a line."""

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__()
        self.lines = [printable(line) for line in lines]


@with_console
def apply(api: Api, folder: Folder, message: Message = "", dry_run: DryRunOption = False) -> None:
    """Apply the policies of a folder in place of all that hold now: all of it or nothing. Says what changes for whom.

    What belongs to programs (pulumi/...) stays as it is. Exits 0: applied, or with --dry-run it could be; 1: refused, each problem
    with its place; 3: with --dry-run, it could be applied, but something should be looked at; 2: it could not start, or somebody else
    applied policies meanwhile.
    """
    with reader_may_leave():
        try:
            sets = _sets(api, folder, message)
            _print_kept(sets.kept)
            found = _tried(api, sets.wanted)
            _print_dry_run(found)
            if not dry_run:
                _apply(api, sets)
        except _Problems as error:
            _print_problems(error)
            raise Exit(1) from None
    raise Exit(3 if dry_run and found.notes else 0)


@with_console
def sync(
    api: Api,
    folder: Folder,
    message: Message = "",
    dry_run: DryRunOption = False,
    output_format: Annotated[
        SyncFormat, Option("--format", help="With --dry-run: `markdown` is a comment for a pull request.")
    ] = SyncFormat.TEXT,
) -> None:
    """Apply the policies of a folder if they differ from those that hold: for pipelines that follow a repository.

    Prints how the documents differ, and what changes for whom. What belongs to programs (pulumi/...) stays as it is. Exits 0: they are the
    same now; 1: refused, each problem with its place; 3: with --dry-run, they differ; 2: it could not start, or somebody else
    applied policies meanwhile.
    """
    if output_format is SyncFormat.MARKDOWN:
        if not dry_run:
            raise ConfigError("--format markdown is for --dry-run")
        _sync_as_comment(api, folder, message)
    with reader_may_leave():
        try:
            sets = _sets(api, folder, message)
            _print_kept(sets.kept)
            if not sets.differing():
                sys.stdout.write("The same policies hold already: nothing to do.\n")
                return
            _print_diff(sets)
            _print_dry_run(_tried(api, sets.wanted))
            if not dry_run:
                _apply(api, sets)
        except _Problems as error:
            _print_problems(error)
            raise Exit(1) from None
    raise Exit(3 if dry_run else 0)


def _sync_as_comment(api: Api, folder: Path, message: str) -> None:
    """Raises `Exit`."""
    sets: _Sets | None = None
    try:
        sets = _sets(api, folder, message)
        differing = sets.differing()
        found = _tried(api, sets.wanted) if differing else None
    except _Problems as error:
        diff = _diff(sets) if sets else ()
        comment, code = Comment(0, diff, problems=error.lines, of_programs=len(sets.kept) if sets else 0), 1
    else:
        changes, notes = (change_lines(found.changes), found.notes) if found else ((), ())
        comment = Comment(len(differing), _diff(sets), changes, notes, of_programs=len(sets.kept))
        code = 3 if differing else 0
    with reader_may_leave():
        sys.stdout.write(str(comment))
    raise Exit(code)


def _sets(api: Api, folder: Path, message: str) -> _Sets:
    """Raises `_Problems` for what cannot be read, `ConfigError` for a folder with documents of programs."""
    from client.model import OF_PROGRAMS, PolicySet
    from policy.document import Refused, texts

    try:
        found = texts(folder)
    except Refused as error:
        raise _Problems(map(str, error.problems)) from None
    if theirs := next((name for name in found if name.startswith(OF_PROGRAMS)), None):
        raise ConfigError(
            f"{printable(theirs)}: documents below {OF_PROGRAMS} belong to Pulumi programs; give this folder another name"
        )
    now = _now(api)
    kept = {
        name: text for name, text in ((now.documents if now else None) or {}).items() if name.startswith(OF_PROGRAMS)
    }
    return _Sets(PolicySet(documents=found | kept, message=message), now, kept)


def _now(api: Api) -> PolicyVersion | None:
    try:
        found = api.policies()
    except Gone:
        return None
    return found if found.version else None


def _tried(api: Api, wanted: PolicySet) -> DryRun:
    """Raises `_Problems`."""
    from client.api import Refused

    try:
        found = api.dry_run(wanted)
        problems = found.problems
    except Refused as error:
        if not error.problems:
            raise
        problems = error.problems
    if problems:
        raise _Problems(map(_place, problems))
    return found


def _place(one: PolicyProblem) -> str:
    return f"{one.document}:{one.line}:{one.column}: {one.problem}"


def _print_problems(error: _Problems) -> None:
    for line in error.lines:
        sys.stdout.write(f"{line}\n")
    count = len(error.lines)
    sys.stdout.write(f"\n{count} problem{'' if count == 1 else 's'}; nothing was applied.\n")


def _print_kept(kept: Mapping[str, str]) -> None:
    if kept:
        owners = sorted({"/".join(name.split("/")[1:3]) for name in kept})
        named = printable(", ".join(owners[:5])) + (f" and {len(owners) - 5:,} more" if len(owners) > 5 else "")
        noun = "document belongs" if len(kept) == 1 else "documents belong"
        sys.stdout.write(f"{len(kept):,} {noun} to programs ({named}): left as they are.\n")


def _print_dry_run(found: DryRun) -> None:
    for note in found.notes:
        sys.stdout.write(f"note: {printable(note)}\n")
    if found.changes:
        print_changes(found.changes)
    else:
        sys.stdout.write("Nothing changes for any instance that is there.\n")


def diff_lines(old: Mapping[str, str], new: Mapping[str, str], old_is: str, new_is: str) -> list[str]:
    """How documents differ, by name."""
    lines: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name, "").splitlines(), new.get(name, "").splitlines()
        lines += difflib.unified_diff(before, after, f"{old_is}/{name}", f"{new_is}/{name}", lineterm="", n=2)
    return lines


def print_lines(lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN_LINES]:
        sys.stdout.write(f"{printable(line)}\n")
    if len(lines) > _SHOWN_LINES:
        sys.stdout.write(f"… and {len(lines) - _SHOWN_LINES:,} more lines\n")


def _diff(sets: _Sets) -> list[str]:
    return diff_lines(sets.holding, sets.wanted.documents, "holding", "folder")


def _print_diff(sets: _Sets) -> None:
    print_lines(_diff(sets))
    sys.stdout.write("\n")


def _apply(api: Api, sets: _Sets) -> None:
    """Raises `_Problems`."""
    from client.api import Refused

    try:
        done = api.apply_policies(sets.wanted, etag=sets.now.etag if sets.now else None)
    except Conflict as error:
        raise ConfigError(
            f"somebody else applied policies meanwhile, so nothing was changed ({error}); look at theirs, then run it again"
        ) from None
    except Refused as error:
        if not error.problems:
            raise
        raise _Problems(map(_place, error.problems)) from None
    if sets.now and done.version == sets.now.version:
        sys.stdout.write(f"The same policies hold already: version {done.version}.\n")
    else:
        sys.stdout.write(f"Applied: version {done.version}.\n")
