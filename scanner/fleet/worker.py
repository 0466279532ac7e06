"""A worker: one process that leases a slot and runs its scans. `python -m scanner.fleet.worker --database URL`

Ends with 0 after SIGTERM or SIGINT, 1 after a fault (told on stderr), 2 if it could not start, 75 if its slot was lost: then nothing of it goes on, its
children are killed, and who started it may start another. It knows nothing of scans: `--work` names the module that does.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import socket
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NoReturn, Protocol, cast

from core.errors import ConfigError, Unavailable
from core.text import printable
from scanner.fleet import engine
from scanner.fleet.database import Database
from scanner.fleet.patience import Outage
from scanner.fleet.settings import PREFIX
from scanner.fleet.slots import Fence, Fenced, Silence, Slot, boot_seconds, claim, release, wait_for

EXIT_FENCED: Final = os.EX_TEMPFAIL
_FORGET_SECONDS: Final = 600.0  # between looks for what may be forgotten
_SLOT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


class Work(Protocol):
    """The fleet's list of scans, as a worker sees it."""

    def claimed(self, fence: Fence) -> Sequence[str]:
        """All scans of this slot that are not ended, after taking more if there is room. Raises `Unavailable`.

        What it writes is guarded by `fence.guard`. Each is begun under its id, now or when the worker starts again.
        """
        ...

    def leave(self) -> None:
        """Take no more, and let what runs go back to wait for another worker."""
        ...

    def ended(self, fence: Fence, scan_id: str, status: engine.Status) -> None:
        """The workflow of a scan that is still in the list has ended. Raises `Unavailable`."""
        ...


class WorkModule(Protocol):
    """What `--work` names."""

    def scan(self, scan_id: str) -> None:
        """A workflow, made by `engine.durable`."""
        ...

    def work(self, database: Database, fence: Fence) -> Work: ...


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m scanner.fleet.worker", description="Runs the scans of one slot.")
    parser.add_argument(
        "--database",
        metavar="URL",
        default=os.environ.get(f"{PREFIX}DATABASE"),
        help=f"sqlite:///path or postgresql://user@host/name; one with a password stands in {PREFIX}DATABASE instead",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--slot", help="this slot and no other")
    place.add_argument(
        "--slots", type=int, default=4, help="any of slot-1 … slot-N, as soon as one is free (%(default)s)"
    )
    parser.add_argument(
        "--pool", default="slot", metavar="NAME", help="with --slots: what their names begin with (%(default)s)"
    )
    parser.add_argument(
        "--visit",
        action="store_true",
        help="for a while: ends as soon as nothing is due or no slot is free; asked to end, it gives back what has not ended; changes no table",
    )
    parser.add_argument("--lease", type=float, default=30.0, metavar="SECONDS", help="of a slot (%(default)g)")
    parser.add_argument(
        "--poll", type=float, default=1.0, metavar="SECONDS", help="between looks for work (%(default)g)"
    )
    parser.add_argument(
        "--grace", type=float, default=300.0, metavar="SECONDS", help="for running steps at the end (%(default)g)"
    )
    parser.add_argument(
        "--remember", type=float, default=86_400.0, metavar="SECONDS", help="what ended workflows did (%(default)g)"
    )
    parser.add_argument("--work", default="scanner.fleet.workflow", metavar="MODULE", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        _check(options)
        module = cast(WorkModule, importlib.import_module(options.work))
        database = Database(options.database)
        database.check()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))  # nothing is begun yet
        slot = _taken(database, options)
        if slot is None:
            _say("all slots are taken")
            os._exit(0)
        _run(database, slot, module, options)
    except ConfigError as error:
        _say(str(error))
        os._exit(2)
    except Exception:  # noqa: BLE001  the engine's threads may be left, which an ordinary end would wait for
        traceback.print_exc()
        _kill_children()
        os._exit(1)


def _check(options: argparse.Namespace) -> None:
    if not options.database:
        raise ConfigError(f"which database? Give --database or set {PREFIX}DATABASE")
    if options.slot is not None and not _SLOT_NAME.fullmatch(options.slot):
        raise ConfigError(f"{printable(options.slot)}: no name for a slot: use a-z, 0-9, _ and -")
    if not _SLOT_NAME.fullmatch(f"{options.pool}-10000"):
        raise ConfigError(f"{printable(options.pool)[:100]}: no name for slots: use a-z, 0-9, _ and -")
    if not 1 <= options.slots <= 10_000:
        raise ConfigError("--slots: give 1 to 10000")
    if not (1 <= options.lease <= 3600 and 0.01 <= options.poll <= 60 and 0 <= options.grace <= 86_400):
        raise ConfigError("--lease takes 1 to 3600 seconds, --poll 0.01 to 60, --grace 0 to 86400")


