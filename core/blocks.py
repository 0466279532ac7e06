"""The first waist: `BlockSource` hides clouds, image formats and partitions from parsers."""

from __future__ import annotations

from typing import NamedTuple, Protocol, Sequence, Union

Bytes = Union[bytes, memoryview]


class Extent(NamedTuple):
    """A run of bytes on a disk. `logical` is where it starts inside the file it belongs to. All in bytes."""

    offset: int
    length: int
    logical: int = 0


class BlockSource(Protocol):
    """Random access to the bytes of a disk, volume or image.

    `read` is short only at the end, like `os.pread`; it is safe to call from many threads. The view it may return stays
    valid as long as the source is open. Raises `Unreadable` when the bytes cannot be had, `Corrupt` when a container
    format is broken, `ValueError` for a negative offset or length.
    """

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> Bytes: ...


def is_far(source: BlockSource) -> bool:
    """Whether each read may take a round trip, so that it pays to work out what to `prefetch`."""
    return bool(getattr(source, "far", False))


def prefetch(source: BlockSource, extents: Sequence[Extent]) -> None:
    """Tell `source` that these bytes are read soon, in that order. Sources for which that changes nothing are not asked."""
    ask = getattr(source, "prefetch", None)
    if ask is not None:
        ask(extents)


class Slice:
    """`length` bytes of another source from `start` on: how a partition looks. Reads past the parent's end are short."""

    def __init__(self, parent: BlockSource, start: int, length: int) -> None:
        if start < 0 or length < 0:
            raise ValueError("a slice starts and ends inside its parent")
        self.parent = parent
        self.start = start
        self.size = length

    def read(self, offset: int, length: int) -> Bytes:
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        if offset + length > self.size:
            length = max(0, self.size - offset)
        if not length:
            return b""
        return self.parent.read(self.start + offset, length)

    @property
    def far(self) -> bool:
        return is_far(self.parent)

    def prefetch(self, extents: Sequence[Extent]) -> None:
        inside = (one for one in extents if 0 <= one.offset < self.size)
        prefetch(
            self.parent,
            [Extent(self.start + one.offset, min(one.length, self.size - one.offset)) for one in inside],
        )


class MemorySource:
    """A disk held in memory: for tests and for small decoded things."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def read(self, offset: int, length: int) -> Bytes:
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        return self.content[offset : offset + length]


class Counted:
    """A source that counts the bytes asked of it; those asked for twice count twice."""

    def __init__(self, source: BlockSource) -> None:
        self._source = source
        self.size = source.size
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> Bytes:
        data = self._source.read(offset, length)
        self.bytes_read += len(data)
        return data
