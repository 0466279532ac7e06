"""A parser process seen from outside: how it ends, and what its end means."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import IO, Final

from core.findings import GapReason
from core.text import printable

_STDERR_BYTES: Final = 4096


def end(process: subprocess.Popen[bytes], *, kill: bool) -> int | None:
    """Wait for the parser, or end it with all its workers. Returns its status as `Popen.returncode`, None if we ended it."""
    ended = False
    try:
        # a parser that died by itself has already closed its socket: give it the moment to be counted
        deadline = time.monotonic() + (0.5 if kill else 2)
        while not (ended := has_ended(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # workers too; the group id cannot be reused before we wait
        except ProcessLookupError:
            pass
        process.wait()
    return process.returncode if ended else None


def has_ended(pid: int) -> bool:
    """Whether it is dead; it stays a zombie, so that its number stays taken."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def cause(status: int, stderr: IO[bytes]) -> tuple[GapReason, str]:
    match -status:
        case signal.SIGALRM:
            return GapReason.TIMEOUT, "its metadata could not be read in time"
        case signal.SIGXCPU:
            return GapReason.TIMEOUT, "the parser used up its processor time"
        case signal.SIGKILL:
            return GapReason.OUT_OF_MEMORY, "the parser was killed, most likely by the system for lack of memory"
        case signal.SIGBUS:
            return GapReason.UNREADABLE, "the disk could not be read (SIGBUS)"
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, stderr.tell() - _STDERR_BYTES))
    said = stderr.read().decode("utf-8", "replace").strip().splitlines()
    last = f": {printable(said[-1][:300])}" if said else ""
    if "MemoryError" in last:
        return GapReason.OUT_OF_MEMORY, "the parser reached its memory limit"
    return GapReason.CRASHED, f"the parser crashed ({'signal' if status < 0 else 'status'} {abs(status)}){last}"
