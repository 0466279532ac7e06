"""Source trees: everything a POSIX filesystem can hold that a reader may get wrong."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import socket
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

KEEP_SIZE, PUNCH_HOLE = 1, 2
SECOND = 1_000_000_000
# What a filesystem without a feature answers: no such operation, no room for the attribute, number or name too large.
REFUSALS = {errno.EOPNOTSUPP, errno.ENOSPC, errno.ERANGE, errno.E2BIG, errno.ENAMETOOLONG, errno.EOVERFLOW}


@dataclass
class Mixed:
    """How much of each thing; what the filesystem refused is written to `refused`."""

    block: int = 4096
    directory: int = 2_000
    tiny: int = 3_000
    random_bytes: int = 20 << 20
    sparse_bytes: int = 300 << 20
    fragments: int = 2_500
    rounds: int = 40
    seed: int = 1
    attribute_room: int = 1 << 30  # bytes for the attributes of one file: `mke2fs -d` gives up where the kernel refuses
    refused: list[str] = field(default_factory=list)

    @contextmanager
    def may_refuse(self, what: str) -> Iterator[None]:
        """A feature that this filesystem need not have."""
        try:
            yield
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            self.refused.append(what)


def small_mixed(block: int = 4096) -> Mixed:
    """The same things, fewer of them: for images of 8-16 MB."""
    return Mixed(
        block=block,
        directory=90,
        tiny=60,
        random_bytes=300_000,
        sparse_bytes=3 << 20,
        fragments=400,
        rounds=6,
        attribute_room=min(block, 4096) - 100,
    )


def build_mixed(root: Path, mixed: Mixed) -> None:
    """Fill `root`. What needs root (devices, owners, trusted attributes) is left out for others."""
    parts: list[Callable[[bytes, Mixed], None]] = [
        _names,
        _deep,
        _many,
        _contents,
        _fragmented,
        _links,
        _xattrs,
        _modes,
        _times,
    ]
    if os.geteuid() == 0:
        parts.insert(-1, _privileged)
    for part in parts:
        folder = os.fsencode(root) + b"/" + part.__name__.strip("_").encode()
        os.mkdir(folder)
        part(folder, mixed)


def write(path: bytes, content: bytes = b"", at: int = 0) -> None:
    with open(path, "r+b" if os.path.exists(path) else "wb") as stream:
        stream.seek(at)
        stream.write(content)


def fallocate(path: bytes, mode: int, offset: int, length: int) -> None:
    """`fallocate(2)` with its flags, which the `os` module does not offer."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "r+b") as stream:
        done = libc.fallocate(stream.fileno(), mode, ctypes.c_int64(offset), ctypes.c_int64(length))
    if done:
        raise OSError(ctypes.get_errno(), "fallocate")


def _names(folder: bytes, mixed: Mixed) -> None:
    for byte in range(1, 256):
        if byte not in b"./":
            write(folder + b"/%c" % byte, b"%d" % byte)
    for name in (
        b"caf\xe9",
        "café".encode(),
        "cafe\u0301".encode(),
        b"new\nline",
        b"tab\there",
        b"\x1b[31mred\x1b[0m",
        b"\\x41",
        b"...",
        b". .",
        b" ",
        b"-rf",
        b"\xed\xa0\x80lone surrogate",
        "\u202egnp.exe".encode(),
        b"n" * 255,
        b"\xff" * 255,
        b"trailing ",
        b"UPPER",
        b"upper",
    ):
        write(folder + b"/" + name + (b"_" if len(name) == 1 else b""), name)
    os.mkdir(folder + b"/dir\xfe\n")
    write(folder + b"/dir\xfe\n/inside", b"inside")


def _deep(folder: bytes, mixed: Mixed) -> None:
    _chain(folder, [b"d%02d" % level for level in range(30)])
    _chain(folder, [b"%02d" % level + b"l" * 245 for level in range(16)])  # near 4,000 bytes
    _chain(folder, [b"%02d" % level + b"\xe9" * 198 for level in range(40)])  # no system call takes this path whole


