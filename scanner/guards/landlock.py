"""Landlock: no path can be opened, no TCP port reached, no process outside signalled.

A ruleset that handles every right the kernel knows and allows none of them; descriptors that are already open go on
working. Source: linux/Documentation/userspace-api/landlock.rst, linux/include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from scanner.guards.base import Guard, attempt, call

# The same on every architecture.
_CREATE_RULESET: Final = 444
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1

# How many file rights (bits from 0) each ABI knows: 2 refer, 3 truncate, 5 device ioctls; 1 all the others.
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NEWEST: Final = max(_FILE_RIGHTS)
_TCP: Final = 0b11  # bind, connect; ABI 4
_SCOPES: Final = 0b11  # abstract unix sockets, signals; ABI 6


class Attributes(ctypes.Structure):
    """struct landlock_ruleset_attr"""

    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def attributes(abi: int) -> tuple[Attributes, int]:
    """Everything that `abi` (1 or more) can deny, and how many bytes of the structure that ABI reads."""
    files = (1 << _FILE_RIGHTS[min(abi, _NEWEST)]) - 1
    network = _TCP if abi >= 4 else 0
    scoped = _SCOPES if abi >= 6 else 0
    return Attributes(files, network, scoped), 8 * (1 + (abi >= 4) + (abi >= 6))


def restrict() -> tuple[Guard, ...]:
    """Restrict this thread and all it starts. Needs no_new_privs."""
    try:
        abi = call("syscall", _CREATE_RULESET, 0, 0, _VERSION)
    except OSError as error:
        why = f"this kernel has no Landlock: {error.strerror}"
        return tuple(Guard(f"landlock-{part}", active=False, detail=why) for part in ("files", "tcp", "scope"))
    files = attempt("landlock-files", f"no path can be opened, made or removed (ABI {abi})", lambda: _enforce(abi))
    return (
        files,
        _since(files, abi, 4, "landlock-tcp", "no TCP port can be bound or connected to"),
        _since(files, abi, 6, "landlock-scope", "no signal or abstract socket reaches a process outside"),
    )


def _enforce(abi: int) -> None:
    rules, size = attributes(abi)
    ruleset = call("syscall", _CREATE_RULESET, ctypes.addressof(rules), size, 0)
    try:
        call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _since(whole: Guard, abi: int, first: int, name: str, does: str) -> Guard:
    if not whole.active:
        return Guard(name, active=False, detail=whole.detail)
    if abi < first:
        return Guard(name, active=False, detail=f"needs Landlock ABI {first}, this kernel has {abi}")
    return Guard(name, active=True, detail=does)
