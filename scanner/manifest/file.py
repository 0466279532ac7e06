"""A manifest as a file: chunks of blocks, each compressed by itself, then facts, an index and a digest over all.

Layout: 8 bytes of magic, version (u32); chunks; index (JSON); facts (JSON); trailer. A chunk is one zstd frame, in it blocks
(see `scanner.manifest.block`), each after its length (u32). All numbers are little endian. Compression is RFC 8878.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final, NamedTuple

import zstandard

from core.blocks import BlockSource
from core.errors import Corrupt, Unreadable, Unsupported
from scanner.manifest.block import MAX_BLOCK_BYTES, MAX_ROWS, Block

FORMAT_VERSION: Final = 2
MAGIC: Final = b"KUMOMANI"
_HEAD: Final = struct.Struct("<8sI")
_TRAILER: Final = struct.Struct("<QQQ32s8s")  # where index, facts and trailer begin; SHA-256 of all before the digest
_END: Final = b"KUMO-END"
_CHUNK_ROWS: Final = 4096
_CHUNK_BYTES: Final = 1 << 20
_MAX_CHUNK_BYTES: Final = MAX_BLOCK_BYTES + _CHUNK_BYTES + (1 << 16)
_MAX_JSON_BYTES: Final = 256 << 20
_PIECE: Final = 1 << 20
_LEVEL: Final = 6
MAX_CHUNKS: Final = 1 << 20  # 4 billion inodes


class Chunk(NamedTuple):
    """One entry of the index: rows of one volume, inodes `first` to `last`; `offset` and `length` in the file."""

    volume: int
    first: int
    last: int
    rows: int
    offset: int
    length: int
    plain: int


class Writer:
    """Writes a manifest to `stream` as blocks come. What `stream` raises goes on; `ValueError` for too many chunks."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._at = 0
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        self._chunks: list[Chunk] = []
        self._blocks: list[bytes] = []
        self._bytes = self._rows = 0
        self._volume = self._first = self._last = -1
        self._write(_HEAD.pack(MAGIC, FORMAT_VERSION))

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self._at += len(data)

    def add(self, volume: int, first: int, last: int, rows: int, block: bytes) -> None:
        """Blocks of one volume come one after the other, inodes ascending."""
        full = self._rows + rows > _CHUNK_ROWS or self._bytes + len(block) > _CHUNK_BYTES
        if self._blocks and (volume != self._volume or full):
            self._flush()
        if not self._blocks:
            self._volume, self._first = volume, first
        self._last = last
        self._rows += rows
        self._bytes += len(block) + 4
        self._blocks += [len(block).to_bytes(4, "little"), block]

    def _flush(self) -> None:
        if not self._blocks:
            return
        if len(self._chunks) >= MAX_CHUNKS:
            raise ValueError("more chunks than a manifest can have")
        frame = self._compressor.compress(b"".join(self._blocks))
        self._chunks.append(Chunk(self._volume, self._first, self._last, self._rows, self._at, len(frame), self._bytes))
        self._write(frame)
        self._blocks = []
        self._bytes = self._rows = 0

    def finish(self, facts: Mapping[str, object]) -> None:
        self._flush()
        index = self._at
        self._write(json.dumps(self._chunks, separators=(",", ":")).encode("ascii"))
        where = self._at
        self._write(json.dumps(facts, separators=(",", ":")).encode("ascii"))
        places = _TRAILER.pack(index, where, self._at, bytes(32), _END)[:24]
        self._digest.update(places)
        self._stream.write(places + self._digest.digest() + _END)


