"""Random changes to a mounted filesystem, as programs and intruders make them."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, INSERT_RANGE = 1, 2, 8, 32  # linux/include/uapi/linux/falloc.h
_LIBC = ctypes.CDLL(None, use_errno=True)
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR" + b"-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


def _fallocate(path: Path, mode: int, offset: int, length: int) -> None:
    """Where the filesystem cannot do it, nothing happens."""
    fd = os.open(path, os.O_RDWR)
    try:
        _LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
    finally:
        os.close(fd)


class Mixer:
    """Files below `root`, and what may happen to them. All by a seed, and by nothing else."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.made = 0

    def fill(self, files: int) -> None:
        for number in range(files):
            folder = self.root / f"d{number % 17}" / f"e{number % 5}"
            folder.mkdir(parents=True, exist_ok=True)
            self._write(folder / f"f{number}")
        (self.root / "etc").mkdir()
        (self.root / "etc" / "passwd").write_bytes(b"root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/usr/sbin/nologin\n")
        (self.root / "etc" / "shadow").write_bytes(b"root:*:19000:0:99999:7:::\n")

    def _write(self, path: Path) -> None:
        size = self.random.choice((0, 3, 60, 200, 4096, 5000, 70_000, 300_000))
        path.write_bytes(self.random.randbytes(size))
        if self.random.random() < 0.1:
            with path.open("r+b") as stream:  # a hole, and more behind it
                stream.seek(size + 100_000)
                stream.write(b"behind a hole")
        if self.random.random() < 0.1:
            self._note(path)

    def _note(self, path: Path) -> None:
        """In the inode, in a block of its own, or in another inode; the last only where the filesystem can."""
        value = self.random.randbytes(self.random.choice((3, 40, 700, 3000)))
        with suppress(OSError):
            os.setxattr(path, "user.note", value)

    def _any(self) -> Path:
        files = sorted(path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())
        return self.random.choice(files)

    def mix(self, count: int) -> list[str]:
        """Names of what was done."""
        done = []
        kinds: list[Callable[[], None]] = [
            *(self.append, self.in_place, self.rename, self.reuse_inode, self.link, self.truncate, self.punch),
            *(self.mode, self.owner, self.attribute, self.delete, self.create, self.move_folder, self.infect),
            *(self.collapse, self.insert, self.unlink_one_of_two, self.symlink, self.swap, self.account),
        ]
        for _ in range(count):
            kind = self.random.choice(kinds)
            kind()
            done.append(kind.__name__)
        return done

    def append(self) -> None:
        with self._any().open("ab") as stream:
            stream.write(self.random.randbytes(self.random.choice((1, 500, 20_000))))

    def in_place(self) -> None:
        """Overwritten with the times set back: what an intruder does."""
        path = self._any()
        status = path.stat()
        if status.st_size:
            with path.open("r+b") as stream:
                stream.seek(self.random.randrange(status.st_size))
                stream.write(b"!")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def infect(self) -> None:
        path = self._any()
        status = path.stat()
        with path.open("r+b") as stream:
            stream.write(EICAR)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def rename(self) -> None:
        path = self._any()
        path.rename(path.with_name(f"renamed{self._number()}"))

    def reuse_inode(self) -> None:
        """Deleted and made again at once: the kernel hands out the same inode."""
        path = self._any()
        size = path.stat().st_size
        path.unlink()
        path.write_bytes(self.random.randbytes(size))

    def link(self) -> None:
        path = self._any()
        os.link(path, path.with_name(f"link{self._number()}"))

    def unlink_one_of_two(self) -> None:
        linked = [path for path in self.root.rglob("*") if path.is_file() and path.stat().st_nlink > 1]
        if linked:
            self.random.choice(sorted(linked)).unlink()

    def truncate(self) -> None:
        path = self._any()
        os.truncate(path, self.random.randrange(path.stat().st_size + 5000))

    def punch(self) -> None:
        _fallocate(self._any(), PUNCH_HOLE | KEEP_SIZE, 4096 * self.random.randrange(8), 8192)

    def collapse(self) -> None:
        """The blocks stay where they are on the disk, what stands in the file moves."""
        path = self._any()
        size = path.stat().st_size
        _fallocate(path, COLLAPSE_RANGE, 4096, 4096)
        os.truncate(path, size)

    def insert(self) -> None:
        path = self._any()
        size = path.stat().st_size
        _fallocate(path, INSERT_RANGE, 0, 4096)
        os.truncate(path, size)

    def mode(self) -> None:
        self._any().chmod(self.random.choice((0o600, 0o4755, 0o644)))

    def owner(self) -> None:
        path = self._any()
        os.chown(path, self.random.randrange(2000), self.random.randrange(2000))

    def attribute(self) -> None:
        self._note(self._any())

    def delete(self) -> None:
        path = self._any()
        if path.parent.name != "etc":
            path.unlink()

    def create(self) -> None:
        self._write(self._any().with_name(f"new{self._number()}"))

    def symlink(self) -> None:
        path = self._any().with_name(f"sym{self._number()}")
        path.symlink_to("x" * self.random.choice((5, 59, 60, 200)))

    def move_folder(self) -> None:
        """Every path below changes, and no file does."""
        folders = sorted(
            path for path in self.root.iterdir() if path.is_dir() and path.name not in {"etc", "lost+found"}
        )
        chosen = self.random.choice(folders)
        chosen.rename(self.root / f"moved{self._number()}")

    def swap(self) -> None:
        """Two files change names: the same names, inodes and contents, put together anew."""
        one, other = self._any(), self._any()
        if one != other:
            middle = one.with_name("in-between")
            one.rename(middle)
            other.rename(one)
            middle.rename(other)

    def account(self) -> None:
        with (self.root / "etc" / "passwd").open("ab") as stream:
            stream.write(b"second%d:x:0:0::/:/bin/sh\n" % self._number())

    def _number(self) -> int:
        self.made += 1
        return self.made * 1000 + self.random.randrange(1000)
