"""Directory entries. Hashed directories are read as the lists that they also are, so a damaged hash hides nothing.

Source: "ext4 Data Structures and Algorithms", 4.3 Directory Entries.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

from scanner.filesystems.ext.crc import crc32c
from scanner.filesystems.ext.superblock import INCOMPAT_FILETYPE, Superblock

_ENTRY: Final = struct.Struct("<IHBB")
_TAIL: Final = struct.Struct("<IHBBI")

Problem = Callable[[str], None]


def entries(area: bytes, sb: Superblock, problem: Problem) -> Iterator[tuple[int, bytes]]:
    """(inode, name) of one directory block or inline area, `.` and `..` left out.

    Calls `problem` once and stops where the chain of entries breaks; so does the kernel, block by block.
    """
    at = 0
    end = len(area)
    wide_names = not sb.incompat & INCOMPAT_FILETYPE
    while at + 8 <= end:
        inode, length, name_length, file_type = _ENTRY.unpack_from(area, at)
        if length in {0, 0xFFFF} and end == 65536:
            length = 65536
        elif end == 65536:
            length = (length & 0xFFFC) | (length & 3) << 16
        if wide_names:
            name_length |= file_type << 8
        if length < 8 or length & 3 or at + length > end or name_length + 8 > length or name_length > 255:
            problem(f"a directory entry is broken at byte {at} of its block")
            return
        if inode:
            name = area[at + 8 : at + 8 + name_length]
            if name not in {b".", b".."}:
                yield inode, name
        at += length
    if at != end:
        problem("a directory block ends inside an entry")


def block_checksum_right(block: bytes, seed: int) -> bool:
    """Leaf blocks end in a false entry with a checksum; inner blocks of the hash tree carry theirs elsewhere.

    A block that was a leaf and became the root keeps the old false entry, so that one which does not fit decides nothing.
    """
    zero, length, name_length, kind, checksum = _TAIL.unpack_from(block, len(block) - 12)
    if (zero, length, name_length, kind) == (0, 12, 0, 0xDE) and crc32c(seed, block[:-12]) == checksum:
        return True
    return _hash_node_right(block, seed)


def _hash_node_right(block: bytes, seed: int) -> bool:
    """A root (behind `.` and `..`) or inner node (behind one empty entry) of the hash tree (the kernel's `ext4_dx_csum_verify`)."""
    (first_length,) = struct.unpack_from("<H", block, 4)
    if first_length == 12:  # "." of the root; its dx_root_info is 8 bytes long and stands behind ".."
        offset = 32
    elif first_length in {len(block) & 0xFFFF, 0xFFFF}:
        offset = 8
    else:
        return False
    limit, count = struct.unpack_from("<HH", block, offset)
    tail = offset + limit * 8
    if count > limit or tail + 8 > len(block):
        return False
    expected = crc32c(crc32c(seed, block[: offset + count * 8]), block[tail : tail + 4] + b"\0\0\0\0")
    return expected == int.from_bytes(block[tail + 4 : tail + 8], "little")
