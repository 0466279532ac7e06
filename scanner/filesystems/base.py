"""What a filesystem reader is. Each format is one module (or one folder) here and one entry in `FILESYSTEMS`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from core.blocks import BlockSource, Extent
from core.files import FileEntry
from core.findings import Gap


class Filesystem(Protocol):
    """One opened filesystem.

    `index` reads all metadata once and returns how many inodes there are. After that `files(start, stop)` yields, for
    the inodes of that range in the order best for the disk, one `FileEntry` per name (hard links follow each other) and
    a `Gap` for what it could not make an entry of; `inode` gives those of one position. Both may be called again, in any
    order, in a forked process, too.
    `gaps` holds what opening and indexing could not look at.

    For scans that build on an earlier one: `names` gives the inode at a position and its paths without reading its record,
    `record` where that record is on the volume, `raw_record` its bytes, `metadata` all else that decides about a file besides its record and its
    content (block maps, attributes). `layout` is equal for two readings if numbers of inodes and places of records mean
    the same in both. `source` is the volume, under its journal. `replayed` are the (offset, length) on the volume of what a journal replaced in memory.
    """

    @property
    def gaps(self) -> Iterable[Gap]: ...
    @property
    def kind(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def layout(self) -> str: ...
    @property
    def replayed(self) -> Sequence[tuple[int, int]]: ...
    @property
    def source(self) -> BlockSource: ...
    def index(self) -> int: ...
    def names(self, at: int) -> tuple[int, list[bytes]]: ...
    def record(self, inode: int) -> Extent: ...
    def raw_record(self, inode: int) -> bytes: ...
    def metadata(self, file: FileEntry) -> Sequence[Extent]: ...
    def inode(self, at: int) -> Sequence[FileEntry | Gap]: ...
    def files(self, start: int, stop: int) -> Iterator[FileEntry | Gap]: ...


class Reader(Protocol):
    """How a format is found and opened. `probe` looks at a few KiB and never raises but `Unreadable`."""

    name: str

    def probe(self, source: BlockSource) -> bool: ...
    def open(self, source: BlockSource, volume: int) -> Filesystem: ...


Readers = Sequence[Reader]
