"""The seccomp program itself, run by a small interpreter: so every argument and both architectures can be asked."""

from __future__ import annotations

import errno
import os
import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanner.guards import bpf, seccomp
from scanner.guards.numbers import MACHINES, numbers
from tests.need import need_tool

STACK = 0x7FFC_8000_0000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, EPERM, ENOSYS, KILL = bpf.ALLOW, bpf.ERRNO | errno.EPERM, bpf.ERRNO | errno.ENOSYS, bpf.KILL
WORD = (1 << 64) - 1
ONLY_X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the headers of x86_64 are on x86_64 only")
PROGRAMS = {machine: tuple(seccomp.program(machine, STACK)) for machine in MACHINES}


def run(code: bpf.Code, architecture: int, number: int, words: tuple[int, ...]) -> int:
    """What the kernel would answer. A jump never goes back, so this ends."""
    padded = [word & WORD for word in (*words, *[0] * 6)][:6]
    data = {0: number, 4: architecture}
    for place, word in enumerate(padded):
        data[16 + 8 * place], data[20 + 8 * place] = word & 0xFFFFFFFF, word >> 32
    loaded = place = 0
    while True:
        one = code[place]
        place += 1
        if one.code == bpf.RETURN:
            return one.value
        if one.code == bpf.LOAD:
            loaded = data[one.value]
            continue
        holds = {
            bpf.EQUAL: loaded == one.value,
            bpf.GREATER: loaded > one.value,
            bpf.AT_LEAST: loaded >= one.value,
            bpf.ANY_BIT: bool(loaded & one.value),
        }[one.code]
        place += one.yes if holds else one.no


def ask(machine: str, name: str, *words: int) -> int:
    return run(PROGRAMS[machine], ARCHITECTURES[machine], numbers(machine)[name], words)


