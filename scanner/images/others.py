"""Formats that are recognised but not read, each with advice; and fixed VHD, which is a raw disk with a footer."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from core.blocks import BlockSource, Slice
from core.errors import Unsupported
from scanner.images.base import DiskFile, OpenParent

_CONVERT = "convert with `qemu-img convert -O raw IMAGE DISK`"


@dataclass(frozen=True)
class Recognised:
    """`matches` gets the head and the tail of the file. Opening raises `Unsupported` with the advice."""

    name: str
    title: str
    advice: str
    matches: Callable[[bytes, bytes], bool]

    def probe(self, head: bytes, tail: bytes) -> bool:
        return self.matches(head, tail)

    def open(self, file: DiskFile, open_parent: OpenParent) -> BlockSource:  # noqa: ARG002
        raise Unsupported(f"{self.title} are not read yet: {self.advice}")


class FixedVhd:
    """A raw disk with 512 bytes behind it (Virtual Hard Disk Image Format Specification, "Hard Disk Footer Format").

    The footer counts only if its checksum is right and its size fits the file, so that a guest that writes one into
    its last sector changes nothing but who reads that sector.
    """

    name = "vpc"

    def probe(self, head: bytes, tail: bytes) -> bool:
        if head.startswith(b"conectix") or len(tail) != 512 or not tail.startswith(b"conectix"):
            return False
        kind, checksum = struct.unpack_from(">II", tail, 60)
        return bool(kind == 2 and checksum == ~(sum(tail) - sum(tail[64:68])) & 0xFFFF_FFFF)

    def open(self, file: DiskFile, open_parent: OpenParent) -> BlockSource:  # noqa: ARG002
        (size,) = struct.unpack_from(">Q", bytes(file.read(file.size - 512, 512)), 48)
        return Slice(file, 0, size) if size == file.size - 512 else file


def _starts(*magics: bytes) -> Callable[[bytes, bytes], bool]:
    return lambda head, _: head.startswith(magics)


def _is_bzip2(head: bytes, _: bytes) -> bool:
    return head[:3] == b"BZh" and head[3:4] in b"123456789" and head[4:10] == b"1AY&SY"


def _is_vdi(head: bytes, _: bytes) -> bool:
    return head[0x40:0x44] == b"\x7f\x10\xda\xbe"


def _is_ova(head: bytes, _: bytes) -> bool:
    return head[257:262] == b"ustar" and head[:100].partition(b"\0")[0].lower().endswith(b".ovf")


def _is_dmg(_: bytes, tail: bytes) -> bool:
    """The trailer of a UDIF image: signature, version 4, its own size of 512."""
    return len(tail) == 512 and struct.unpack_from(">4sII", tail) == (b"koly", 4, 512)


OTHERS: tuple[Recognised, ...] = (
    Recognised("vmdk", "VMDK images", _CONVERT, _starts(b"KDMV", b"COWD", b"# Disk DescriptorFile")),
    Recognised("vpc", "dynamic and differencing VHD images", _CONVERT, _starts(b"conectix")),
    Recognised("vhdx", "VHDX images", _CONVERT, _starts(b"vhdxfile")),
    Recognised("vdi", "VDI images", _CONVERT, _is_vdi),
    Recognised("qed", "QED images", _CONVERT, _starts(b"QED\0")),
    Recognised("parallels", "Parallels images", _CONVERT, _starts(b"WithoutFreeSpace", b"WithouFreSpacExt")),
    Recognised("dmg", "Apple disk images", "convert with `qemu-img convert -f dmg -O raw IMAGE DISK`", _is_dmg),
    Recognised(
        "ewf",
        "Expert Witness (E01) images",
        "export with `ewfexport -f raw IMAGE`",
        _starts(b"EVF\x09\x0d\x0a\xff\x00", b"EVF2\x0d\x0a\x81\x00"),
    ),
    Recognised("ova", "OVA appliances", "unpack with `tar -xf` and scan the disks inside", _is_ova),
    Recognised("simg", "Android sparse images", "convert with `simg2img IMAGE DISK`", _starts(b"\x3a\xff\x26\xed")),
    Recognised("gzip", "gzip-compressed images", "unpack with `gunzip` first", _starts(b"\x1f\x8b\x08")),
    Recognised("xz", "xz-compressed images", "unpack with `unxz` first", _starts(b"\xfd7zXZ\0")),
    Recognised("zstd", "zstd-compressed images", "unpack with `unzstd` first", _starts(b"\x28\xb5\x2f\xfd")),
    Recognised("bzip2", "bzip2-compressed images", "unpack with `bunzip2` first", _is_bzip2),
    Recognised("lz4", "lz4-compressed images", "unpack with `unlz4` first", _starts(b"\x04\x22\x4d\x18")),
    Recognised("7z", "7z archives", "unpack with `7z x` first", _starts(b"7z\xbc\xaf\x27\x1c")),
    Recognised("zip", "zip archives", "unpack with `unzip` first", _starts(b"PK\x03\x04")),
)
