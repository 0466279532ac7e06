"""The images that are measured: made once, by the kernel, on a loop mount; kept in the work folder."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

SOURCES: Final = ("/usr/share", "/usr/include", "/usr/bin", "/usr/lib", "/usr/local", "/opt")
_MAX_FILE_BYTES: Final = 128 << 20  # so that neither we nor a peer leave a file out for its size
_MIB: Final = 1 << 20
_ENVIRONMENT: Final = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class Image:
    """`files` counts the names of regular files, `content` the bytes of their distinct files, `size` the image's bytes."""

    path: Path
    files: int
    content: int
    size: int


Fill = Callable[[Path], tuple[int, int]]


def real_files(work: Path, content: int, files: int) -> Image:
    """An ext4 image with at least `content` bytes in at least `files` files, copied from this machine's own folders.

    Raises `ValueError` if this machine has too few.
    """

    def fill(root: Path) -> tuple[int, int]:
        copier = _Copier(root, content, files)
        for source in SOURCES:
            copier.copy(Path(source))
        if not copier.enough:
            raise ValueError(f"this machine has no {content} bytes in {files} files to copy")
        return copier.files, copier.content

    # inodes for twice the files, and room for the rest of a file when the limit is passed
    return _made(work / f"real-{content}-{files}.img", 2 * content + 256 * _MIB, max(100_000, 2 * files), fill)


def many_files(work: Path, files: int) -> Image:
    """An ext4 image with `files` small files (64 bytes to 4 KiB) in folders of 200, those in folders of 100."""

    def fill(root: Path) -> tuple[int, int]:
        content = 0
        folder = root
        for number in range(files):
            if number % 200 == 0:
                group, member = divmod(number // 200, 100)
                folder = root / f"group-{group:03}" / f"folder-{member:03}"
                folder.mkdir(parents=True)
            line = b"file %d of many\n" % number
            data = line * (1 + number % 7 * (number % 31))
            with open(folder / f"document-{number:07}.txt", "wb", buffering=0) as out:
                out.write(data)
            content += len(data)
        return files, content

    return _made(work / f"many-{files}.img", 5000 * files + 256 * _MIB, files + files // 100 + 1000, fill)


class _Copier:
    """Copies trees until there is enough; hard links stay hard links."""

    def __init__(self, root: Path, content: int, files: int) -> None:
        self._root = root
        self._wanted = (content, files)
        self._linked: dict[tuple[int, int], Path] = {}
        self.content = self.files = 0

    @property
    def enough(self) -> bool:
        return self.content >= self._wanted[0] and self.files >= self._wanted[1]

    def copy(self, source: Path) -> None:
        for where, folders, names in os.walk(source):
            folders.sort()
            target = self._root / Path(where).relative_to("/")
            target.mkdir(parents=True, exist_ok=True)
            for name in sorted(names):
                if self.enough:
                    return
                self._copy_one(Path(where, name), target / name)

    def _copy_one(self, source: Path, target: Path) -> None:
        status = source.lstat()
        if stat.S_ISLNK(status.st_mode):
            target.symlink_to(source.readlink())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE_BYTES:
            return
        self.files += 1
        known = self._linked.setdefault((status.st_dev, status.st_ino), target)
        if known != target:
            os.link(known, target)
            return
        shutil.copy2(source, target)
        self.content += status.st_size


def _made(path: Path, size: int, inodes: int, fill: Fill) -> Image:
    """The image from an earlier run, or a new one; what is half made never gets its name."""
    facts = path.with_suffix(".json")
    if path.exists() and facts.exists():
        return Image(path, **json.loads(facts.read_text()))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as out:
        out.truncate(size)
    # nothing is left for the kernel to write in the background while we measure
    eager = "lazy_itable_init=0,lazy_journal_init=0"
    _tool("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-N", str(inodes), "-E", eager, str(part))
    with mounted(part, read_only=False) as root:
        files, content = fill(root)
    image = Image(path, files, content, size)
    facts.write_text(json.dumps({key: value for key, value in asdict(image).items() if key != "path"}))
    part.rename(path)
    return image


@contextmanager
def mounted(image: Path, *, read_only: bool = True) -> Iterator[Path]:
    """The image on a loop device of its own, mounted beside it. Needs root."""
    point = image.with_suffix(".mnt")
    point.mkdir(exist_ok=True)
    _tool("mount", "-t", "ext4", "-o", f"loop,{'ro' if read_only else 'rw,noatime'}", str(image), str(point))
    try:
        yield point
    finally:
        _tool("umount", str(point))
        point.rmdir()


def warm(image: Image) -> None:
    """Bring the whole image into the page cache, so that no run waits for the storage."""
    with image.path.open("rb", buffering=0) as stream:
        buffer = bytearray(8 * _MIB)
        while stream.readinto(buffer):
            pass


def _tool(*command: str) -> None:
    done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stderr.decode('utf-8', 'replace').strip()}")
