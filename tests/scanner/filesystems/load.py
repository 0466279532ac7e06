"""Programs at work on a mounted filesystem, so that it can be copied in the middle of everything."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

KEPT_OPEN = 12


def hold_deleted(folder: Path, seed: int) -> dict[int, str]:
    """Files that are deleted but still open, on disk before this returns: descriptor to hex sha256.

    One is empty, one has a hole, one is fragmented by its length; all had another life before.
    """
    dice = random.Random(seed)
    held: dict[int, str] = {}
    for number, size in enumerate((0, 1, 5_000, 70_001, 1_000_000)):
        path = folder / f"held {number}"
        content = dice.randbytes(size)
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        os.pwrite(handle, content, 0)
        if number == 2:
            os.pwrite(handle, b"after a hole", 200_000)
            content = content.ljust(200_000, b"\0") + b"after a hole"
        os.fsync(handle)
        path.unlink()
        held[handle] = hashlib.sha256(content).hexdigest()
    here = os.open(folder, os.O_RDONLY)
    os.fsync(here)  # the names are gone on disk, too; not sync(2), which waits for every other disk of the machine
    os.close(here)
    return held


class Writer:
    """One thread in a folder of its own, and in one that all share. It ends with its first unexpected error."""

    def __init__(self, own: Path, shared: Path, seed: int, stop: threading.Event, cutting: threading.Lock) -> None:
        self.cutting = cutting  # a mapped page that another thread cuts off is a SIGBUS for the whole process
        self.own = own
        self.shared = shared
        self.dice = random.Random(seed)
        self.stop = stop
        self.made = 0
        self.open_handles: list[int] = []
        self.error: OSError | None = None
        self.steps: list[Callable[[], None]] = [
            self.create,
            self.create,
            self.append,
            self.rename,
            self.unlink,
            self.unlink,
            self.link,
            self.truncate,
            self.overwrite,
            self.delete_while_open,
            self.churn,
            self.attribute,
            self.move_folder,
        ]

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                try:
                    self.dice.choice(self.steps)()
                except OSError as error:  # names of the shared folder come and go, and the disk may be full for a while
                    if error.errno not in {errno.ENOENT, errno.EEXIST, errno.ENOSPC, errno.ENOTEMPTY, errno.EMLINK}:
                        raise
        except OSError as error:
            self.error = error
        finally:
            for handle in self.open_handles:
                os.close(handle)

    def folder(self) -> Path:
        return self.dice.choice([self.own, self.own, self.shared])

    def new(self) -> Path:
        self.made += 1
        return self.folder() / f"{self.own.name} {self.made}"

    def some(self) -> Path:
        names = [entry for entry in os.scandir(self.folder()) if entry.is_file(follow_symlinks=False)]
        if not names:
            raise FileNotFoundError(errno.ENOENT, "nothing here")
        return Path(self.dice.choice(names).path)

    def maybe_fsync(self, handle: int) -> None:
        if self.dice.random() < 0.15:
            os.fsync(handle)

    def create(self) -> None:
        with self.new().open("wb") as stream:
            stream.write(self.dice.randbytes(self.dice.choice([0, 10, 150, 4_096, 9_000, 120_000])))
            stream.flush()
            self.maybe_fsync(stream.fileno())

    def append(self) -> None:
        with self.some().open("ab") as stream:
            stream.write(self.dice.randbytes(self.dice.randrange(1, 30_000)))
            stream.flush()
            self.maybe_fsync(stream.fileno())

    def rename(self) -> None:
        self.some().rename(self.some() if self.dice.random() < 0.5 else self.new())

    def unlink(self) -> None:
        self.some().unlink()

    def link(self) -> None:
        os.link(self.some(), self.new())
        self.new().symlink_to("x" * self.dice.choice([5, 59, 60, 300]))

    def truncate(self) -> None:
        path = self.some()
        with self.cutting:
            os.truncate(path, self.dice.choice([0, path.stat().st_size // 2, path.stat().st_size + 20_000]))

    def overwrite(self) -> None:
        with self.cutting, self.some().open("r+b") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > 100:
                os.pwrite(
                    stream.fileno(), b"no hole here", 0
                )  # on a full disk a hole that is written to is a SIGBUS, too
                with mmap.mmap(stream.fileno(), 100) as view:
                    view[:100] = self.dice.randbytes(100)
                stream.seek(self.dice.randrange(size))
                stream.write(b"overwritten")

    def delete_while_open(self) -> None:
        path = self.new()
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        self.open_handles.append(handle)
        os.write(handle, self.dice.randbytes(30_000))
        self.maybe_fsync(handle)
        path.unlink()
        if len(self.open_handles) > KEPT_OPEN:
            os.close(self.open_handles.pop(0))

    def churn(self) -> None:
        folder = self.new()
        folder.mkdir()
        for number in range(self.dice.choice([3, 20, 150])):
            (folder / f"a longer name for a larger directory {number:04d}").touch()
        for path in sorted(folder.iterdir()):
            if self.dice.random() < 0.9:
                path.unlink()

    def attribute(self) -> None:
        os.setxattr(self.some(), b"user.%d" % self.dice.randrange(3), self.dice.randbytes(self.dice.choice([3, 400])))

    def move_folder(self) -> None:
        folders = [Path(entry.path) for entry in os.scandir(self.own) if entry.is_dir(follow_symlinks=False)]
        if folders:
            one = self.dice.choice(folders)
            for path in sorted(one.iterdir()):
                path.unlink()
            one.rmdir()
        if len(folders) > 1:
            folders[0].rename(self.new())


class Load:
    """Three writers below `root` until the block ends. Raises what a writer could not expect."""

    def __init__(self, root: Path, seed: int) -> None:
        self.stop = threading.Event()
        cutting = threading.Lock()
        shared = root / "shared"
        shared.mkdir()
        self.writers = []
        for number in range(3):
            own = root / f"writer{number}"
            own.mkdir()
            self.writers.append(Writer(own, shared, seed * 10 + number, self.stop, cutting))
        self.threads = [threading.Thread(target=writer.run) for writer in self.writers]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        for writer in self.writers:
            if writer.error:
                raise writer.error
