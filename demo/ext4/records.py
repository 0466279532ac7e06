"""The on-disk records of ext4, as pure functions to bytes. All integers are little endian; sizes are bytes.

Source: Linux kernel documentation, "ext4 Data Structures and Algorithms": index nodes, directory entries, extent tree,
extended attributes, checksums.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import google_crc32c

from demo.ext4.layout import BLOCK, INODE_SIZE
from demo.ext4.tree import Inode

_MASK = 0xFFFFFFFF
EXTENTS_FLAG = 0x80000
_EXTRA = 32  # bytes of the inode beyond the classic 128 that are used
_INODE = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII")
_IN_INODE = INODE_SIZE - 128 - _EXTRA - 4  # room for attributes after their magic number
_XATTR_MAGIC = 0xEA020000
_XATTR_HEADER = 32
_XATTR_ENTRY = struct.Struct("<BBHIII")
_PREFIXES = {b"user.": 1, b"trusted.": 4, b"security.": 6}
_MAX_RUN = 32768  # blocks in one extent
_LEAF_ENTRIES = (BLOCK - 12 - 4) // 12
_DIRENT_TAIL = 12
FILE_TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFIFO: 5, stat.S_IFSOCK: 6, stat.S_IFLNK: 7}


def crc32c(seed: int, *parts: bytes) -> int:
    """CRC32C as ext4 has it: carried on from `seed`, not inverted at the end."""
    state = seed ^ _MASK
    for part in parts:
        state = google_crc32c.extend(state, part)
    return int(state) ^ _MASK


class Run(NamedTuple):
    """Blocks of a file that follow each other: `logical` in the file, `physical` on the disk."""

    logical: int
    physical: int
    length: int


def runs_of(pairs: Iterable[tuple[int, int]]) -> list[Run]:
    """Join (logical, physical) block pairs, in rising logical order."""
    runs: list[Run] = []
    for logical, physical in pairs:
        last = runs[-1] if runs else Run(-1, -1, 0)
        follows = (last.logical + last.length, last.physical + last.length) == (logical, physical)
        if last.length and follows and last.length < _MAX_RUN:
            runs[-1] = last._replace(length=last.length + 1)
        else:
            runs.append(Run(logical, physical, 1))
    return runs


def extent_leaves(runs: Sequence[Run], seed: int) -> list[bytes]:
    """The blocks below the inode: none if the runs fit into it."""
    if len(runs) <= 4:
        return []
    leaves = []
    for first in range(0, len(runs), _LEAF_ENTRIES):
        leaf = _extent_node(runs[first : first + _LEAF_ENTRIES], _LEAF_ENTRIES).ljust(BLOCK - 4, b"\0")
        leaves.append(leaf + struct.pack("<I", crc32c(seed, leaf)))
    if len(leaves) > 4:
        raise ValueError(f"a file in more than {4 * _LEAF_ENTRIES} pieces is not written")
    return leaves


def extent_root(runs: Sequence[Run], leaf_blocks: Sequence[int]) -> bytes:
    """The 60 bytes in the inode; `leaf_blocks` are where the blocks of `extent_leaves` were put."""
    if not leaf_blocks:
        return _extent_node(runs, 4).ljust(60, b"\0")
    root = struct.pack("<HHHHI", 0xF30A, len(leaf_blocks), 4, 1, 0)
    for index, block in enumerate(leaf_blocks):
        root += struct.pack("<IIHH", runs[index * _LEAF_ENTRIES].logical, block & _MASK, block >> 32, 0)
    return root.ljust(60, b"\0")


def _extent_node(runs: Sequence[Run], room: int) -> bytes:
    node = struct.pack("<HHHHI", 0xF30A, len(runs), room, 0, 0)
    for logical, physical, length in runs:
        node += struct.pack("<IHHI", logical, length, physical >> 32, physical & _MASK)
    return node


def directory_blocks(inode: Inode, seed: int) -> bytes:
    """All blocks of a directory, in the order its entries were given, each with a checksum in its tail."""
    names = [(b".", inode.number, 2), (b"..", inode.parent, 2)]
    names += [(name, child.number, FILE_TYPES[child.node.kind]) for name, child in inode.entries]
    room = BLOCK - _DIRENT_TAIL
    blocks: list[list[tuple[bytes, int, int]]] = [[]]
    used = 0
    for name in names:
        length = _padded(8 + len(name[0]))
        if used + length > room:
            blocks.append([])
            used = 0
        blocks[-1].append(name)
        used += length
    return b"".join(_directory_block(block, room, seed) for block in blocks)


def _directory_block(names: list[tuple[bytes, int, int]], room: int, seed: int) -> bytes:
    out = bytearray()
    for index, (name, number, kind) in enumerate(names):
        # the last entry reaches to the tail
        length = room - len(out) if index == len(names) - 1 else _padded(8 + len(name))
        out += struct.pack("<IHBB", number, length, len(name), kind) + name.ljust(length - 8, b"\0")
    return bytes(out) + struct.pack("<IHBBI", 0, _DIRENT_TAIL, 0, 0xDE, crc32c(seed, bytes(out)))


def _padded(length: int) -> int:
    return (length + 3) & ~3


class _Attribute(NamedTuple):
    namespace: int
    length: int
    name: bytes
    value: bytes

    @property
    def size(self) -> int:
        return _padded(_XATTR_ENTRY.size + self.length) + _padded(len(self.value))


def split_xattrs(xattrs: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """What of the attributes stands in the inode, and the block for the rest (checksum still 0); empty if not needed.

    Raises `ValueError` for a name of another namespace, and for more than fits.
    """
    inside: list[_Attribute] = []
    outside: list[_Attribute] = []
    free = _IN_INODE - 4
    for attribute in sorted(_attribute(name, value) for name, value in xattrs.items()):
        if attribute.size <= free:
            inside.append(attribute)
            free -= attribute.size
        else:
            outside.append(attribute)
    if sum(attribute.size for attribute in outside) > BLOCK - _XATTR_HEADER - 4:
        raise ValueError("extended attributes fill more than one block")
    body = struct.pack("<I", _XATTR_MAGIC) + _xattr_area(inside, _IN_INODE, 0, []) if inside else b""
    if not outside:
        return body, b""
    hashes = [_xattr_hash(attribute) for attribute in outside]
    combined = 0
    for one in hashes:
        combined = ((combined << 16) ^ (combined >> 16) ^ one) & _MASK
    header = struct.pack("<IIIII12x", _XATTR_MAGIC, 1, 1, combined if all(hashes) else 0, 0)
    return body, header + _xattr_area(outside, BLOCK - _XATTR_HEADER, _XATTR_HEADER, hashes)


def seal_xattr_block(block: bytes, number: int, seed: int) -> bytes:
    """`block` with its checksum, which covers where it stands."""
    checksum = crc32c(seed, struct.pack("<Q", number), block)
    return block[:16] + struct.pack("<I", checksum) + block[20:]


def _attribute(name: bytes, value: bytes) -> _Attribute:
    for prefix, index in _PREFIXES.items():
        rest = name.removeprefix(prefix)
        if rest != name and 0 < len(rest) <= 255 and b"\0" not in rest:
            return _Attribute(index, len(rest), rest, value)
    raise ValueError(f"not an extended attribute this writer can hold: {name!r}")


def _xattr_area(attributes: list[_Attribute], room: int, base: int, hashes: list[int]) -> bytes:
    """Entries from the front, values from the back; `base` is what offsets of values count from."""
    area = bytearray(room)
    front, back = 0, room
    for position, attribute in enumerate(attributes):
        offset = 0
        if attribute.value:
            back -= _padded(len(attribute.value))
            area[back : back + len(attribute.value)] = attribute.value
            offset = base + back
        entry = _XATTR_ENTRY.pack(
            attribute.length,
            attribute.namespace,
            offset,
            0,
            len(attribute.value),
            hashes[position] if hashes else 0,  # only blocks are shared, and so only they are hashed
        )
        area[front : front + len(entry) + attribute.length] = entry + attribute.name
        front += _padded(len(entry) + attribute.length)
    return bytes(area)


def _xattr_hash(attribute: _Attribute) -> int:
    result = 0
    for byte in attribute.name:
        result = ((result << 5) ^ (result >> 27) ^ byte) & _MASK
    value = attribute.value.ljust(_padded(len(attribute.value)), b"\0")
    for (word,) in struct.iter_unpack("<I", value):
        result = ((result << 16) ^ (result >> 16) ^ word) & _MASK
    return result


@dataclass(frozen=True)
class Body:
    """What the inode points to: 60 bytes of map or inline target, its flags, and how much is allocated in all."""

    area: bytes
    flags: int
    size: int
    blocks: int
    xattr_block: int = 0
    xattrs: bytes = b""


def inode_seed(seed: int, number: int) -> int:
    """Where checksums of an inode and of what belongs to it start: filesystem, number, generation."""
    return crc32c(seed, struct.pack("<II", number, _generation(number)))


def _generation(number: int) -> int:
    """Any number would do; not 0, so that a reader that leaves it out of a checksum is found out."""
    return number * 0x9E3779B1 & _MASK


def inode_record(inode: Inode, body: Body, seed: int, time: int, dtime: int = 0) -> bytes:
    """The 256 bytes of an inode. `seed` is that of the filesystem; `time` that of its making, in seconds."""
    node = inode.node
    seconds, nanoseconds = divmod(node.mtime_ns, 10**9)
    low, extra = _time(seconds, nanoseconds)
    fields = [
        node.mode,
        node.uid & 0xFFFF,
        body.size & _MASK,
        low,  # atime
        time,  # ctime
        low,  # mtime
        dtime,
        node.gid & 0xFFFF,
        inode.links,
        body.blocks * (BLOCK // 512),
        body.flags,
        0,
        body.area,
        _generation(inode.number),
        body.xattr_block & _MASK,
        body.size >> 32,
        0,
        0,
        body.xattr_block >> 32,
        node.uid >> 16,
        node.gid >> 16,
        0,  # low half of the checksum
        0,
        _EXTRA,
        0,  # high half of the checksum
        0,
        extra,
        extra,
        time,  # crtime
        0,
        0,
        0,
    ]
    blank = (_INODE.pack(*fields) + body.xattrs).ljust(INODE_SIZE, b"\0")
    checksum = crc32c(inode_seed(seed, inode.number), blank)
    record = bytearray(blank)
    struct.pack_into("<H", record, 0x7C, checksum & 0xFFFF)
    struct.pack_into("<H", record, 0x82, checksum >> 16)
    return bytes(record)


def _time(seconds: int, nanoseconds: int) -> tuple[int, int]:
    """A time as ext4 splits it: 32 bits, signed, then 2 bits that carry it past 2038 and 30 of nanoseconds."""
    low = seconds & _MASK
    signed = low - (1 << 32) if low >> 31 else low
    return low, (seconds - signed) >> 32 | nanoseconds << 2