R, W, X = 1, 2, 4
SHARED, PRIVATE, FIXED, ANON, GROWSDOWN, LOCKED, NORESERVE, THREAD_STACK, HUGE = (
    1,
    2,
    16,
    32,
    256,
    8192,
    16384,
    131072,
    262144,
)
THREAD = 0x3D0F00  # what glibc gives to clone for a thread
FORK = 0x1200011  # and for a fork


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "words", "answer"),
    [
        pytest.param("read", (0, 0, 0), ALLOW, id="read"),
        pytest.param("read", (WORD,) * 6, ALLOW, id="read-of-anything"),
        pytest.param("mmap", (0, 4096, R | W, PRIVATE | ANON, -1, 0), ALLOW, id="malloc"),
        pytest.param("mmap", (0, 4096, 0, PRIVATE | ANON | NORESERVE, -1, 0), ALLOW, id="arena"),
        pytest.param("mmap", (0, 4096, 0, PRIVATE | ANON | THREAD_STACK, -1, 0), ALLOW, id="thread-stack"),
        pytest.param("mmap", (0, 4096, R, SHARED, 3, 0), ALLOW, id="disk-shared"),
        pytest.param("mmap", (0, 4096, R, PRIVATE, 3, 0), ALLOW, id="disk-private"),
        pytest.param("mmap", (0, 4096, R | W, PRIVATE, 3, 0), ALLOW, id="disk-copied"),
        pytest.param("mmap", (0, 4096, R | W | X, PRIVATE | ANON, -1, 0), EPERM, id="executable"),
        pytest.param("mmap", (0, 4096, R | X, PRIVATE, 3, 0), EPERM, id="disk-executable"),
        pytest.param("mmap", (0, 4096, R | 0x01000000, PRIVATE, 3, 0), EPERM, id="protection-of-a-stack"),
        pytest.param("mmap", (0, 4096, R | W, SHARED, 3, 0), EPERM, id="shared-writable"),
        pytest.param("mmap", (0, 4096, R | W, SHARED | PRIVATE, 3, 0), EPERM, id="shared-validate-writable"),
        pytest.param("mmap", (0, 4096, R, SHARED | ANON, -1, 0), EPERM, id="shared-anonymous"),
        pytest.param("mmap", (0, 4096, R | W, PRIVATE | ANON | GROWSDOWN, -1, 0), EPERM, id="grows-down"),
        pytest.param("mmap", (0, 4096, R | W, PRIVATE | ANON | LOCKED, -1, 0), EPERM, id="locked"),
        pytest.param("mmap", (0, 4096, R | W, PRIVATE | ANON | HUGE, -1, 0), EPERM, id="huge"),
        pytest.param("mmap", (0, 4096, R | W, 8 | ANON, -1, 0), EPERM, id="droppable"),
        pytest.param("mprotect", (0, 4096, R | W), ALLOW, id="mprotect"),
        pytest.param("mprotect", (0, 4096, R | X), EPERM, id="mprotect-executable"),
        pytest.param("mremap", (STACK - 1, 1, 2, 1), ALLOW, id="realloc"),
        pytest.param("mremap", (STACK - (1 << 32), 1, 2, 1), ALLOW, id="realloc-4-gib-lower"),
        pytest.param("mremap", (0x5555_FFFF_F000, 1, 2, 1), ALLOW, id="realloc-with-large-low-half"),
        pytest.param("mremap", (STACK, 1, 2, 1), EPERM, id="remap-stack"),
        pytest.param("mremap", (STACK + (1 << 32), 1, 2, 1), EPERM, id="remap-4-gib-higher"),
        pytest.param("mremap", (0, 1, 2, 3, 4096), EPERM, id="remap-to-fixed"),
        pytest.param("madvise", (0, 4096, 4), ALLOW, id="dontneed"),
        pytest.param("madvise", (0, 4096, 12), EPERM, id="mergeable"),
        pytest.param("clone", (THREAD,), ALLOW, id="thread"),
        pytest.param("clone", (FORK,), ALLOW, id="fork"),
        pytest.param("clone", (FORK | 0x10000000,), EPERM, id="user-namespace"),
        pytest.param("clone", (FORK | 0x00020000,), EPERM, id="mount-namespace"),
        pytest.param("clone", (FORK | 0x8000,), EPERM, id="sibling"),
        pytest.param("clone", (FORK | 0x1000,), EPERM, id="pidfd"),
        pytest.param("clone", (0x4111,), EPERM, id="vfork"),
        pytest.param("clone3", (0, 0), ENOSYS, id="clone3"),
        pytest.param("sendto", (3, 1, 1, 0, 0, 0), ALLOW, id="send"),
        pytest.param("sendto", (3, 1, 1, 0, 1, 16), EPERM, id="send-to-address"),
        pytest.param("sendto", (3, 1, 1, 0, 1 << 32, 16), EPERM, id="send-to-high-address"),
        pytest.param("ioctl", (3, 0x5421), ALLOW, id="nonblocking"),
        pytest.param("ioctl", (0, 0x5412), EPERM, id="type-into-terminal"),
        pytest.param("ioctl", (3, 0x1260), EPERM, id="block-device"),
        pytest.param("fcntl", (3, 1), ALLOW, id="getfd"),
        pytest.param("fcntl", (3, 8), EPERM, id="set-owner-for-signals"),
        pytest.param("fcntl", (3, 1033), EPERM, id="add-seals"),
        pytest.param("pipe2", (1, 0o2000000), ALLOW, id="pipe"),
        pytest.param("pipe2", (1, 0o200), EPERM, id="watch-queue"),
        pytest.param("prctl", (1, 9), ALLOW, id="arm-parent-death"),
        pytest.param("prctl", (1, 0), EPERM, id="disarm-parent-death"),
        pytest.param("prctl", (15, 1), ALLOW, id="name-thread"),
        pytest.param("prctl", (4, 1), EPERM, id="dumpable"),
        pytest.param("prctl", (22, 2), EPERM, id="seccomp-by-prctl"),
        pytest.param("prlimit64", (0, 7, 0, 1), ALLOW, id="read-limit"),
        pytest.param("prlimit64", (0, 7, 1, 0), EPERM, id="set-limit"),
        pytest.param("prlimit64", (0, 7, 1 << 32, 0), EPERM, id="set-limit-high-pointer"),
        pytest.param("prlimit64", (77, 7, 0, 1), EPERM, id="limit-of-another"),
        pytest.param("newfstatat", (3, 1, 1, 0x1000), ALLOW, id="fstat"),
        pytest.param("newfstatat", (-100, 1, 1, 0), EPERM, id="stat"),
        pytest.param("seccomp", (1, 0, 0), EPERM, id="another-filter"),
    ],
)
def test_answers(machine: str, name: str, words: tuple[int, ...], answer: int) -> None:
    assert ask(machine, name, *words) == answer


