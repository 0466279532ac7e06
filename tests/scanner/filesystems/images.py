"""An image file as a block source, and how the tests open it with the ext reader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.blocks import Bytes
from scanner.filesystems.base import Filesystem
from scanner.filesystems.ext import READER


class ImageSource:
    """A file read with `pread`: the least that a block source must do."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.handle).st_size

    def read(self, offset: int, length: int) -> Bytes:
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        return os.pread(self.handle, length, offset)

    def close(self) -> None:
        os.close(self.handle)


@contextmanager
def opened(path: Path) -> Iterator[Filesystem]:
    """The filesystem in `path`, as a scan would open it. Raises what the reader raises."""
    source = ImageSource(path)
    try:
        yield READER.open(source, volume=0)
    finally:
        source.close()