def _chain(folder: bytes, names: list[bytes]) -> None:
    here = os.open(folder, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    bottom = os.open(b"bottom", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=here)
    os.write(bottom, b"at the bottom of %d" % len(names))
    os.close(bottom)
    os.close(here)


def _many(folder: bytes, mixed: Mixed) -> None:
    os.mkdir(folder + b"/tiny")
    for number in range(mixed.tiny):
        write(folder + b"/tiny/%d" % number, b"%d\n" % number * (1 + number % 40))
    os.mkdir(folder + b"/wide")
    write(folder + b"/wide/first", b"one inode, many names")
    for number in range(mixed.directory):
        write(folder + b"/wide/a name of common length %06d" % number)
    for step, name in ((7, b"holey"), (37, b"nearly empty"), (10**9, b"emptied")):
        os.mkdir(folder + b"/" + name)
        for number in range(mixed.directory // 2):
            write(folder + b"/" + name + b"/gone or here %06d" % number, b"x")
        for number in range(mixed.directory // 2):
            if step == 7 if number % 7 else number % step:
                os.unlink(folder + b"/" + name + b"/gone or here %06d" % number)
    for number in range(0, mixed.directory // 2, 14):
        os.rename(folder + b"/holey/gone or here %06d" % number, folder + b"/holey/renamed\x07%d" % number)


def _contents(folder: bytes, mixed: Mixed) -> None:
    dice = random.Random(mixed.seed)
    block = mixed.block
    write(folder + b"/empty")
    for size in (
        1,
        59,
        60,
        61,
        120,
        156,
        160,
        300,
        700,
        900,
        block - 1,
        block,
        block + 1,
        2 * block,
        12 * block,
        13 * block,
    ):
        write(folder + b"/size %d" % size, dice.randbytes(size))
    write(folder + b"/random", dice.randbytes(mixed.random_bytes))
    middle = mixed.sparse_bytes // 2 + 777
    for at in (0, middle, mixed.sparse_bytes - 5):
        write(folder + b"/sparse", b"data here"[: 5 if at > middle else 9], at)
    write(folder + b"/hole at end", b"start")
    os.truncate(folder + b"/hole at end", 40 * block + 3)
    write(folder + b"/only a hole")
    os.truncate(folder + b"/only a hole", 9 * block)
    write(folder + b"/cut", dice.randbytes(9 * block))
    os.truncate(folder + b"/cut", 3 * block + 11)
    os.truncate(folder + b"/cut", 6 * block)
    for name, mode in ((b"unwritten", 0), (b"unwritten beyond the end", KEEP_SIZE)):
        path = folder + b"/" + name
        write(path, b"begin")
        with mixed.may_refuse("fallocate"):
            fallocate(path, mode, 0, 40 * block)
            write(path, b"in the middle", 17 * block + 3)
    write(folder + b"/punched", dice.randbytes(50 * block))
    with mixed.may_refuse("punch"):
        for number in range(1, 50, 3):
            fallocate(folder + b"/punched", KEEP_SIZE | PUNCH_HOLE, number * block, block)


def _fragmented(folder: bytes, mixed: Mixed) -> None:
    """Appends in turn, each forced to disk, leave no run of blocks; every second block written leaves no run either."""
    dice = random.Random(mixed.seed + 1)
    block = mixed.block
    ends = [os.open(folder + b"/append %d" % number, os.O_WRONLY | os.O_CREAT, 0o644) for number in range(4)]
    for _ in range(mixed.rounds):
        for end in ends:
            os.write(end, dice.randbytes(block + 100))
            os.fdatasync(end)
    for end in ends:
        os.close(end)
    with open(folder + b"/every second block", "wb") as stream:
        for number in range(mixed.fragments):
            stream.seek(number * 2 * block)
            stream.write(b"fragment %d" % number)
    with open(folder + b"/backwards", "wb") as stream:
        for number in range(mixed.fragments // 8, 0, -1):
            stream.seek(number * 3 * block)
            stream.write(b"backwards %d" % number)
    far = mixed.sparse_bytes * 6  # beyond what one double indirect block of 1 KiB reaches
    write(folder + b"/far", b"far away", far)


def _links(folder: bytes, mixed: Mixed) -> None:
    write(folder + b"/name 1", b"three names")
    for name in (b"a", b"b"):
        os.mkdir(folder + b"/" + name)
        os.link(folder + b"/name 1", folder + b"/" + name + b"/name of " + name)
    os.symlink(b"name 1", folder + b"/symlink of a symlink")
    os.link(folder + b"/symlink of a symlink", folder + b"/second name of the symlink", follow_symlinks=False)
    for length in (1, 58, 59, 60, 61, 200, 1023, 2047, 4095):
        if length < mixed.block:  # ext keeps a target in one block
            os.symlink((b"t/" * 2048)[: length - 1] + b"\xe9", folder + b"/symlink %d" % length)
    os.symlink(b"../../../../etc/passwd", folder + b"/upwards")
    os.symlink(b"symlink loop", folder + b"/symlink loop")
    os.mkfifo(folder + b"/fifo", 0o640)
    here = os.open(b".", os.O_RDONLY)
    os.chdir(folder)  # a socket's path may not be longer than 107 bytes
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(b"socket")
    os.fchdir(here)
    os.close(here)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as `getxattr` gives it: (tag, permissions, id), id 0xFFFFFFFF where the tag has none."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
ACCESS = acl(
    (1, 6, NOBODY), (2, 4, 1001), (2, 7, 4_000_000_000), (4, 4, NOBODY), (8, 5, 100), (16, 7, NOBODY), (32, 0, NOBODY)
)
DEFAULT = acl((1, 7, NOBODY), (2, 5, 70_000), (4, 5, NOBODY), (16, 5, NOBODY), (32, 1, NOBODY))


def _xattrs(folder: bytes, mixed: Mixed) -> None:
    dice = random.Random(mixed.seed + 2)

    used: Counter[bytes] = Counter()

    def give(name: bytes, key: bytes, value: bytes) -> None:
        path = folder + b"/" + name
        used[name] += 20 + len(key) + len(value)
        if not os.path.exists(path):
            write(path, b"content of " + name)
        if used[name] < mixed.attribute_room:
            with mixed.may_refuse(f"xattr {key!r}"):
                os.setxattr(path, key, value)

    give(b"one", b"user.one", b"1")
    give(b"empty value", b"user.empty", b"")
    give(b"odd bytes", b"user.\xe9\xff name", b"\x00\xff\n")
    give(b"long name", b"user." + b"k" * 250, b"value")
    for number in range(40):
        give(b"many", b"user.key %d" % number, dice.randbytes(3 + number % 9))
    for number in range(20):
        give(b"spilled", b"user.spilled %d" % number, dice.randbytes(20 + number))
    for name in (b"shared block 1", b"shared block 2"):
        give(name, b"user.shared", b"the same for both " * 20)
    for size in (900, 3_000, 3_900, 20_000, 65_536):
        give(b"value of %d" % size, b"user.large", dice.randbytes(size))
    give(b"two large", b"user.large 1", dice.randbytes(5_000))
    give(b"two large", b"user.large 2", dice.randbytes(9_000))
    give(b"acl", b"system.posix_acl_access", ACCESS)
    os.mkdir(folder + b"/acl dir")
    give(b"acl dir", b"system.posix_acl_access", ACCESS)
    give(b"acl dir", b"system.posix_acl_default", DEFAULT)
    give(b"acl dir", b"user.directory", b"too")
    write(folder + b"/acl dir/inherits", b"inherits the default")
    for number in range(3):
        give(b"all", b"user.%d" % number, dice.randbytes(100))
    give(b"all", b"system.posix_acl_access", ACCESS)
    os.symlink(b"one", folder + b"/a symlink")
    if os.geteuid() == 0:
        for name in (b"one", b"all", b"trusted"):
            give(name, b"trusted.kumo", b"only root sees this")
            give(name, b"security.mori", b"\x00\x01")
        give(b"capable", b"security.capability", bytes.fromhex("0100000200240000000000000000000000000000")[:20])
        give(
            b"capable in a namespace",
            b"security.capability",
            bytes.fromhex("010000030004000000000000000000000000000064000000"),
        )
        os.setxattr(folder + b"/a symlink", b"trusted.link", b"of a symlink", follow_symlinks=False)


def _modes(folder: bytes, mixed: Mixed) -> None:
    for mode in (0, 0o777, 0o4755, 0o2755, 0o1777, 0o7777, 0o4000):
        write(folder + b"/mode %o" % mode)
        os.chmod(folder + b"/mode %o" % mode, mode)
        os.mkdir(folder + b"/dir %o" % mode)
        os.chmod(folder + b"/dir %o" % mode, mode | stat.S_IRWXU)


def _privileged(folder: bytes, mixed: Mixed) -> None:
    for name, kind, device in (
        (b"null", stat.S_IFCHR, (1, 3)),
        (b"new char", stat.S_IFCHR, (300, 70_000)),
        (b"disk", stat.S_IFBLK, (8, 0)),
        (b"new block", stat.S_IFBLK, (259, 1_000)),
    ):
        os.mknod(folder + b"/" + name, kind | 0o620, os.makedev(*device))
    for owner in (1, 65_534, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 2):
        path = folder + b"/owner %d" % owner
        write(path, b"owned")
        os.chown(path, owner, 2**32 - 2 - owner if owner > 1 else owner)
    os.symlink(b"owner 1", folder + b"/link")
    os.chown(folder + b"/link", 70_000, 80_000, follow_symlinks=False)


def _times(folder: bytes, mixed: Mixed) -> None:
    for seconds in (
        -(2**31),
        -(2**31) + 1,
        -1,
        0,
        1,
        1_700_000_000,
        2**31 - 1,
        2**31,
        2**32 - 1,
        2**32,
        2**33,
        3 * 2**32 + 2**31 - 1,
    ):
        for nanoseconds in (0, 1, 123_456_789, 999_999_999):
            path = folder + b"/%d.%09d" % (seconds, nanoseconds)
            write(path, b"time")
            os.utime(path, ns=(0, seconds * SECOND + nanoseconds))
    os.mkdir(folder + b"/directory")
    os.symlink(b"x", folder + b"/symlink")
    for name in (b"directory", b"symlink"):
        os.utime(folder + b"/" + name, ns=(5, -7 * SECOND + 77), follow_symlinks=False)
