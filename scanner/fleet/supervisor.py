"""`kumomori worker`: starts a process for each slot and each duty of a fleet, and starts it again when it dies.

Children get the settings in their environment, never on a command line. They die with this process, however it ends
(PR_SET_PDEATHSIG), so that nothing scans on that nobody looks after. https://man7.org/linux/man-pages/man2/pr_set_pdeathsig.2const.html
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from core.errors import ConfigError, Unavailable
from scanner.fleet import kept
from scanner.fleet.binding import bind
from scanner.fleet.database import Database
from scanner.fleet.duty import DUTIES
from scanner.fleet.migrations import upgrade
from scanner.fleet.settings import Settings

_SET_PDEATHSIG: Final = 1
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 60.0
_STEADY_SECONDS: Final = 60.0  # one that ran so long starts again at once
_KILL_AFTER_SECONDS: Final = 10.0  # beyond the grace that workers take for themselves
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class _Child:
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    failed: int = 0
    due: float = 0.0


def run(settings: Settings, *, environment: Mapping[str, str] | None = None) -> int:
    """Until SIGTERM or SIGINT; then all children end within `grace_seconds`, or are killed. Returns the exit code.

    `environment` is what children inherit besides the settings: credentials of clouds. Raises `ConfigError` if the fleet cannot
    start at all. Call it in the main thread of a process that has no other.
    """
    database = Database(settings.database.get_secret_value())
    database.check()
    _prepare(database, settings)
    database.close()
    supervisor = Supervisor(
        settings, {**(os.environ if environment is None else environment), **settings.environment()}
    )
    old = {number: signal.signal(number, supervisor.asked_to_end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        supervisor.run()
    finally:
        supervisor.end()
        for number, handler in old.items():
            signal.signal(number, handler)
    return 0


def _prepare(database: Database, settings: Settings) -> None:
    """A database that is away now is waited for by the children."""
    try:
        upgrade(database)
        kept.installation(database, settings.installation)
        if settings.folder is not None:
            bind(database, settings.folder)
    except Unavailable as error:
        _say(str(error))


class Supervisor:
    """The children of one machine: all of its slots, and the three duties (which wait while another machine has them)."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._environment = dict(environment)
        self._ended = False
        options = {
            "slots": settings.all_slots or settings.slots,
            "lease": settings.lease_seconds,
            "poll": settings.poll_seconds,
            "grace": settings.grace_seconds,
        }
        worker = [
            sys.executable,
            "-m",
            "scanner.fleet.worker",
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        duty = [sys.executable, "-m", "scanner.fleet.duty"]
        self._children = [_Child(name, [*duty, name]) for name in DUTIES]
        self._children += [_Child(f"worker {number}", worker) for number in range(1, settings.slots + 1)]

    def asked_to_end(self, number: int = 0, frame: FrameType | None = None) -> None:
        _ = number, frame
        self._ended = True

    def run(self, *, poll_seconds: float = 0.2) -> None:
        while not self._ended:
            for child in self._children:
                self._look_after(child)
            time.sleep(poll_seconds)

    def end(self) -> None:
        """All children have ended when this returns."""
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + self._settings.grace_seconds + _KILL_AFTER_SECONDS
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def pids(self) -> dict[str, int]:
        return {child.name: child.process.pid for child in self._children if child.process is not None}

    def _look_after(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return
            child.process = None
            child.failed = 1 if now - child.began > _STEADY_SECONDS else child.failed + 1
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(child.failed - 1, 16))
            child.due = now + pause * random.uniform(0.5, 1)
            how = f"by signal {-code}" if code < 0 else f"with status {code}"
            _say(f"{child.name} ended {how}; started again in {child.due - now:.1f} seconds")
        if now >= child.due:
            child.began = now
            child.process = self._started(child.command)

    def _started(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env=self._environment,
            preexec_fn=_tied_to(os.getpid()),  # noqa: PLW1509  this process has one thread
            start_new_session=True,  # a Ctrl-C is ours alone: we pass it on once
        )


def _tied_to(parent: int) -> Callable[[], None]:
    """For the child before it becomes the program: the kernel kills it when `parent` ends."""

    def tie() -> None:
        _LIBC.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)

    return tie


def _say(line: str) -> None:
    sys.stderr.write(f"fleet: {line}\n")
    sys.stderr.flush()


def main() -> int:
    """`python -m scanner.fleet.supervisor`, with the settings in the environment."""
    try:
        return run(Settings.from_environment(os.environ))
    except ConfigError as error:
        _say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
