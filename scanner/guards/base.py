"""What the guards share: the words for them, and bare calls into the C library."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Limits:
    """What one parser process, and each worker it forks, may use.

    `memory_bytes`: private writable memory (RLIMIT_DATA); mapped disks do not count. `cpu_seconds`: processor time, not
    wall time. `open_files`: descriptors. `processes`: processes and threads of the whole parser. `written_bytes`: how
    long a file it may write, which is only its standard error.
    """

    memory_bytes: int
    cpu_seconds: int
    open_files: int = 256
    processes: int = 64
    written_bytes: int = 64 << 10


@dataclass(frozen=True)
class Guard:
    """One thing that holds a parser in. `detail` says what it does, or, when it is not active, why not."""

    name: str
    active: bool
    detail: str


def attempt(name: str, does: str, action: Callable[[], None]) -> Guard:
    """Run `action`; if the system refuses it the guard is not active."""
    try:
        action()
    except (OSError, ValueError, AttributeError) as error:  # AttributeError: a C library without that function
        return Guard(name, active=False, detail=str(error))
    return Guard(name, active=True, detail=does)


def call(function: str, *arguments: int) -> int:
    """A C library function on machine words. Raises `OSError` on -1, `AttributeError` if there is no such function."""
    result = getattr(_LIBC, function)(*[ctypes.c_ulong(argument & (1 << 64) - 1) for argument in arguments])
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return int(result)


def prctl(option: int, *arguments: int) -> int:
    """prctl(2); the words that are not given are 0, as newer options demand."""
    return call("prctl", option, *arguments, *[0] * (4 - len(arguments)))
