"""Guards that are attributes of the process: its user, namespaces, capabilities, limits, and its bond to the parent.

Sources: prctl(2), unshare(2), capabilities(7), getrlimit(2), user_namespaces(7).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from scanner.guards.base import Guard, Limits, attempt, call, prctl

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x04000000, 0x08000000, 0x10000000, 0x40000000
_OUTSIDE: Final = _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
_CAPABILITY_VERSION_3: Final = 0x20080522
_NEEDED_FOR_NOBODY: Final = 1 << 5 | 1 << 6 | 1 << 7  # CAP_KILL, CAP_SETGID, CAP_SETUID
_NOBODY: Final = 65534
_STACK_BYTES: Final = 8 << 20
# Between its stack and its mappings the kernel leaves at least 128 MiB (arch/*/mm/mmap.c, MIN_GAP).
_STACK_ROOM: Final = 64 << 20
_CPU_GRACE_SECONDS: Final = 5
_ORPHAN: Final = 1  # exit status


def thread_count() -> int:
    """Threads of this process; 0 if /proc cannot tell."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return 0


def stack_floor() -> int:
    """The address from which on there is nothing but the main stack; 0, which is safe, if /proc cannot tell."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/maps").read_bytes().splitlines():
            if line.endswith(b"[stack]"):
                start, _, end = line.split()[0].partition(b"-")
                return min(int(start, 16), int(end, 16) - _STACK_ROOM)
    return 0


def die_with_parent(parent_pid: int) -> Guard:
    """Be killed when the parent dies; exits at once if it already has.

    The kernel forgets this on fork, so every worker calls it first, with the process id of the parser. "Parent" is the
    *thread* that started this process: a parent that starts parsers from a thread must keep that thread.
    """
    guard = attempt(
        "parent-death", "killed when its parent dies", lambda: _nothing(prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
    )
    if os.getppid() != parent_pid:
        os._exit(_ORPHAN)
    return guard


def no_new_privileges() -> Guard:
    return attempt(
        "no-new-privileges", "no program can give it rights", lambda: _nothing(prctl(_PR_SET_NO_NEW_PRIVS, 1))
    )


def core_dumps() -> Guard:
    """No core file, and nothing for a core handler (which does not heed RLIMIT_CORE): it would hold a customer's data."""

    def forbid() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        prctl(_PR_SET_DUMPABLE, 0)

    return attempt("core-dumps", "a crash leaves no core, and its user may not trace it", forbid)


def isolate(threads: int) -> Iterator[Guard]:
    """Leave the network, the user and the file tree of the host, as far as the host lets us.

    Root changes to nobody, since the kernel exempts root from the limit on processes. A user namespace forbids that
    change and a changed root forbids a user namespace, hence the order.
    """
    network = attempt("network-namespace", "no network interface but a dead loopback", lambda: _unshare(_OUTSIDE))
    if os.getuid() == 0:
        user = attempt("unprivileged-user", "root became nobody", _become_nobody)
    else:
        user = Guard("unprivileged-user", active=True, detail=f"user {os.getuid()}")
    space = attempt(
        "user-namespace",
        "no user id of the host",
        lambda: _unshare(_CLONE_NEWUSER | (0 if network.active else _OUTSIDE)),
    )
    if space.active and not network.active:
        network = Guard(network.name, active=True, detail="no network interface but a dead loopback")
    yield from (network, user, space)
    if threads > 1:  # to fork then is unsafe
        yield Guard("empty-root", active=False, detail=f"needs a process of one thread, not {threads}")
    else:
        yield attempt("empty-root", "no path leads anywhere", _empty_root)


def capabilities() -> Guard:
    return attempt("capabilities", "all sets are empty", _drop_capabilities)


def resource_limits(limits: Limits, *, own_user: bool) -> Iterator[Guard]:
    """`own_user`: a user namespace and no root, so that processes can be counted apart from the rest of the host's."""

    def memory() -> None:
        _limit(resource.RLIMIT_STACK, _STACK_BYTES)
        _limit(resource.RLIMIT_DATA, limits.memory_bytes)

    yield attempt("memory", f"{limits.memory_bytes} private bytes in each process", memory)
    yield attempt(
        "cpu",
        f"{limits.cpu_seconds} seconds in each process",
        # First SIGXCPU, which tells the parent why; the hard limit is for those who ignore it.
        lambda: _limit(resource.RLIMIT_CPU, limits.cpu_seconds, _CPU_GRACE_SECONDS),
    )
    yield attempt(
        "written-bytes",
        f"{limits.written_bytes} bytes in a file",
        lambda: _limit(resource.RLIMIT_FSIZE, limits.written_bytes),
    )
    yield attempt(
        "open-files", f"{limits.open_files} descriptors", lambda: _limit(resource.RLIMIT_NOFILE, limits.open_files)
    )
    if not own_user:
        yield Guard("processes", active=False, detail="needs a user namespace, and a user other than root")
    elif _kernel() < (5, 14):
        yield Guard("processes", active=False, detail="before Linux 5.14 all processes of a user count together")
    else:
        yield attempt(
            "processes",
            f"{limits.processes} processes and threads",
            lambda: _limit(resource.RLIMIT_NPROC, limits.processes),
        )


def _limit(kind: int, wanted: int, grace: int = 0) -> None:
    """`wanted` as soft and hard limit, or what is already stricter."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
        grace = min(grace, hard - wanted)
    resource.setrlimit(kind, (wanted, wanted + grace))


def _kernel() -> tuple[int, ...]:
    major, _, rest = os.uname().release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return int(major), int(minor)


def _nothing(_result: int) -> None:
    """For calls whose only result is that they did not fail."""


def _unshare(what: int) -> None:
    call("unshare", what)


def _become_nobody() -> None:
    if (effective := _capabilities()[0]) & _NEEDED_FOR_NOBODY != _NEEDED_FOR_NOBODY:
        # Without CAP_KILL the parent could not end us any more.
        raise OSError(f"still root: needs to be able to change user and to kill any, has capabilities {effective:#x}")
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    prctl(_PR_SET_DUMPABLE, 1)  # until core_dumps(): else our own /proc is closed to us, and _empty_root needs it


def _empty_root() -> None:
    """Change the root to a folder of a process that has ended: empty for ever, and nothing to clean up."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            die_with_parent(parent)
            signal.pause()
        finally:  # whatever a signal handler raises, there must not be two parsers
            os._exit(0)
    try:
        os.chroot(f"/proc/{child}/fdinfo")
        os.chdir("/")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _capabilities() -> tuple[int, int, int]:
    """Effective, permitted and inheritable, as bits."""
    header = _Header(_CAPABILITY_VERSION_3, 0)
    words = (ctypes.c_uint32 * 6)()
    call("capget", ctypes.addressof(header), ctypes.addressof(words))
    effective, permitted, inheritable = (words[place] | words[place + 3] << 32 for place in range(3))
    return effective, permitted, inheritable


def _drop_capabilities() -> None:
    with suppress(OSError):  # ends past the last capability, or at the first without CAP_SETPCAP
        for capability in range(64):
            prctl(_PR_CAPBSET_DROP, capability)
    with suppress(OSError):  # Linux 4.3
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = _Header(_CAPABILITY_VERSION_3, 0)
    words = (ctypes.c_uint32 * 6)()
    call("capset", ctypes.addressof(header), ctypes.addressof(words))
    if any(left := _capabilities()):
        raise OSError(f"some are left: {left}")
