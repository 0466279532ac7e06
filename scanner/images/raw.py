"""Raw images and block devices: the bytes of the file are the bytes of the disk."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from core.blocks import BlockSource, Bytes
from core.errors import ConfigError, LimitExceeded, Unreadable
from scanner.images.base import READ_LIMIT, DiskFile, OpenParent

_PIECE = 64 << 20  # bytes per pread: the kernel returns at most 2 GiB less a page at once


class FileSource:
    """A `BlockSource` over an open file; owns `fd` and closes it.

    A regular file is mapped once, and `read` gives read-only views of the mapping without copying. Bytes that the
    kernel cannot supply under a mapping (an I/O error, a file cut short meanwhile) arrive as SIGBUS, not as an error:
    that is one reason why disks are read in a child process. A block device, or a file that cannot be mapped, is read
    with `os.pread`. `size` is in bytes and may be 0. Raises `ConfigError` for what is neither file nor block device.
    """

    def __init__(self, fd: int, *, mapped: bool = True) -> None:
        self._fd = fd
        try:
            self.size = _size(fd)
            self._map = _map(fd, self.size) if mapped else None
        except BaseException:
            os.close(fd)
            raise
        self._view = memoryview(self._map) if self._map is not None else None

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mapped: bool = True) -> FileSource:
        """Raises `ConfigError` if `path` cannot be opened."""
        try:
            # O_NONBLOCK: a named pipe must not hold us up before we see that it is one
            fd = os.open(Path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot open the disk: {error}") from error
        return cls(fd, mapped=mapped)

    def read(self, offset: int, length: int) -> Bytes:
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        length = min(length, max(0, self.size - offset))
        if not length:
            return b""
        if self._view is not None:
            return self._view[offset : offset + length]
        if length > READ_LIMIT:
            raise LimitExceeded(f"one read of {length} bytes; the limit is {READ_LIMIT}")
        pieces = []
        while length:
            piece = self._pread(offset, min(length, _PIECE))
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _pread(self, offset: int, length: int) -> bytes:
        try:
            piece = os.pread(self._fd, length, offset)
        except OSError as error:
            raise Unreadable(f"{length} bytes at offset {offset} cannot be read: {error.strerror}") from error
        if not piece:
            raise Unreadable(f"the disk ends at offset {offset}, before its size of {self.size} bytes")
        return piece

    def close(self) -> None:
        """Closes the file. A mapping with views still in use lives on until the last of them is gone."""
        if self._view is not None and self._map is not None:
            try:
                self._view.release()
                self._map.close()
            except BufferError:
                pass
            self._view = self._map = None
            self.size = 0
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _size(fd: int) -> int:
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return status.st_size
        if stat.S_ISBLK(status.st_mode):
            return os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        raise Unreadable(f"the size of the disk is not known: {error.strerror}") from error
    raise ConfigError("a disk is a file or a block device, and this is neither")


def _map(fd: int, size: int) -> mmap.mmap | None:
    if not size or not stat.S_ISREG(os.fstat(fd).st_mode):
        return None
    try:
        return mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    except (OSError, ValueError, OverflowError):
        return None  # larger than the address space, or a file system without mappings


class Raw:
    """Takes everything, so it stands last in `IMAGES`."""

    name = "raw"

    def probe(self, head: bytes, tail: bytes) -> bool:  # noqa: ARG002
        return True

    def open(self, file: DiskFile, open_parent: OpenParent) -> BlockSource:  # noqa: ARG002
        return file
