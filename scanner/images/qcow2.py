"""qcow2 images, versions 2 and 3.

Specification: QEMU, docs/interop/qcow2.txt, sections "Cluster mapping" and "Extended L2 Entries". Refcounts, internal
snapshots and bitmaps say nothing about what the disk holds now and are not looked at.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import zstandard

from core.blocks import BlockSource, Bytes
from core.errors import Corrupt, LimitExceeded
from scanner.images.base import READ_LIMIT, DiskFile, OpenParent
from scanner.images.qcow2_header import MAGIC, ZSTD, Header, parse_header

_TABLE_CACHE_BYTES = 8 << 20
_CLUSTER_CACHE_BYTES = 8 << 20
_OFFSET = 0x00FF_FFFF_FFFF_FE00  # bits 9 to 55
_COMPRESSED = 1 << 62
_ZEROS = 1
_WINDOW_LIMIT = 8 << 20  # bytes a zstd frame may ask for; no cluster is larger than 2 MiB


class Kind(Enum):
    """Where the bytes of a part of the disk come from."""

    HOLE = "hole"  # from the backing file; zeros without one
    ZERO = "zero"
    DATA = "data"
    COMPRESSED = "compressed"


class Run(NamedTuple):
    """`length` bytes of the disk of one kind. `host` is the offset in the file, or for COMPRESSED the L2 entry."""

    kind: Kind
    length: int
    host: int = 0
    skip: int = 0  # of COMPRESSED: bytes of the cluster before the run


class Qcow2Source:
    """The disk inside a qcow2 file.

    Reads from many threads and in forked children at once: the file is read by position, and the two caches (tables
    and decompressed clusters, 8 MiB each) are `lru_cache`s, which hold no lock over a fork. A read that one run of
    clusters covers is a view of the file. `read` raises `Corrupt` for entries that are misplaced or point outside the
    file, and `LimitExceeded` for more than 1 GiB at once.
    """

    def __init__(self, file: BlockSource, header: Header, backing: BlockSource | None) -> None:
        self.size = header.size
        self._file = file
        self._header = header
        self._backing = backing
        self._cluster = 1 << header.cluster_bits
        self._l1 = file.read(header.l1_offset, header.l1_entries * 8)
        self._table = lru_cache(max(1, _TABLE_CACHE_BYTES // self._cluster))(self._load_table)
        self._inflated = lru_cache(max(1, _CLUSTER_CACHE_BYTES // self._cluster))(self._inflate)

    def read(self, offset: int, length: int) -> Bytes:
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        length = min(length, max(0, self.size - offset))
        if not length:
            return b""
        if length > READ_LIMIT:
            raise LimitExceeded(f"one read of {length} bytes; the limit is {READ_LIMIT}")
        pieces = []
        for run in self._joined(offset, offset + length):
            pieces.append(self._bytes_of(run, offset))
            offset += run.length
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _bytes_of(self, run: Run, offset: int) -> Bytes:
        match run.kind:
            case Kind.DATA:
                # QEMU may leave the last cluster of a file unfinished; what is not there reads as zeros
                return _padded(self._file.read(run.host, run.length), run.length)
            case Kind.COMPRESSED:
                plain = memoryview(self._inflated(run.host))[run.skip : run.skip + run.length]
                if len(plain) < run.length:
                    raise Corrupt(f"the compressed cluster of disk offset {offset} is too short")
                return plain
            case Kind.HOLE if self._backing is not None:
                return _padded(self._backing.read(offset, run.length), run.length)
            case _:
                return bytes(run.length)

    def _joined(self, offset: int, end: int) -> Iterator[Run]:
        """The runs of `_runs`, neighbours joined where one read of the file serves both."""
        last: Run | None = None
        for run in self._runs(offset, end):
            if last is None:
                last = run
            elif run.kind is last.kind is not Kind.COMPRESSED and (
                run.kind is not Kind.DATA or run.host == last.host + last.length
            ):
                last = Run(last.kind, last.length + run.length, last.host)
            else:
                yield last
                last = run
        if last is not None:
            yield last

    def _runs(self, offset: int, end: int) -> Iterator[Run]:
        """The parts of the disk from `offset` to `end`; each inside one cluster, or the space of one missing table."""
        bits, entries, cluster = self._header.cluster_bits, self._header.l2_entries, self._cluster
        while offset < end:
            l1_index, index = divmod(offset >> bits, entries)
            host = int.from_bytes(self._l1[l1_index * 8 : l1_index * 8 + 8], "big") & _OFFSET
            table_end = min(end, (l1_index + 1) * entries << bits)
            if not host:
                yield Run(Kind.HOLE, table_end - offset)
                offset = table_end
                continue
            table = self._table(host)
            while offset < table_end:
                skip = offset & (cluster - 1)
                length = min(cluster - skip, table_end - offset)
                if self._header.extended_l2 and not table[2 * index] & _COMPRESSED:
                    yield from self._subclusters(table[2 * index], table[2 * index + 1], skip, skip + length)
                else:
                    yield self._standard(table[2 * index if self._header.extended_l2 else index], skip, length)
                offset += length
                index += 1

    def _standard(self, entry: int, skip: int, length: int) -> Run:
        """A part of the cluster that the L2 entry `entry` describes."""
        if entry & _COMPRESSED:
            return Run(Kind.COMPRESSED, length, entry & (_COMPRESSED - 1), skip)
        if entry & _ZEROS:
            if self._header.version < 3:
                raise Corrupt("a qcow2 version 2 image has a zero cluster, which only version 3 knows")
            return Run(Kind.ZERO, length)
        host = self._host(entry)
        return Run(Kind.DATA, length, host + skip) if host else Run(Kind.HOLE, length)

    def _subclusters(self, entry: int, bitmap: int, skip: int, end: int) -> Iterator[Run]:
        """The same for an extended entry: 32 parts, each allocated, zero or left to the backing file."""
        part = self._cluster // 32
        host = self._host(entry)
        while skip < end:
            index = skip // part
            length = min((index + 1) * part, end) - skip
            allocated, zero = bitmap >> index & 1, bitmap >> (32 + index) & 1
            if allocated and (zero or not host):
                raise Corrupt("a qcow2 subcluster is both allocated and not")
            if allocated:
                yield Run(Kind.DATA, length, host + skip)
            else:
                yield Run(Kind.ZERO if zero else Kind.HOLE, length)
            skip += length

    def _host(self, entry: int) -> int:
        """The offset of a data cluster in the file, 0 if there is none."""
        host = entry & _OFFSET
        if host % self._cluster or host >= self._file.size:
            if not host:
                return 0
            raise Corrupt(f"a qcow2 cluster at file offset {host} is misplaced or outside the file")
        return host

    def _load_table(self, host: int) -> array[int]:
        if host % self._cluster or host + self._cluster > self._file.size:
            raise Corrupt(f"a qcow2 L2 table at file offset {host} is misplaced or outside the file")
        table = array("Q")
        table.frombytes(self._file.read(host, self._cluster))
        if sys.byteorder == "little":
            table.byteswap()
        return table

    def _inflate(self, descriptor: int) -> bytes:
        """The cluster at a compressed cluster descriptor; never longer than a cluster."""
        shift = 62 - (self._header.cluster_bits - 8)
        host = descriptor & ((1 << shift) - 1)
        sectors = (descriptor >> shift) + 1
        packed = self._file.read(host, sectors * 512 - host % 512)
        if not packed:
            raise Corrupt(f"a compressed qcow2 cluster at file offset {host} is outside the file")
        try:
            if self._header.compression == ZSTD:
                reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT)
                with reader.stream_reader(packed, read_across_frames=True) as stream:
                    return stream.read(self._cluster)
            return zlib.decompressobj(-12).decompress(packed, self._cluster)
        except (zlib.error, zstandard.ZstdError) as error:
            raise Corrupt(f"a compressed qcow2 cluster at file offset {host} is damaged: {error}") from error


def _padded(found: Bytes, length: int) -> Bytes:
    return found if len(found) == length else bytes(found) + bytes(length - len(found))


class Qcow2:
    """Opens the image and, through `open_parent`, the chain of images below it."""

    name = "qcow2"

    def probe(self, head: bytes, tail: bytes) -> bool:  # noqa: ARG002
        return head.startswith(MAGIC)

    def open(self, file: DiskFile, open_parent: OpenParent) -> BlockSource:
        header = parse_header(file)
        backing = None
        if header.backing_name is not None:
            backing = open_parent(header.backing_name, header.backing_format)
        return Qcow2Source(file, header, backing)