@pytest.mark.parametrize("machine", MACHINES)
def test_shape_of_the_program(machine: str) -> None:
    code = PROGRAMS[machine]
    assert len(code) <= 4096  # BPF_MAXINSNS
    assert all(0 <= one.yes <= 255 and 0 <= one.no <= 255 for one in code)
    assert all(place + 1 + max(one.yes, one.no) < len(code) for place, one in enumerate(code[:-1]))
    assert len(bpf.encode(code)) == 8 * len(code)


words = st.tuples(*[st.one_of(st.integers(0, WORD), st.integers(0, 0xFFFF))] * 6)


@settings(max_examples=300, deadline=None)
@given(machine=st.sampled_from(MACHINES), number=st.integers(0, 0xFFFFFFFF) | st.integers(0, 512), arguments=words)
def test_what_is_not_listed_is_refused(machine: str, number: int, arguments: tuple[int, ...]) -> None:
    answer = run(PROGRAMS[machine], ARCHITECTURES[machine], number, arguments)
    if number >= 0x40000000:
        assert answer == KILL
    elif number not in numbers(machine).values():
        assert answer == EPERM
    else:
        assert answer in {ALLOW, EPERM, ENOSYS}


@settings(max_examples=200, deadline=None)
@given(machine=st.sampled_from(MACHINES), architecture=st.integers(0, 0xFFFFFFFF), number=st.integers(0, 512))
def test_a_foreign_architecture_is_killed(machine: str, architecture: int, number: int) -> None:
    if architecture != ARCHITECTURES[machine]:
        assert run(PROGRAMS[machine], architecture, number, ()) == KILL


@settings(max_examples=500, deadline=None)
@given(protection=st.integers(0, 15) | st.integers(0, WORD), flags=st.integers(0, 0x1FFFFF) | st.integers(0, 63))
def test_memory_is_never_executable_nor_shared_and_writable(protection: int, flags: int) -> None:
    answer = ask("x86_64", "mmap", 0, 4096, protection, flags, 3, 0)
    assert answer in {ALLOW, EPERM}
    if answer == ALLOW:
        assert not protection & X
        assert not (flags & SHARED and (protection & W or flags & ANON))
        assert not flags & GROWSDOWN


@settings(max_examples=300, deadline=None)
@given(
    address=st.integers(0, WORD) | st.integers(STACK - 3, STACK + 3),
    stack=st.integers(0, WORD) | st.integers(STACK - 3, STACK + 3),
)
def test_below_compares_all_64_bits(address: int, stack: int) -> None:
    code = [*bpf.below(0, stack), bpf.answer(ALLOW)]
    assert run(code, 0, 0, (address,)) == (ALLOW if address < stack else EPERM)


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        pytest.param("x86_64", "#include <asm/unistd_64.h>", id="x86_64", marks=ONLY_X86),
        pytest.param(
            "aarch64",
            "#define __ARCH_WANT_NEW_STAT\n#define __ARCH_WANT_SYS_CLONE3\n#include <asm-generic/unistd.h>",
            id="aarch64",
        ),
    ],
)
def test_numbers_are_those_of_the_kernel_headers(machine: str, header: str) -> None:
    need_tool("gcc")
    table = numbers(machine)
    source = "\n".join(["#define __BITS_PER_LONG 64", header, *(f"@{name} __NR_{name}" for name in table)])
    done = subprocess.run(["gcc", "-E", "-P", "-"], input=source, capture_output=True, text=True)
    found = dict(re.findall(r"@(\w+) (\d+)", done.stdout))
    if not found:
        need_tool("the kernel headers of this machine")
    assert {name: int(number) for name, number in found.items()} == table
    others = set(numbers("x86_64")) - set(numbers("aarch64"))
    if machine == "aarch64":
        assert {"dup2", "pipe", "poll", "select"} <= others


def test_no_list_for_other_machines() -> None:
    with pytest.raises(ValueError):
        numbers("riscv64")
