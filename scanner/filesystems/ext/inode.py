"""One inode record. Source: "ext4 Data Structures and Algorithms", 4.1 Index Nodes."""

from __future__ import annotations

import stat
import struct
from typing import Final

from scanner.filesystems.ext.crc import crc32c
from scanner.filesystems.ext.superblock import INCOMPAT_LARGEDIR, Superblock

ENCRYPTED: Final = 0x800
EXTENTS: Final = 0x80000
EA_INODE: Final = 0x200000
INLINE_DATA: Final = 0x10000000
CASEFOLD: Final = 0x40000000

# mode uid size atime ctime mtime dtime gid links blocks flags osd1 block[15] generation file_acl size_high
_RECORD: Final = struct.Struct("<HHIIIIIHHII4x60sIII")
_OSD2: Final = struct.Struct("<4xHHH")  # file_acl_high uid_high gid_high, after obso_faddr and blocks_high
_SIGN: Final = 1 << 31
_EPOCH: Final = 1 << 32


class Inode:
    """The parsed record of inode `number`; `body` is what follows the first 128 bytes (times, attributes)."""

    __slots__ = (
        "block",
        "body",
        "checksum_right",
        "deleted_at",
        "extra_bytes",
        "file_acl",
        "flags",
        "generation",
        "gid",
        "kind",
        "mode",
        "mtime_ns",
        "nlink",
        "number",
        "size",
        "uid",
    )

    mode: int
    kind: int
    size: int
    uid: int
    gid: int
    mtime_ns: int
    nlink: int
    flags: int
    generation: int
    file_acl: int
    deleted_at: int
    block: bytes
    body: bytes

    def __init__(self, number: int, raw: bytes, sb: Superblock) -> None:
        """`raw` is exactly `sb.inode_bytes` long."""
        (
            self.mode,
            uid,
            size,
            _atime,
            _ctime,
            mtime,
            self.deleted_at,
            gid,
            self.nlink,
            _blocks,
            self.flags,
            self.block,
            self.generation,
            file_acl,
            size_high,
        ) = _RECORD.unpack_from(raw)
        file_acl_high, uid_high, gid_high = _OSD2.unpack_from(raw, 114)
        self.number = number
        self.uid = uid | uid_high << 16
        self.gid = gid | gid_high << 16
        self.file_acl = file_acl | file_acl_high << 32
        self.kind = kind = self.mode & 0xF000  # the file type bits
        large = kind == stat.S_IFREG or (kind == stat.S_IFDIR and sb.incompat & INCOMPAT_LARGEDIR)
        self.size = size | size_high << 32 if large else size
        self.body = raw[128:]
        extra = int.from_bytes(raw[128:130], "little") if len(raw) > 128 else 0
        self.extra_bytes = extra if extra <= len(raw) - 128 else 0
        seconds = mtime - _EPOCH if mtime & _SIGN else mtime
        nanoseconds = 0
        if self.extra_bytes >= 12:
            more = int.from_bytes(raw[136:140], "little")
            seconds += (more & 3) << 32
            nanoseconds = more >> 2
        self.mtime_ns = seconds * 1_000_000_000 + nanoseconds
        self.checksum_right = not sb.has_checksums or _checksum_right(
            number, raw, self.generation, self.extra_bytes, sb
        )

    def seed(self, sb: Superblock) -> int:
        """Where the checksums of this inode's own blocks start from."""
        return crc32c(sb.checksum_seed, struct.pack("<II", self.number, self.generation))


def _checksum_right(number: int, raw: bytes, generation: int, extra_bytes: int, sb: Superblock) -> bool:
    low = int.from_bytes(raw[124:126], "little")
    seeded = struct.pack("<II", number, generation)
    if extra_bytes >= 4:
        high = int.from_bytes(raw[130:132], "little")
        data = seeded + raw[:124] + b"\0\0" + raw[126:130] + b"\0\0" + raw[132:]
        return crc32c(sb.checksum_seed, data) == low | high << 16
    return crc32c(sb.checksum_seed, seeded + raw[:124] + b"\0\0" + raw[126:]) & 0xFFFF == low
