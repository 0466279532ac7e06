"""`kumomori scans`, `scan start|show|stop|pause|resume` and `schedule`: scans that a fleet makes, by order of the console."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

from typer import Argument, Exit, Option, Typer

from cli import names
from cli.connection import with_console
from cli.names import OfInstance
from cli.pipes import reader_may_leave
from cli.tables import (
    ListAs,
    ListFormat,
    OneAs,
    OneFormat,
    ago,
    at,
    found,
    many,
    number,
    print_json,
    print_list,
    print_pairs,
)
from cli.times import moment
from core.errors import ConfigError, Error, Throttled, Unavailable
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import ScanOut, Upcoming

app = Typer(no_args_is_help=True, help="When scans are due, and holding them back.", rich_markup_mode=None)
_LOOK_SECONDS: Final = 1.0
_FLEET_SECONDS: Final = 5.0  # from when on a scan that stays ordered makes us ask for its fleet
_SILENT_SECONDS: Final = 20.0  # a fleet says every few seconds that it is there
_SHOWN: Final = 8  # characters of a digest
ScanArgument = Annotated[str, Argument(metavar="SCAN", help="Its id, or the beginning of it.", show_default=False)]
Wait = Annotated[bool, Option("--wait", help="Wait until they have ended; Ctrl-C ends only the waiting.")]


class StateFilter(StrEnum):
    ORDERED = "ordered"
    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    MISSED = "missed"
    GONE = "gone"


@with_console
def scans(
    api: Api,
    state: Annotated[StateFilter | None, Option(help="Only in this state.", show_default=False)] = None,
    instance: OfInstance = "",
    most: Annotated[int, Option(min=1, max=100_000, help="Show no more than this many.")] = 50,
    output_format: ListAs = ListFormat.TABLE,
) -> None:
    """Scans of machines and images, newest first.

    Exits 0: they were listed; 2: it could not start.
    """
    from client.model import ScanState

    with reader_may_leave():
        listed = api.scans(
            state=ScanState(state.value) if state else None,
            machine=names.instance_key(api, instance) if instance else "",
            page=min(most, 1_000),
        )
        _print_scans(islice(listed, most), output_format)


def _print_scans(rows: Iterable[ScanOut], output_format: ListFormat) -> None:
    titles = ("Scan!", "Machine!", "Why!", "Result", "Blocks", "Price!", "When")
    print_list(rows, output_format, titles, _words, "scan")


def _words(one: ScanOut) -> tuple[str, ...]:
    state = f"{one.state.value}: {one.step}" if one.step and one.ended is None else one.state.value
    result = found(one.result, one.findings, one.gaps) if one.result else state
    read = f"{one.blocks_read:,}{', full' if one.mode == 'full' else ''}" if one.mode else ""
    when = ago(one.ended or one.started) or ago(one.due)
    price = f"${one.usd:.{6 if one.usd < 0.01 else 2}f}" if one.usd else ""
    return (_short(one.id), names.short(one.machine), one.why.value, result, read, price, when)


def _short(scan: str) -> str:
    """Enough of an id to be typed: `01234567` of `instance-0123456789…`."""
    return scan.rpartition("-")[2][:_SHOWN]


@with_console
def start(
    api: Api,
    instances: Annotated[
        list[str], Argument(metavar="INSTANCE...", help="Names, ids or whole addresses.", show_default=False)
    ],
    full: Annotated[
        bool, Option("--full", help="Look at everything, not only at what changed since the last.")
    ] = False,
    wait: Wait = False,
    output_format: ListAs = ListFormat.TABLE,
) -> None:
    """Order scans of instances, now: the fleet that serves their account makes them, before all others that wait.

    Exits 0: they are ordered; 2: it could not start. With --wait, 0: all ended clean; 1: there are findings; 3: no findings, but
    gaps, or a scan did not get to its end.
    """
    from client.model import ScanIn

    keys = tuple(names.instance_key(api, one) for one in instances)
    ordered = list(api.start(ScanIn(instances=keys, full=full)))
    if wait:
        ordered = _waited(api, ordered)
    with reader_may_leave():
        _print_scans(ordered, output_format)
    raise Exit(_verdict(ordered) if wait else 0)


def _waited(api: Api, ordered: Sequence[ScanOut]) -> list[ScanOut]:
    """The scans once they have ended. While the console is away, it is asked again."""
    from client.model import ENDED

    known = {one.id: one for one in ordered}
    said: dict[str, str] = {}
    fleets = _Fleets(api)
    while waiting := [one for one in known.values() if one.state not in ENDED]:
        pause = _LOOK_SECONDS
        for one in waiting:
            try:
                known[one.id] = now = api.scan(one.id)
            except Throttled as error:
                pause = max(pause, error.after)
                break
            except Unavailable as error:
                _tell(f"{error}; it is asked again")
                pause = 5 * _LOOK_SECONDS
                break
            words = ": ".join(filter(None, (now.state.value, now.step, now.detail.removeprefix(f"{now.machine}: "))))
            if said.get(one.id) != words:
                said[one.id] = words
                _tell(f"{now.machine}: {words}")
        fleets.look(known.values())
        time.sleep(pause)
    return list(known.values())


class _Fleets:
    """Says once of a fleet that it does not fetch what it is ordered. Reckons by the console's clock alone."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._began = time.monotonic()
        self._looks_at = _FLEET_SECONDS
        self._told: set[str] = set()

    def look(self, scans: Iterable[ScanOut]) -> None:
        passed = time.monotonic() - self._began
        ordered = [one for one in scans if one.state.value == StateFilter.ORDERED.value and one.fleet not in self._told]
        if not ordered or passed < self._looks_at:
            return
        self._looks_at = passed + _FLEET_SECONDS
        try:
            seen = {one.name: one.seen or one.registered for one in self._api.fleets()}
        except Error:
            return  # of a console that is away, asking for the scans tells
        now = max([one.ordered + timedelta(seconds=passed) for one in ordered] + list(seen.values()))
        for name in sorted({one.fleet for one in ordered}):
            if name not in seen:
                words = "was never heard of; `kumomori up` or `kumomori worker` starts it."
            elif now - seen[name] > timedelta(seconds=_SILENT_SECONDS):
                words = f"was last heard of at {at(seen[name])}; is it running?"
            else:
                continue
            self._told.add(name)
            _tell(f"the fleet {name} {words} Its scans stay ordered until it fetches them")


