"""Opening what the operator names: the only place that touches paths. The parser gets descriptors, read only."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from core.blocks import BlockSource
from core.errors import ConfigError, Unsupported
from core.text import printable

_FLAGS = (
    os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
)  # a named pipe must not hold us up before we see that it is one


Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True)
class Disk:
    """An open disk image or block device."""

    path: Path
    fd: int

    @property
    def identity(self) -> Identity:
        return identity(self.fd)


@dataclass(frozen=True)
class RemoteDisk:
    """A disk whose bytes only this process can get: `source` stays here, parsers ask for its blocks. Always raw."""

    name: str
    source: BlockSource

    def __str__(self) -> str:
        return self.name


def identity(file: int | Path) -> Identity:
    """The same for every name of a file. Raises `OSError`."""
    status = file.stat() if isinstance(file, Path) else os.fstat(file)
    return status.st_dev, status.st_ino


def open_disk(path: Path) -> Disk:
    """Raises `ConfigError` with one line that says what to do next."""
    shown = printable(str(path))
    try:
        fd = os.open(path, _FLAGS)
    except FileNotFoundError as error:
        raise ConfigError(f"{shown}: no such file; give the path of a disk image or block device") from error
    except PermissionError as error:
        raise ConfigError(
            f"{shown}: no permission to read it; run as a user who may (for a device: root or group disk)"
        ) from error
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{shown}: cannot be opened ({said}); check the device or file") from error
    try:
        _check(fd, shown)
    except BaseException:
        os.close(fd)
        raise
    return Disk(path, fd)


def _check(fd: int, shown: str) -> None:
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(
            f"{shown}: is a directory; give a disk image inside it, or the block device it is mounted from"
        )
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise ConfigError(f"{shown}: is neither a file nor a block device; give a disk image or a block device")
    try:
        if not os.lseek(fd, 0, os.SEEK_END):
            raise ConfigError(f"{shown}: is empty (0 bytes); check that the copy of the disk finished")
        os.pread(fd, 512, 0)
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read ({error.strerror}); check the device") from error


def open_backing(disk: Path, name: str) -> int:
    """A descriptor of the backing file `name` of `disk`, if it lies in the same folder (or below).

    The name comes out of the image, so it is hostile: without this rule an image could have any file of this machine
    read as its content. Raises `Unsupported` with the reason.
    """
    shown = printable(name[:200])
    folder = Path(os.path.realpath(disk)).parent
    try:
        target = Path(os.path.realpath(folder / name))
    except (OSError, ValueError) as error:
        raise Unsupported(f"its backing file {shown!r} is not a file name") from error
    if folder not in target.parents:
        raise Unsupported(
            f"its backing file {shown!r} is not in the same folder; move it there, or `qemu-img rebase` the disk"
        )
    try:
        fd = os.open(target, _FLAGS | os.O_NOFOLLOW)
    except OSError as error:
        raise Unsupported(
            f"its backing file {shown!r} cannot be opened ({error.strerror}); put it in the same folder"
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Unsupported(f"its backing file {shown!r} is not a regular file")
    return fd
