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

# mode uid size mtime dtime gid links flags block[15] generation file_acl size_high, then of the Linux part
# file_acl_high uid_high gid_high checksum_low
_RECORD: Final = struct.Struct("<HHI8xIIHH4xI4x60sIII6xHHHH2x")
_EXTRA: Final = struct.Struct(
    "<HH4xI"
)  # extra_isize checksum_high mtime_extra, where records are longer than 128 bytes
_SEED: Final = struct.Struct("<II")
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
            mtime,
            self.deleted_at,
            gid,
            self.nlink,
            self.flags,
            self.block,
            self.generation,
            file_acl,
            size_high,
            file_acl_high,
            uid_high,
            gid_high,
            checksum,
        ) = _RECORD.unpack_from(raw)
        self.number = number
        self.uid = uid | uid_high << 16
        self.gid = gid | gid_high << 16
        self.file_acl = file_acl | file_acl_high << 32
        self.kind = kind = self.mode & 0xF000  # the file type bits
        large = kind == stat.S_IFREG or (kind == stat.S_IFDIR and sb.incompat & INCOMPAT_LARGEDIR)
        self.size = size | size_high << 32 if large else size
        self.body = raw[128:]
        extra = checksum_high = more = 0
        if len(raw) > 128:
            extra, checksum_high, more = _EXTRA.unpack_from(raw, 128)
            if extra > len(raw) - 128:
                extra = 0
        self.extra_bytes = extra
        seconds = mtime - _EPOCH if mtime & _SIGN else mtime
        nanoseconds = 0
        if extra >= 12:
            seconds += (more & 3) << 32
            nanoseconds = more >> 2
        self.mtime_ns = seconds * 1_000_000_000 + nanoseconds
        if sb.has_checksums:
            head = _SEED.pack(number, self.generation) + raw[:124]
            if extra >= 4:
                found = crc32c(sb.checksum_seed, b"%b\0\0%b\0\0%b" % (head, raw[126:130], raw[132:]))
                self.checksum_right = found == checksum | checksum_high << 16
            else:
                self.checksum_right = crc32c(sb.checksum_seed, b"%b\0\0%b" % (head, raw[126:])) & 0xFFFF == checksum
        else:
            self.checksum_right = True

    def seed(self, sb: Superblock) -> int:
        """Where the checksums of this inode's own blocks start from."""
        return crc32c(sb.checksum_seed, _SEED.pack(self.number, self.generation))
