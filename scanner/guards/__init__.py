"""What holds the parser process in: after `lock_down`, bytes that take it over still have nowhere to go.

The parser is a child that has imported all it needs and holds its descriptors. It keeps reading them, computing, forking
workers and talking over pipes and its one socket; it cannot open, connect, execute, trace, signal or outlive anything.
Each guard stands alone, so that one missing in an old kernel or a strict container leaves the others.

What is left to the parent: a deadline in wall time; killing the whole process group, which a parser cannot leave
(start it with `process_group=0`), since a hostile worker could fork without arming `die_with_parent`; and distrust of
what the socket brings. Page tables and pipe buffers are kernel memory, which only a control group counts.
"""

from __future__ import annotations

from typing import Final

from scanner.guards import landlock, seccomp
from scanner.guards.base import Guard, Limits
from scanner.guards.process import (
    capabilities,
    core_dumps,
    die_with_parent,
    isolate,
    no_new_privileges,
    resource_limits,
    stack_floor,
    thread_count,
)

__all__ = ["Guard", "Limits", "die_with_parent", "lock_down"]

# The kernel applies these to the calling thread alone.
_OF_ONE_THREAD: Final = {"capabilities", "no-new-privileges", "landlock-files", "landlock-tcp", "landlock-scope"}


def lock_down(limits: Limits, *, parent_pid: int) -> tuple[Guard, ...]:
    """Put every guard on, for good, and tell which are active. Never raises for a guard that the system lacks.

    Call it once, after all imports, before the first hostile byte and before any thread starts. Exits the process if
    `parent_pid` is not its parent any more. Afterwards importing, opening any path, `os.kill`, `os.uname`,
    `select.epoll` and so on raise `PermissionError`, and memory beyond the limit `MemoryError`.
    """
    stack = stack_floor()
    threads = thread_count()
    guards = [no_new_privileges(), *isolate(threads)]
    guards += [capabilities(), die_with_parent(parent_pid), core_dumps()]  # a change of user undoes the last two
    spaced = any(guard.name == "user-namespace" and guard.active for guard in guards)
    guards += resource_limits(limits, own_user=spaced and _is_not_root(guards))
    guards += landlock.restrict()
    guards.append(seccomp.install(stack))
    return tuple(_doubted(guard, threads) for guard in guards)


def _is_not_root(guards: list[Guard]) -> bool:
    return any(guard.name == "unprivileged-user" and guard.active for guard in guards)


def _doubted(guard: Guard, threads: int) -> Guard:
    if guard.active and threads > 1 and guard.name in _OF_ONE_THREAD:
        return Guard(guard.name, active=False, detail=f"holds one of {threads} threads only")
    return guard
