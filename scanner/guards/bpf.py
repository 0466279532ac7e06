"""A few words to write a seccomp filter with: classic BPF over `struct seccomp_data`, little-endian machines.

Every check looks at one argument and falls through when it holds; else it returns EPERM on the spot. So a filter reads
from top to bottom and no jump is long. Source: linux/Documentation/userspace-api/seccomp_filter.rst,
linux/Documentation/networking/filter.rst.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

KILL: Final = 0x80000000
ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
LOAD, EQUAL, GREATER, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


class Instruction(NamedTuple):
    """struct sock_filter: how many instructions to skip if a comparison holds (`yes`) or not (`no`)."""

    code: int
    value: int
    yes: int = 0
    no: int = 0


Code = Sequence[Instruction]


def encode(code: Code) -> bytes:
    return b"".join(struct.pack("<HBBI", one.code, one.yes, one.no, one.value) for one in code)


def answer(action: int) -> Instruction:
    return Instruction(RETURN, action)


def refuse(error: int = errno.EPERM) -> Instruction:
    return answer(ERRNO | error)


def load(offset: int) -> Instruction:
    return Instruction(LOAD, offset)


def when(value: int, body: Code) -> Code:
    """`body` if what was loaded is `value`; `body` must end by returning."""
    return [Instruction(EQUAL, value, 0, len(body)), *body]


def low(argument: int) -> Instruction:
    """Load the low half of an argument, which is all of an int."""
    return load(ARGUMENTS + 8 * argument)


def high(argument: int) -> Instruction:
    return load(ARGUMENTS + 8 * argument + 4)


def only_bits(argument: int, bits: int) -> Code:
    """No bit outside `bits` is set."""
    return [low(argument), Instruction(ANY_BIT, ~bits & 0xFFFFFFFF, 0, 1), refuse()]


def not_all(argument: int, bits: int) -> Code:
    """The two bits of `bits` are not both set."""
    first = bits & -bits
    return [low(argument), Instruction(ANY_BIT, first, 0, 2), Instruction(ANY_BIT, bits ^ first, 0, 1), refuse()]


def unless_bit(argument: int, bit: int, checks: Code) -> Code:
    """`bit` is not set, or `checks` hold."""
    return [low(argument), Instruction(ANY_BIT, bit, 0, len(checks)), *checks]


def one_of(argument: int, values: Sequence[int]) -> Code:
    """An int that is one of `values`."""
    tests = [Instruction(EQUAL, value, len(values) - place, 0) for place, value in enumerate(values)]
    return [low(argument), *tests, refuse()]


def null(argument: int) -> Code:
    """A pointer that is NULL."""
    return [low(argument), Instruction(EQUAL, 0, 1, 0), refuse(), high(argument), Instruction(EQUAL, 0, 1, 0), refuse()]


def below(argument: int, address: int) -> Code:
    """A pointer under `address`."""
    top, bottom = address >> 32, address & 0xFFFFFFFF
    return [
        high(argument),
        Instruction(GREATER, top, 3, 0),
        Instruction(EQUAL, top, 0, 3),
        low(argument),
        Instruction(AT_LEAST, bottom, 0, 1),
        refuse(),
    ]
