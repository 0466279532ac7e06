"""seccomp: the system calls that parsing needs, and no other.

What is not listed fails with EPERM; another architecture's calls kill the process. A parser reads descriptors it has or
is handed, computes, forks workers and talks to them over pipes. It has no way to name a path, a peer or a process.
Left out on purpose: epoll (use `select.poll`), kill and tgkill (so `abort` ends in a fault), new shared memory.
Source: linux/Documentation/userspace-api/seccomp_filter.rst, seccomp(2), syscalls(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import sys
from typing import Final

from scanner.guards import bpf
from scanner.guards.base import Guard, attempt, call
from scanner.guards.bpf import ALLOW, KILL, answer, load, low, one_of, only_bits, when
from scanner.guards.numbers import MACHINES, numbers

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/include/uapi/linux/audit.h
_X32: Final = 0x40000000

# The most frequent first: the kernel walks this list for every call (before Linux 5.11, which remembers the answers).
_ALWAYS: Final = (
    *("read", "pread64", "write", "futex", "munmap", "brk", "lseek", "poll", "ppoll", "recvmsg", "sendmsg"),
    *("setitimer", "rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "sigaltstack", "close", "fstat", "fadvise64"),
    *("readv", "preadv", "preadv2", "writev", "select", "pselect6", "recvfrom"),
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "times"),
    *("getitimer", "alarm", "pause", "rt_sigpending", "rt_sigtimedwait", "rt_sigsuspend", "restart_syscall"),
    *("getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getrusage", "getrandom"),
    *("dup", "dup2", "dup3", "pipe", "close_range", "wait4", "waitid", "exit", "exit_group"),
    *("shutdown", "getsockname", "getpeername", "getsockopt"),
    *("set_robust_list", "set_tid_address", "rseq", "membarrier", "sched_yield", "sched_getaffinity", "getcpu"),
    "sysinfo",  # glibc's qsort asks how much memory there is, and goes on with garbage if it cannot
)

_PROT: Final = mmap.PROT_READ | mmap.PROT_WRITE
# Private or shared, fixed (twice), anonymous, denywrite, noreserve, populate, stack. Not growsdown, hugetlb or locked:
# RLIMIT_DATA does not count memory that is a stack.
_MAP: Final = 0x01 | 0x02 | 0x10 | 0x100000 | 0x20 | 0x800 | 0x4000 | 0x8000 | 0x20000
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20
_MREMAP_MAYMOVE: Final = 1
# normal, random, sequential, willneed, dontneed, free, dontfork, dofork, hugepage, nohugepage, dontdump,
# populate_read, guard_install, guard_remove
_MADVICE: Final = (0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 22, 102, 103)
# vm, fs, files, sighand, thread, sysvsem, settls, parent_settid, child_cleartid, detached, child_settid, and SIGCHLD
_CLONE: Final = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x80000 | 0x100000 | 0x200000 | 0x400000 | 0x1000000
_FIOCLEX, _FIONCLEX, _FIONBIO = 0x5451, 0x5450, 0x5421
_FCNTL: Final = (
    *(fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL),
    *(fcntl.F_SETPIPE_SZ, fcntl.F_GETPIPE_SZ),
)
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_SET_NAME, _PR_GET_NAME = 1, 2, 15, 16
_AT_EMPTY_PATH: Final = 0x1000

_SET_MODE_FILTER: Final = 1
_TSYNC: Final = 1


def _conditional(stack: int) -> dict[str, bpf.Code]:
    """The calls that depend on their arguments: each list falls through when the call may go on."""
    return {
        # Neither executable memory nor shared memory that could be written to.
        "mmap": [
            *only_bits(2, _PROT),
            *only_bits(3, _MAP),
            *bpf.not_all(3, _MAP_SHARED | _MAP_ANONYMOUS),
            *bpf.unless_bit(3, _MAP_SHARED, only_bits(2, mmap.PROT_READ)),
        ],
        "mprotect": only_bits(2, _PROT),
        # A stack could be grown without end, as RLIMIT_DATA does not count it.
        "mremap": [*only_bits(3, _MREMAP_MAYMOVE), *bpf.below(0, stack)],
        "madvise": one_of(2, _MADVICE),
        # Threads and forks; no namespaces, no sibling that outlives us, no odd exit signal.
        "clone": only_bits(0, _CLONE | signal.SIGCHLD),
        "sendto": bpf.null(4),
        "ioctl": one_of(1, (_FIOCLEX, _FIONCLEX, _FIONBIO)),
        "fcntl": one_of(1, _FCNTL),
        "pipe2": only_bits(1, os.O_CLOEXEC | os.O_NONBLOCK),
        "prctl": [
            low(0),
            *when(_PR_SET_PDEATHSIG, [*one_of(1, (signal.SIGKILL,)), answer(ALLOW)]),
            *one_of(0, (_PR_GET_PDEATHSIG, _PR_SET_NAME, _PR_GET_NAME)),
        ],
        "prlimit64": [*one_of(0, (0,)), *bpf.null(2)],
        # How glibc 2.33 to 2.38 spells fstat.
        "newfstatat": one_of(3, (_AT_EMPTY_PATH,)),
    }


def program(machine: str, stack: int) -> bpf.Code:
    """The filter for one of `MACHINES`. From the address `stack` on there are stacks only, which may not be remapped."""
    known = numbers(machine)
    code = [
        load(bpf.ARCHITECTURE),
        bpf.Instruction(bpf.EQUAL, _ARCHITECTURES[machine], 1, 0),
        answer(KILL),
        load(bpf.NUMBER),
        bpf.Instruction(bpf.AT_LEAST, _X32, 0, 1),
        answer(KILL),
    ]
    for name, checks in _conditional(stack).items():
        code += when(known[name], [*checks, answer(ALLOW)])
    for name in _ALWAYS:
        if name in known:
            code += when(known[name], [answer(ALLOW)])
    # clone3 hides its flags behind a pointer; told that there is none, the C library uses clone.
    code += when(known["clone3"], [bpf.refuse(errno.ENOSYS)])
    return [*code, bpf.refuse()]


def install(stack: int) -> Guard:
    """Filter every thread of this process and all it starts. Needs no_new_privs."""
    machine = os.uname().machine
    name = "seccomp"
    if machine not in MACHINES or sys.maxsize < 1 << 32:
        return Guard(name, active=False, detail=f"no list of system calls for {machine} with this Python")
    return attempt(name, "only the system calls that parsing needs", lambda: _install(machine, stack))


def _install(machine: str, stack: int) -> None:
    class Program(ctypes.Structure):
        """struct sock_fprog"""

        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    code = program(machine, stack)
    raw = ctypes.create_string_buffer(bpf.encode(code))
    whole = Program(len(code), ctypes.addressof(raw))
    other = call("syscall", numbers(machine)["seccomp"], _SET_MODE_FILTER, _TSYNC, ctypes.addressof(whole))
    if other:
        raise OSError(errno.EBUSY, f"thread {other} has a filter of its own")
