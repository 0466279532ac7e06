"""Extended attributes, in the inode, in a block of their own or in inodes of their own, as `getxattr` gives them.

Source: "ext4 Data Structures and Algorithms", 4.4 Extended Attributes; fs/ext4/acl.h for the ACL form.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from core.blocks import BlockSource
from core.errors import Corrupt
from scanner.filesystems.ext.crc import crc32c
from scanner.filesystems.ext.inode import EA_INODE, INLINE_DATA, Inode
from scanner.filesystems.ext.mapping import read_block
from scanner.filesystems.ext.superblock import INCOMPAT_EA_INODE, Superblock

_MAGIC: Final = b"\x00\x00\x02\xea"
_ENTRY: Final = struct.Struct("<BBHIII")
_MAX_VALUE_BYTES: Final = 1 << 20
_PREFIXES: Final = {
    0: b"",
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    5: b"trusted.lov",
    6: b"security.",
    7: b"system.",
    8: b"system.richacl",
    10: b"gnu.",
}
_ENCRYPTION: Final = 9  # the key context; the kernel does not list it
_ACL_OWNERLESS: Final = {0x01, 0x04, 0x10, 0x20}  # USER_OBJ GROUP_OBJ MASK OTHER carry no id on disk

ReadInode = Callable[[int], bytes]


def attributes(source: BlockSource, sb: Superblock, inode: Inode, read_value: ReadInode) -> dict[bytes, bytes]:
    """All attributes a user may see. `read_value` gives the content of an attribute inode.

    Raises `Corrupt` where an entry or value leaves its area, `Unreadable` where the block is cut off.
    """
    found: dict[bytes, bytes] = {}
    for area, base, at in _areas(source, sb, inode):
        for index, name, value in _entries(area, base, at, sb, read_value):
            if index in _PREFIXES and not (index == 7 and name == b"data"):
                found[_PREFIXES[index] + name] = _acl(value) if index in {2, 3} else value
    return found


def inline_tail(inode: Inode, sb: Superblock) -> bytes | None:
    """The part of an inline file that did not fit into `i_block`: the hidden attribute `system.data`, which may be empty.

    None: the content is in blocks. As for the kernel, the flag alone does not make a file inline.
    """
    if not inode.flags & INLINE_DATA:
        return None
    for area, base, at in _body_area(inode):
        for index, name, value in _entries(area, base, at, sb, None):
            if index == 7 and name == b"data":
                return value
    return None


def _body_area(inode: Inode) -> Iterator[tuple[bytes, int, int]]:
    at = inode.extra_bytes
    if not at:
        return  # nor does the kernel look for attributes then
    if inode.body[at : at + 4] == _MAGIC:
        yield inode.body, at + 4, at + 4


def _areas(source: BlockSource, sb: Superblock, inode: Inode) -> Iterator[tuple[bytes, int, int]]:
    """(bytes, where value offsets count from, first entry)."""
    yield from _body_area(inode)
    if inode.file_acl and not inode.flags & EA_INODE:
        block = read_block(source, sb, inode.file_acl)
        if block[:4] != _MAGIC:
            raise Corrupt("its attribute block has no attribute header")
        if sb.has_checksums and not _block_checksum_right(block, inode.file_acl, sb):
            raise Corrupt("its attribute block has a wrong checksum")
        yield block, 0, 32


def _block_checksum_right(block: bytes, number: int, sb: Superblock) -> bool:
    seed = crc32c(sb.checksum_seed, number.to_bytes(8, "little"))
    return crc32c(seed, block[:16] + bytes(4) + block[20:]) == int.from_bytes(block[16:20], "little")


def _entries(
    area: bytes, base: int, at: int, sb: Superblock, read_value: ReadInode | None
) -> Iterator[tuple[int, bytes, bytes]]:
    while area[at : at + 4].strip(b"\0"):
        if at + 16 > len(area):
            raise Corrupt("an attribute entry leaves its area")
        name_length, index, offset, inode_number, size, _hash = _ENTRY.unpack_from(area, at)
        name = area[at + 16 : at + 16 + name_length]
        at += (16 + name_length + 3) & ~3
        if len(name) < name_length or size > _MAX_VALUE_BYTES:
            raise Corrupt("an attribute entry leaves its area")
        if inode_number and sb.incompat & INCOMPAT_EA_INODE:
            value = read_value(inode_number)[:size] if read_value else b""
        else:
            value = area[base + offset : base + offset + size]
        if len(value) < size and (read_value or not inode_number):
            raise Corrupt("an attribute value leaves its area")
        yield index, name, value


def _acl(raw: bytes) -> bytes:
    """The short form of the disk (version 1, ids only where needed) as the long form of the system call (version 2)."""
    if len(raw) < 4 or raw[:4] != b"\x01\0\0\0":
        raise Corrupt("an access control list of an unknown version")
    out = bytearray(b"\x02\0\0\0")
    at = 4
    while at + 4 <= len(raw):
        (tag,) = struct.unpack_from("<H", raw, at)
        if tag in _ACL_OWNERLESS:
            out += raw[at : at + 4] + b"\xff\xff\xff\xff"
            at += 4
        else:
            out += raw[at : at + 8]
            at += 8
    return bytes(out)
