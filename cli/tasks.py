"""`kumomori sweep`, and `cloud check` and `cloud remove --clear` of an account: the fleet that serves it does it, asked through the console."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

from typer import Exit, Option

from cli.connection import with_console
from cli.pipes import reader_may_leave
from cli.scan import warn
from cli.tables import OneAs, OneFormat, ago, at, many, print_json, print_table
from core.errors import Throttled, Unavailable
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import CheckedLine, SweptLine, TaskAnswer, TaskOut

_LOOK_SECONDS: Final = 0.5
_BEGIN_SECONDS: Final = 60  # for a fleet to begin with it
Seconds = Annotated[int, Option("--timeout", metavar="SECONDS", min=1, max=600, help="How long to wait for answers.")]
_MARK: Final = {True: "yes", False: "NO", None: "not tried"}


@with_console
def sweep(
    api: Api,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would be deleted.")] = False,
    fleet: Annotated[str, Option(help="Only this fleet. [default: all]", show_default=False)] = "",
    account: Annotated[
        str, Option(metavar="CLOUD://ACCOUNT", help="Only in this account. [default: all]", show_default=False)
    ] = "",
    timeout: Seconds = 300,
    output_format: OneAs = OneFormat.TABLE,
) -> None:
    """Delete what fleets made in clouds and no scan or base needs any more. They do so by themselves all the time.

    Fleets do it, with the credentials that they have, asked through the console. What bases keep is counted, and stays. It needs a
    token of scope admin; with --dry-run, of scopes scan and read.
    Exits 0: nothing is left, or with --dry-run, nothing would be deleted; 1: with --dry-run, something would be; 3: something could
    not be deleted, a place not be entered, or a fleet did not answer; 2: it could not start.
    """
    from client.model import SweepIn

    wanted = SweepIn(fleet=fleet or None, account=account or None)
    asked = api.sweep_dry_run(wanted) if dry_run else api.sweep(wanted)
    ended = _waited(api, asked, timeout)
    if output_format is OneFormat.JSON:
        with reader_may_leave():
            for one in ended:
                print_json(one)
    else:
        for one in ended:
            if one.answer is not None:
                _tell_swept(one, one.answer, several=len(ended) > 1)
    raise Exit(_swept_verdict(ended, dry_run=dry_run))


def _tell_swept(task: TaskOut, answer: TaskAnswer, *, several: bool) -> None:
    if several:
        warn(f"fleet {task.fleet}:")
    for one in answer.swept:
        warn(_swept_words(one, dry_run=task.dry_run))
    if answer.more:
        warn(f"and {answer.more:,} more")
    if answer.problem:
        warn(f"not all was done: {answer.problem}")
    elif not answer.swept:
        warn("nothing to delete")
    if answer.bases:
        size = f"{answer.bases_bytes / (1 << 30):,.0f} GiB"
        warn(f"{many(answer.bases, 'snapshot')} kept as bases of the next scans, of {size} of disks")
    if answer.evidence:
        until = f" until {at(answer.evidence_until)}" if answer.evidence_until else ""
        warn(
            f"{many(answer.evidence, 'snapshot')} kept as evidence{until}: copy what you need, then delete them by "
            f"`kumomori cloud remove {task.account} --clear --evidence`"
        )


def _swept_words(one: SweptLine, *, dry_run: bool) -> str:
    name = f"{one.kind} {one.id or 'of ' + one.of}" if one.kind else "not entered"
    size = f" ({one.size_bytes / (1 << 30):g} GiB)" if one.size_bytes else ""
    done = one.problem or ("would be deleted" if dry_run else "deleted")
    return ": ".join(filter(None, (one.place, f"{name}{size}", done)))


def _swept_verdict(ended: Sequence[TaskOut], *, dry_run: bool) -> int:
    answers = [one.answer for one in ended]
    if any(one is None or one.problem or any(line.problem for line in one.swept) for one in answers):
        return 3
    return 1 if dry_run and any(one is not None and one.swept for one in answers) else 0


def clear(api: Api, account: str, fleet: str, *, evidence: bool, timeout: int = 300) -> int:
    """Ask for the end of what is kept in `account`, which was removed, and say what was deleted; how the command ends."""
    from client.model import ClearIn

    asked = api.clear(ClearIn(account=account, fleet=fleet or None, evidence=evidence))
    if not asked:
        warn("no such fleet has registered, so none keeps anything there" if fleet else "no fleet has registered yet")
    ended = _waited(api, asked, timeout)
    for one in ended:
        if one.answer is not None:
            _tell_swept(one, one.answer, several=len(ended) > 1)
    kept = any(one.answer is not None and one.answer.evidence for one in ended)
    return 3 if kept else _swept_verdict(ended, dry_run=False)


def check(api: Api, account: str, timeout: int = 300) -> int:
    """Ask the fleet of `account` (cloud://account), print what it may do there; how the command ends."""
    from client.model import CheckIn

    (task,) = _waited(api, [api.check(CheckIn(account=account))], timeout)
    answer = task.answer
    if answer is None:
        return 3
    with reader_may_leave():
        _print_checked(answer.checked)
        sys.stdout.write(f"Tried by the fleet {printable(task.fleet)}, with what it was given for the account.\n")
        if answer.installation:
            sys.stdout.write(f"The name that its policies are bound to: {printable(answer.installation)}\n")
    if answer.problem:
        warn(f"not all was tried: {answer.problem}")
    if any(one.ok is False for one in answer.checked):
        return 1
    return 3 if answer.problem or answer.more or any(one.ok is None for one in answer.checked) else 0


def _detail(one: CheckedLine) -> str:
    """Without the advice, which is told once below the table."""
    return one.detail.removesuffix(one.advice).rstrip(": ") if one.advice else one.detail


def _print_checked(found: Sequence[CheckedLine]) -> None:
    print_table(
        ("Where!", "Permission!", "Given", ""),
        [(one.place, one.permission, _MARK[one.ok], _detail(one)) for one in found],
    )
    for advice in dict.fromkeys(one.advice for one in found if one.advice):
        sys.stdout.write(f"{printable(advice)}\n")
    missing, untried = (sum(one.ok is ok for one in found) for ok in (False, None))
    left = f"{many(untried, 'check')} could not be tried." if untried else ""
    said = f"{many(missing, 'check')} failed." if missing else "Nothing is missing." if found else ""
    sys.stdout.write("\n" + " ".join(filter(None, (said, left))) + "\n")


def _waited(api: Api, asked: Sequence[TaskOut], timeout: int) -> list[TaskOut]:
    """The tasks once they are answered, or nobody waits any longer. While the console is away, it is asked again."""
    known = {one.id: one for one in asked}
    began = time.monotonic()
    said: set[str] = set()
    waiting = list(known)
    while waiting:
        pause = _LOOK_SECONDS
        try:
            for name in waiting:
                known[name] = api.task(name)
                _progress(known[name], said)
        except Throttled as error:
            pause = max(pause, error.after)
        except Unavailable as error:
            warn(f"{error}; it is asked again")
            pause = 10 * _LOOK_SECONDS
        passed = time.monotonic() - began
        late = [name for name in waiting if passed > (timeout if known[name].fetched else min(timeout, _BEGIN_SECONDS))]
        for name in late:
            if known[name].answered is None:
                warn(_unanswered(api, known[name], int(passed)))
        waiting = [name for name in waiting if known[name].answered is None and name not in late]
        time.sleep(pause if waiting else 0)
    return list(known.values())


def _progress(task: TaskOut, said: set[str]) -> None:
    """Once when it is asked, once when it begins, for who sits there."""
    if task.answered is None and sys.stderr.isatty():
        words = f"fleet {task.fleet}: {'at it' if task.fetched else 'asked'} …"
        if words not in said:
            said.add(words)
            warn(words)


def _unanswered(api: Api, task: TaskOut, seconds: int) -> str:
    """What somebody can do about a fleet that does not answer."""
    words = f"fleet {task.fleet}: no answer within {seconds} seconds"
    if task.fetched is not None:
        return f"{words}: it began {ago(task.fetched)} and is still at it; ask again later, its log says more"
    try:
        seen = next((one.seen for one in api.fleets() if one.name == task.fleet), None)
    except (Throttled, Unavailable):
        seen = None
    last = f"it was last heard of {ago(seen)}" if seen else "it was never heard of"
    return (
        f"{words}: it has not begun, {last}. See that its `kumomori worker` (or `kumomori up`) runs and reaches the console; "
        f"if it does before {at(task.expires)}, it is still done"
    )