def _verdict(ended: Sequence[ScanOut]) -> int:
    from client.model import ScanState

    if any(one.result == "findings" for one in ended):
        return 1
    return 0 if all(one.state is ScanState.DONE and one.result == "clean" for one in ended) else 3


@with_console
def show(
    api: Api,
    scan: ScanArgument,
    report: Annotated[bool, Option("--report", help="Print its whole report, as JSON (docs/report.md).")] = False,
    output_format: OneAs = OneFormat.TABLE,
) -> None:
    """One scan: where it is, or what came of it.

    Exits 0: it was shown; 2: there is none, or it could not start.
    """
    name = names.scan_id(api, scan)
    with reader_may_leave():
        if report:
            sys.stdout.write(_ascii(api.report(name)) + "\n")
            return
        one = api.scan(name)
        if output_format is OneFormat.JSON:
            print_json(one, indent=2)
            return
        print_pairs(
            (
                ("Scan", one.id),
                ("Machine", one.machine),
                ("Kind", one.kind.value),
                ("Why", one.why.value),
                ("State", f"{one.state.value}{': ' + one.step if one.step else ''}"),
                ("Detail", one.detail),
                ("Fleet", one.fleet),
                ("Ordered", at(one.ordered)),
                ("Due", at(one.due)),
                ("Started", at(one.started)),
                ("Ended", at(one.ended)),
                ("Result", one.result),
                ("Findings", number(one.findings)),
                ("Gaps", number(one.gaps)),
                ("Read", f"{one.mode}: {many(one.blocks_read, 'block')}, {one.bytes_read:,} bytes" if one.mode else ""),
                ("Price", f"${one.usd:.6f}" if one.usd else ""),
                ("Policies", f"version {one.policy_version}" if one.policy_version else ""),
            )
        )


