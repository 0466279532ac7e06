"""What the tests do to the machine: run programs with a deadline, make images, mount and always unmount them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
ENVIRONMENT = {**os.environ, "PATH": PATH, "LC_ALL": "C", "DEBUGFS_PAGER": "cat", "MKE2FS_SKIP_PROGRESS": "1"}


class Failed(Exception):
    """A program ended with an error; the message holds its last words."""


def run(
    *argv: str | Path | bytes,
    timeout: float = 120,
    stdin: bytes = b"",
    cwd: Path | None = None,
    good: Sequence[int] = (0,),
) -> bytes:
    """Standard output of a program; `good` are the exit codes that mean success.

    Raises `Failed`; a program that takes longer than `timeout` seconds is killed.
    """
    words = [os.fsencode(word) for word in argv]
    try:
        done = subprocess.run(
            words, input=stdin, capture_output=True, timeout=timeout, env=ENVIRONMENT, cwd=cwd, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{words[0].decode()} took longer than {timeout} s") from error
    if done.returncode not in good:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-400:]
        raise Failed(f"{b' '.join(words)[:300].decode('utf-8', 'replace')}: exit {done.returncode}: {said}")
    return done.stdout


def empty_image(path: Path, size: int) -> Path:
    """A sparse file of `size` bytes."""
    with path.open("wb") as stream:
        stream.truncate(size)
    return path


def make_ext(image: Path, size: int, options: Sequence[str], tree: Path | None = None) -> Path:
    """An ext2/3/4 image with a fixed UUID and hash seed; `tree` becomes its content, without root. Raises `Failed`."""
    empty_image(image, size)
    fixed = ["-U", "6b756d6f-6d6f-7269-8000-000000000001"]
    content: list[str | Path] = [] if tree is None else ["-d", tree]
    run("mke2fs", "-q", "-F", *fixed, *options, *content, image, timeout=300)
    return image


class Mounts:
    """Loop mounts that are undone when the block ends, whatever happened in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted: list[Path] = []
        self.made = 0

    def mount(self, image: Path, options: str = "rw") -> Path:
        """Where `image` is mounted now. Raises `Failed` if the kernel refuses it."""
        self.made += 1
        point = self.folder / f"mnt{self.made}"
        point.mkdir()
        try:
            run("mount", "-o", f"loop,{options}", image, point)
        except Failed:
            point.rmdir()
            raise
        self.mounted.append(point)
        return point

    def unmount(self, point: Path) -> None:
        try:
            run("umount", point)
        except Failed:
            run("umount", "-l", point)  # busy: gone from the tree now, from the kernel when the last file is closed
        self.mounted.remove(point)
        point.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for point in reversed(list(self.mounted)):
            self.unmount(point)
