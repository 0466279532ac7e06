"""What an image format is: a way in which a file pretends to be a disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from core.blocks import BlockSource

HEAD_BYTES = 8192  # what `probe` gets of the start of the file
TAIL_BYTES = 512  # and of its end
READ_LIMIT = 1 << 30  # bytes one `read` may put together in memory; a view of a mapping has no limit

DiskFile = BlockSource  # the bytes of an image file as they stand, before any format is applied
OpenBacking = Callable[[str], DiskFile]  # the caller's policy on where backing files may lie
OpenParent = Callable[[str, "str | None"], BlockSource]  # (name, format or None to probe) -> the disk in that image


class ImageFormat(Protocol):
    """One entry of `IMAGES`. `name` is what QEMU calls the format.

    `probe` gets the first `HEAD_BYTES` and the last `TAIL_BYTES` of the file and never raises. `open` raises `Corrupt`,
    `Unsupported`, `Encrypted`, `LimitExceeded`, `Unreadable`, and whatever of `core.errors` `open_parent` raises.
    """

    @property
    def name(self) -> str: ...

    def probe(self, head: bytes, tail: bytes) -> bool: ...
    def open(self, file: DiskFile, open_parent: OpenParent) -> BlockSource: ...