def _ascii(body: bytes) -> str:
    """JSON as it came, but for characters that a terminal would obey. Beyond ASCII there is nothing outside of its strings."""
    text = body.decode("utf-8", "replace").strip()
    if text.isascii():
        return text
    return "".join(one if one.isascii() else _escaped(one) for one in text)


def _escaped(char: str) -> str:
    raw = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(raw[i : i + 2]):04x}" for i in range(0, len(raw), 2))


@with_console
def stop(api: Api, scan: ScanArgument) -> None:
    """Stop a scan: what it made in the cloud is taken away, and it has no result.

    Exits 0: it will stop; 2: it has ended already, or there is none.
    """
    _tell_state(api.stop(names.scan_id(api, scan)))


@with_console
def pause(api: Api, scan: ScanArgument) -> None:
    """Pause a scan after the step that it is at.

    Exits 0: it will pause; 2: it has ended already, or there is none.
    """
    _tell_state(api.pause(names.scan_id(api, scan)))


@with_console
def resume(api: Api, scan: ScanArgument) -> None:
    """Go on with a paused scan.

    Exits 0: it goes on; 2: it has ended already, or there is none.
    """
    _tell_state(api.resume(names.scan_id(api, scan)))


def _tell_state(one: ScanOut) -> None:
    sys.stdout.write(f"{printable(one.id)} of {printable(one.machine)}: {one.state.value}\n")


def _tell(text: str) -> None:
    sys.stderr.write(f"kumomori: {printable(text)}\n")


@app.callback()
def _schedule() -> None:
    """When scans are due, and holding them back."""


@app.command("list", short_help="What is due next, and what is held.")
@with_console
def list_schedule(
    api: Api,
    most: Annotated[int, Option(min=1, max=100_000, help="Show no more than this many.")] = 50,
    output_format: ListAs = ListFormat.TABLE,
) -> None:
    """When each machine is scanned next, the soonest first; and which scans are held back, by whom and why.

    Exits 0: it was listed; 2: it could not start.
    """
    pages = api.schedule(page=min(most, 1_000))
    due: list[Upcoming] = []
    with reader_may_leave():
        for index, page in enumerate(pages):
            if index == 0 and output_format is ListFormat.TABLE:
                for one in page.holds:
                    until = f" until {at(one.until)}" if one.until else ""
                    words = f"held: {one.scope}{until}, by {one.by}{': ' + one.why if one.why else ''}"
                    sys.stdout.write(f"{printable(words)}\n")
            due += page.items
            if len(due) >= most:
                break
        titles = ("Due!", "!", "Instance!", "Policy", "!")
        print_list(due[:most], output_format, titles, _due_words, "machine")


def _due_words(one: Upcoming) -> tuple[str, ...]:
    return (at(one.due), ago(one.due), names.short(one.instance), one.policy, "held" if one.held else "")


HoldScope = Annotated[
    str, Argument(metavar="SCOPE", help="`all`, `cloud://account`, or an instance.", show_default=False)
]


@app.command(short_help="Start no scheduled scans for a while.")
@with_console
def hold(
    api: Api,
    scope: HoldScope,
    why: Annotated[str, Option(help="Why: others will read it.", show_default=False)] = "",
    until: Annotated[
        str, Option(help="Until when, like 2027-01-31T12:00. [default: until it is released]", show_default=False)
    ] = "",
) -> None:
    """Hold scheduled scans back: of everything, an account or an instance. Those that run go on.

    Exits 0: they are held; 2: it could not start.
    """
    from client.model import Hold

    done = api.hold(Hold(scope=_scope(api, scope), why=why, until=moment(until)))
    sys.stdout.write(f"held: {printable(done.scope)}{' until ' + at(done.until) if done.until else ''}\n")


@app.command(short_help="Let scheduled scans start again.")
@with_console
def release(api: Api, scope: HoldScope) -> None:
    """Take a hold back.

    Exits 0: it is released; 2: there is none, or it could not start.
    """
    name = _scope(api, scope)
    api.release(name)
    sys.stdout.write(f"released: {printable(name)}\n")


def _scope(api: Api, word: str) -> str:
    if word == "all" or "://" in word:
        return word
    try:
        return names.instance_key(api, word)
    except ConfigError as error:
        raise ConfigError(f"{error}; a scope is `all`, cloud://account or an instance") from None
