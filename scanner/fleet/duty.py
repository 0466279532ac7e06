"""What a fleet does besides scanning, each duty a process of its own: `python -m scanner.fleet.duty link|watch|sweep`.

The process holds the slot of that name, so that of several machines of one fleet one does it; the others wait for its lease
to end. Ends with 0 after SIGTERM or SIGINT, 2 if it could not start, 75 if its slot was lost.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn, Protocol, cast

from core.errors import ConfigError, Unavailable
from scanner.fleet.database import Database
from scanner.fleet.migrations import upgrade
from scanner.fleet.patience import Outage
from scanner.fleet.settings import Settings
from scanner.fleet.slots import Fence, Fenced, Silence, Slot, claim, release

EXIT_FENCED: Final = os.EX_TEMPFAIL
EXIT_FAULT: Final = os.EX_SOFTWARE
DUTIES: Final[Mapping[str, str]] = {
    "link": "scanner.fleet.link",
    "watch": "scanner.fleet.watch",
    "sweep": "scanner.fleet.sweeping",
}
_GRACE_SECONDS: Final = 3.0


class Duty(Protocol):
    """What a module of `DUTIES` has as `run`: until `ended`; raises `Fenced` when the slot is lost."""

    def __call__(self, settings: Settings, database: Database, fence: Fence, ended: threading.Event) -> None: ...


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m scanner.fleet.duty", description="Does one duty of a fleet.")
    parser.add_argument("duty", choices=sorted(DUTIES))
    name = parser.parse_args(arguments).duty
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        settings = Settings.from_environment(os.environ)
        database = Database(settings.database.get_secret_value())
        _ready(database, name, ended)
        slot = _taken(database, settings, name, ended)
        duty = cast(Duty, importlib.import_module(DUTIES[name]).run)
    except ConfigError as error:
        _say(f"{name}: {error}")
        os._exit(2)
    if slot is None:
        os._exit(0)
    _carry_out(duty, settings, database, slot, ended)


def _ready(database: Database, name: str, ended: threading.Event) -> None:
    """The tables are there. Waits while the database is away."""
    outage = Outage(lambda words: _say(f"{name}: {words}"))
    while not ended.is_set():
        try:
            upgrade(database)
        except Unavailable as error:
            outage.problem(error)
            ended.wait(1)
        else:
            return


def _taken(database: Database, settings: Settings, name: str, ended: threading.Event) -> Slot | None:
    """Waits until nobody else has the duty; None if it was told to end first."""
    holder, worker = str(uuid.uuid4()), f"{socket.gethostname()}, process {os.getpid()}"
    silence, outage = Silence(), Outage(lambda words: _say(f"{name}: {words}"))
    while not ended.is_set():
        try:
            if slot := claim(database, holder, [name], settings.lease_seconds, worker=worker, silence=silence):
                return slot
            outage.over()
        except Unavailable as error:
            outage.problem(error)
        ended.wait(min(settings.poll_seconds, settings.lease_seconds / 10))
    return None


def _carry_out(duty: Duty, settings: Settings, database: Database, slot: Slot, ended: threading.Event) -> NoReturn:
    """In a thread, as a call to a cloud or the console may take long to come back when it is told to end."""

    def lost(reason: str) -> None:
        _say(f"{slot.name}: {reason}; this process ends")
        os._exit(EXIT_FENCED)

    with Fence(database, slot, lost=lost) as fence:
        code: list[int] = []
        thread = threading.Thread(
            target=_guarded, args=(lambda: duty(settings, database, fence, ended), code), daemon=True
        )
        thread.start()
        while thread.is_alive() and not ended.wait(0.2):
            pass
        ended.set()
        thread.join(_GRACE_SECONDS)
    try:
        release(database, slot)  # what a call still brings is not written any more: the fence holds it back
    except Unavailable:
        pass
    os._exit(code[0] if code else 0)


def _guarded(work: Callable[[], None], code: list[int]) -> None:
    try:
        work()
    except Fenced:
        code.append(EXIT_FENCED)
    except BaseException:  # noqa: BLE001  the process ends, and the supervisor starts another
        traceback.print_exc()
        code.append(EXIT_FAULT)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
