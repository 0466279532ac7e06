"""ext2, ext3 and ext4."""

from __future__ import annotations

from core.blocks import BlockSource
from scanner.filesystems.base import Filesystem
from scanner.filesystems.ext.filesystem import ExtFilesystem
from scanner.filesystems.ext.superblock import looks_like_ext


class ExtReader:
    name = "ext"

    def probe(self, source: BlockSource) -> bool:
        return looks_like_ext(source)

    def open(self, source: BlockSource, volume: int) -> Filesystem:
        return ExtFilesystem(source, volume)


READER = ExtReader()
