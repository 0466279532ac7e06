"""The standard output as commands have it: a pipe whose reader may leave, or nothing at all."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import ConfigError

BROKEN_PIPE_STATUS = 141  # what a shell shows for a program that SIGPIPE ended


def prepare_standard_streams() -> None:
    """Open what the caller closed of descriptors 0 to 2, so that no disk and no socket gets one of these numbers.

    Characters that the terminal's encoding lacks are written as escapes from then on. Exits with 2 if the standard output or error is missing: the result would be lost.
    """
    missing = [fd for fd in range(3) if not _is_open(fd)]
    for _ in missing:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if {1, 2} & set(missing):
        if sys.stderr is not None:
            sys.stderr.write("kumomori: the standard output is closed; redirect it to a file or /dev/null\n")
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End quietly when whoever reads our output has seen enough, `| head` for one.

    Left to the command line library this would be exit 1, which means that there are findings.
    """
    try:
        yield
    except (BrokenPipeError, ConfigError) as error:
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__cause__, BrokenPipeError):
            raise
        # Python writes what is left in its buffers at the very end; nobody wants it any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(BROKEN_PIPE_STATUS)