def _taken(database: Database, options: argparse.Namespace) -> Slot | None:
    """Waits for a slot; one that is named is refused if somebody alive has it. None: a visit finds none free."""
    holder, worker = str(uuid.uuid4()), f"{socket.gethostname()}, process {os.getpid()}"
    pause = min(options.poll, options.lease / 10)
    outage = Outage(_say)
    if options.slot is not None:
        return wait_for(
            database, holder, options.slot, options.lease, worker=worker, pause_seconds=pause, away=outage.problem
        )
    names = [f"{options.pool}-{number}" for number in range(1, options.slots + 1)]
    waiting = threading.Event()
    silence = Silence()
    while True:
        try:
            if slot := claim(database, holder, names, options.lease, worker=worker, silence=silence):
                return slot
            if options.visit:
                return None
            outage.over()
        except Unavailable as error:
            outage.problem(error)
        waiting.wait(pause)


def _run(database: Database, slot: Slot, module: WorkModule, options: argparse.Namespace) -> NoReturn:
    asked, over = threading.Event(), threading.Event()
    outage = Outage(_say)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: (asked if options.visit else over).set())
    fence = Fence(database, slot, lost=_end_fenced)
    is_launched = False
    try:
        with fence:
            # Apart from the loop below, which waits in the engine while the database is away.
            threading.Thread(target=_end, args=(over, database, slot, options.grace), daemon=True).start()
            engine.launch(database, slot.name, fence, migrate=not options.visit)
            is_launched = True
            _say(f"{slot.name} taken, epoch {slot.epoch}")
            work = module.work(database, fence)
            forget_at = boot_seconds()
            while not over.wait(options.poll):
                try:
                    if asked.is_set():
                        work.leave()
                    if not _look(work, fence, module.scan) and options.visit:
                        over.set()
                    if boot_seconds() >= forget_at:
                        engine.forget(datetime.now(UTC) - timedelta(seconds=options.remember))
                        forget_at = boot_seconds() + _FORGET_SECONDS
                    outage.over()
                except Unavailable as error:
                    outage.problem(error)
            while True:  # `_end` ends the process
                signal.pause()
    except ConfigError:
        if not is_launched:  # nothing was begun in it
            with suppress(Unavailable):
                release(database, slot)
        raise


def _look(work: Work, fence: Fence, scan: Callable[[str], None]) -> int:
    """Begin what is claimed and was never begun: new scans, and those claimed by a worker that died before it began them.

    How many are claimed.
    """
    claimed = work.claimed(fence)
    for scan_id in claimed:
        status = engine.status(scan_id)
        if status is None:
            fence.check()
            engine.start(scan_id, scan, scan_id)
        elif status is not engine.Status.RUNNING:
            work.ended(fence, scan_id, status)
    return len(claimed)


def _end(asked: threading.Event, database: Database, slot: Slot, grace_seconds: float) -> None:
    asked.wait()
    clean = engine.shutdown(grace_seconds)
    _kill_children()
    if clean:  # else a step may still be at work: the lease keeps others away until it is surely over
        try:
            release(database, slot)
        except Unavailable as error:
            _say(str(error))
    os._exit(0)


def _end_fenced(reason: str) -> NoReturn:
    _kill_children()
    try:
        _say(f"{reason}; this worker ends")
    finally:
        os._exit(EXIT_FENCED)


def _say(line: str) -> None:
    sys.stderr.write(f"worker: {line}\n")
    sys.stderr.flush()


def _kill_children() -> None:
    """All descendants, from /proc: those of a child that died meanwhile end by their own parent's death signal or deadline."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_bytes().rpartition(b") ")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    left = children.get(os.getpid(), [])
    while left:
        pid = left.pop()
        left += children.get(pid, [])
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    try:
        main()
    except Fenced:  # `_end_fenced` was on its way
        os._exit(EXIT_FENCED)
