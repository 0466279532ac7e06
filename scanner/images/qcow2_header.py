"""The header of a qcow2 image, versions 2 and 3.

Specification: QEMU, docs/interop/qcow2.txt, sections "Header" and "Header extensions". All numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from core.blocks import BlockSource
from core.errors import Corrupt, Encrypted, Unsupported

MAGIC = b"QFI\xfb"
MAX_L1_BYTES = 32 << 20  # QEMU's limit
MAX_SIZE = 1 << 62
MAX_NAME = 1023

# magic, version, backing offset and length, cluster_bits, size, crypt_method, l1_size, l1_offset
_V2 = struct.Struct(">4sIQIIQIIQ")
_V2_BYTES = 72
_V3 = struct.Struct(">QQQII")  # incompatible, compatible, autoclear, refcount_order, header_length; at 72
_V3_BYTES = 104
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_MAX_EXTENSIONS = 256

_DIRTY, _DAMAGED, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_CRYPT = {1: "AES", 2: "LUKS"}
ZLIB, ZSTD = 0, 1


@dataclass(frozen=True)
class Header:
    """What reading needs of the header. Sizes and offsets are bytes; `l1_entries` is what the virtual size needs."""

    version: int
    cluster_bits: int
    size: int
    l1_offset: int
    l1_entries: int
    compression: int
    extended_l2: bool
    backing_name: str | None
    backing_format: str | None

    @property
    def l2_entry_bytes(self) -> int:
        return 16 if self.extended_l2 else 8

    @property
    def l2_entries(self) -> int:
        """Entries in one L2 table; a table is one cluster long."""
        return (1 << self.cluster_bits) // self.l2_entry_bytes


def parse_header(file: BlockSource) -> Header:
    """Raises `Corrupt`, `Unsupported` (names the feature) or `Encrypted` (names the method)."""
    fixed = bytes(file.read(0, 112))
    if len(fixed) < _V2_BYTES:
        raise Corrupt("the qcow2 header is cut short")
    magic, version, name_offset, name_length, cluster_bits, size, crypt, l1_size, l1_offset = _V2.unpack_from(fixed)
    if magic != MAGIC:
        raise Corrupt("there is no qcow2 header")
    if version not in {2, 3}:
        raise Unsupported(f"qcow version {version} is not read: convert it with `qemu-img convert -O raw`")
    if not 9 <= cluster_bits <= 21:
        raise Corrupt(f"the qcow2 header gives clusters of 2**{cluster_bits} bytes; 9 to 21 are possible")
    if size > MAX_SIZE:
        raise Corrupt(f"the qcow2 header gives a size of {size} bytes")
    if crypt:
        if crypt in _CRYPT:
            raise Encrypted(f"the qcow2 image is encrypted ({_CRYPT[crypt]}); its key is not here")
        raise Unsupported(f"qcow2 encryption method {crypt} is not known")
    features, compression, header_length = _version_3(fixed) if version == 3 else (0, ZLIB, _V2_BYTES)
    extended_l2 = bool(features & _EXTENDED_L2)
    if extended_l2 and cluster_bits < 14:
        raise Corrupt("a qcow2 image with extended L2 entries has clusters of at least 16 KiB")
    cluster = 1 << cluster_bits
    per_table = cluster // (16 if extended_l2 else 8)
    l1_entries = -(-size // (cluster * per_table))
    _check_l1(file, cluster, l1_offset, l1_size, l1_entries)
    backing_format = _backing_format(file, header_length, min(name_offset or cluster, cluster))
    name = _backing_name(file, name_offset, name_length, cluster)
    return Header(version, cluster_bits, size, l1_offset, l1_entries, compression, extended_l2, name, backing_format)


def _version_3(fixed: bytes) -> tuple[int, int, int]:
    """The incompatible features, the compression type and the length of the header."""
    if len(fixed) < _V3_BYTES:
        raise Corrupt("the qcow2 header is cut short")
    features, _, _, _, header_length = _V3.unpack_from(fixed, _V2_BYTES)
    # QEMU's own limit is the first cluster; the fields we know end at 112
    if header_length < _V3_BYTES or header_length % 8:
        raise Corrupt(f"the qcow2 header gives itself a length of {header_length} bytes")
    if features & _DATA_FILE:
        raise Unsupported("qcow2 with an external data file is not read: convert it with `qemu-img convert -O raw`")
    # dirty and corrupt speak of refcounts and of writing; every entry is checked on reading anyway
    if unknown := features & ~(_DIRTY | _DAMAGED | _COMPRESSION | _EXTENDED_L2):
        bits = ", ".join(str(bit) for bit in range(64) if unknown >> bit & 1)
        raise Unsupported(f"qcow2 incompatible feature bits not known: {bits}")
    compression = fixed[104] if header_length > 104 and len(fixed) > 104 else ZLIB
    if bool(features & _COMPRESSION) != (compression != ZLIB):
        raise Corrupt("the qcow2 compression type and its feature bit contradict each other")
    if compression not in {ZLIB, ZSTD}:
        raise Unsupported(f"qcow2 compression type {compression} is not known")
    return features, compression, header_length


def _check_l1(file: BlockSource, cluster: int, offset: int, entries: int, needed: int) -> None:
    if entries * 8 > MAX_L1_BYTES or entries < needed:
        raise Corrupt(f"the qcow2 L1 table has {entries} entries; the disk needs {needed}, the limit is 32 MiB")
    if offset % cluster or offset + needed * 8 > file.size:
        raise Corrupt(f"the qcow2 L1 table at offset {offset} is misplaced or outside the file")


def _backing_name(file: BlockSource, offset: int, length: int, cluster: int) -> str | None:
    if not offset or not length:
        return None
    if length > MAX_NAME or offset + length > min(cluster, file.size):
        raise Corrupt("the qcow2 backing file name is outside the header cluster")
    raw = bytes(file.read(offset, length))
    if b"\0" in raw:
        raise Corrupt("the qcow2 backing file name contains a zero byte")
    name = raw.decode("utf-8", "surrogateescape")
    if ":" in name.partition("/")[0]:
        # QEMU reads `json:{...}`, `nbd:...` or `https://...` here: none of them is a file beside the image
        raise Unsupported(f"the qcow2 backing file is not a plain file name: {name[:80]!r}")
    return name


def _backing_format(file: BlockSource, offset: int, end: int) -> str | None:
    """Looked for in the header extensions, which end before the backing file name, or else with the first cluster."""
    for _ in range(_MAX_EXTENSIONS):
        raw = bytes(file.read(offset, _EXTENSION.size))
        if offset >= end or len(raw) < _EXTENSION.size:
            return None
        kind, length = _EXTENSION.unpack(raw)
        if not kind:
            return None
        offset += _EXTENSION.size
        if offset + length > end:
            raise Corrupt("a qcow2 header extension is longer than the space for it")
        if kind == _BACKING_FORMAT:
            if length > 15:  # QEMU's limit: no format has a longer name
                raise Corrupt(f"the qcow2 backing format name is {length} bytes long")
            return bytes(file.read(offset, length)).decode("ascii", "replace")
        offset += -(-length // 8) * 8
    raise Corrupt(f"more than {_MAX_EXTENSIONS} qcow2 header extensions")