class Reader:
    """Opens a manifest and checks that it is whole.

    Raises `Unsupported` for another version, `Corrupt` for what is no manifest, cut short or damaged, `Unreadable`.
    """

    def __init__(self, source: BlockSource) -> None:
        self._source = source
        if source.size < _HEAD.size:
            raise Corrupt("the manifest is cut short")
        magic, version = _HEAD.unpack(bytes(source.read(0, _HEAD.size)))
        if magic != MAGIC:
            raise Corrupt("the file is no manifest of Kumomori")
        if version != FORMAT_VERSION:
            raise Unsupported(
                f"the manifest has format version {version}, and this program reads version {FORMAT_VERSION}"
            )
        end = source.size - _TRAILER.size
        if end < _HEAD.size:
            raise Corrupt("the manifest is cut short")
        index, facts, trailer, digest, mark = _TRAILER.unpack(bytes(source.read(end, _TRAILER.size)))
        if mark != _END or trailer != end:
            raise Corrupt("the manifest is cut short")
        if self._digest(end + 24) != digest:
            raise Corrupt("the manifest is damaged: its checksum is wrong")
        if not _HEAD.size <= index <= facts <= end:
            raise Corrupt("the manifest is damaged: its parts overlap")
        self.facts: dict[str, Any] = self._json(facts, end, dict)
        self._chunks: list[Chunk] = [_chunk(one, index) for one in self._json(index, facts, list)]
        self._check()
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=32 << 20)

    @property
    def rows(self) -> int:
        return sum(chunk.rows for chunk in self._chunks)

    def _digest(self, end: int) -> bytes:
        digest = hashlib.sha256()
        for at in range(0, end, _PIECE):
            piece = self._source.read(at, min(_PIECE, end - at))
            if len(piece) < min(_PIECE, end - at):
                raise Unreadable("the manifest cannot be read to its end")
            digest.update(piece)
        return digest.digest()

    def _json(self, start: int, end: int, kind: type) -> Any:
        if end - start > _MAX_JSON_BYTES:
            raise Corrupt("the manifest is damaged: a part is too long")
        try:
            value = json.loads(bytes(self._source.read(start, end - start)))
        except (ValueError, RecursionError) as error:
            raise Corrupt("the manifest is damaged: a part is not JSON") from error
        if not isinstance(value, kind):
            raise Corrupt("the manifest is damaged: a part is of another kind")
        return value

    def _check(self) -> None:
        ends: dict[int, int] = {}
        for chunk in self._chunks:
            if not ends.get(chunk.volume, -1) < chunk.first <= chunk.last:
                raise Corrupt("the manifest is damaged: its index is out of order")
            ends[chunk.volume] = chunk.last

    def volumes(self) -> list[int]:
        return sorted({chunk.volume for chunk in self._chunks})

    def chunks(self, volume: int) -> list[Chunk]:
        return [chunk for chunk in self._chunks if chunk.volume == volume]

    def read(self, chunk: Chunk) -> list[bytes]:
        """The blocks of a chunk, not decoded. Raises `Corrupt`."""
        frame = bytes(self._source.read(chunk.offset, chunk.length))
        try:
            # the library takes as much memory as the frame asks for, whatever limit it is given
            if zstandard.frame_content_size(frame) != chunk.plain:
                raise Corrupt("the manifest is damaged: a chunk has another length")
            plain = self._decompressor.decompress(frame, max_output_size=chunk.plain)
        except zstandard.ZstdError as error:
            raise Corrupt(f"the manifest is damaged: {error}") from error
        if len(plain) != chunk.plain:
            raise Corrupt("the manifest is damaged: a chunk has another length")
        blocks = []
        at = 0
        while at < len(plain):
            size = int.from_bytes(plain[at : at + 4], "little")
            at += 4
            if size > len(plain) - at:
                raise Corrupt("the manifest is damaged: a block is cut short")
            blocks.append(plain[at : at + size])
            at += size
        return blocks

    def blocks(self, volume: int) -> Iterator[Block]:
        for chunk in self.chunks(volume):
            for raw in self.read(chunk):
                yield Block(raw)


def _chunk(value: object, end: int) -> Chunk:
    if (
        not isinstance(value, list)
        or len(value) != 7
        or not all(type(one) is int and 0 <= one < 1 << 64 for one in value)
    ):
        raise Corrupt("the manifest is damaged: its index is not of the agreed form")
    chunk = Chunk(*value)
    if (
        chunk.offset + chunk.length > end
        or chunk.plain > _MAX_CHUNK_BYTES
        or not 0 < chunk.rows <= _CHUNK_ROWS + MAX_ROWS
    ):
        raise Corrupt("the manifest is damaged: its index leads outside")
    return chunk
