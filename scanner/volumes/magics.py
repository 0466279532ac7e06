"""Fixed bytes at fixed places by which formats are known. Each row cites nothing but its format's on-disk definition."""

from __future__ import annotations

from typing import NamedTuple

from core.findings import GapReason

_FS = GapReason.UNSUPPORTED_FILESYSTEM
_VOLUME = GapReason.UNSUPPORTED_VOLUME


class Magic(NamedTuple):
    """`magic` at byte `offset`, and, where the first is short, `also` at `also_offset`, says `detail`."""

    offset: int
    magic: bytes
    reason: GapReason
    detail: str
    also_offset: int = 0
    also: bytes = b""


def _fs(offset: int, magic: bytes, name: str, also_offset: int = 0, also: bytes = b"") -> Magic:
    return Magic(offset, magic, _FS, f"{name} is not read yet", also_offset, also)


def _volume(offset: int, magic: bytes, name: str) -> Magic:
    return Magic(offset, magic, _VOLUME, f"{name} is not read yet")


def _encrypted(offset: int, magic: bytes, name: str) -> Magic:
    return Magic(offset, magic, GapReason.ENCRYPTED, f"{name} encrypted volume; its key is not here")


_BOOT = (510, b"\x55\xaa")
_BCACHE = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
_BCACHEFS = bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")
_TO_GO = bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")  # 4967D63B-2E29-4AD8-8399-F6A339E3D001
_MD = bytes.fromhex("fc4e2ba9")

# Long and certain ones first: the first that fits wins.
MAGICS: tuple[Magic, ...] = (
    _encrypted(0, b"LUKS\xba\xbe\0\x01", "LUKS1"),
    _encrypted(0, b"LUKS\xba\xbe\0\x02", "LUKS2"),
    _encrypted(0x4000, b"SKUL\xba\xbe\0\x02", "LUKS2 (its first header is damaged)"),
    _encrypted(3, b"-FVE-FS-", "BitLocker"),
    _encrypted(424, _TO_GO, "BitLocker To Go"),
    _volume(4096 + 24, _BCACHE, "bcache device"),
    _fs(4096 + 24, _BCACHEFS, "bcachefs"),
    *(_volume(sector * 512, b"LABELONE", "LVM2 physical volume") for sector in range(4)),
    _volume(0, _MD + b"\1\0\0\0", "Linux RAID (md 1.1) member"),
    _volume(4096, _MD + b"\1\0\0\0", "Linux RAID (md 1.2) member"),
    _volume(0, b"bluestore block device\n", "Ceph BlueStore device"),
    _volume(516, b"!Stra0tis\x86\xff\x02^\x41rh", "Stratis device"),
    _volume(0, b"dmvdo001", "VDO volume"),
    _volume(1 << 20, b"\x0d\xd0\x01\xc0", "VMFS extent"),
    _fs(2 << 20, b"\x5e\xf1\xab\x2f", "VMFS"),
    _fs(0, b"XFSB", "XFS"),
    _fs(0x10040, b"_BHRfS_M", "btrfs"),
    _fs(3, b"NTFS    ", "NTFS", *_BOOT),
    _fs(3, b"EXFAT   ", "exFAT", *_BOOT),
    _fs(3, b"ReFS\0\0\0\0", "ReFS"),
    _fs(32, b"NXSB", "APFS"),
    *(_fs(0x8001 + sector * 2048, b"NSR0", "UDF") for sector in range(1, 16)),
    _fs(0x8001, b"CD001", "ISO 9660"),
    _fs(0, b"hsqs", "squashfs"),
    _fs(0, b"sqsh", "squashfs"),
    _fs(1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
    _fs(1024, b"\x10\x20\xf5\xf2", "F2FS"),
    _fs(0x8000, b"JFS1", "JFS"),
    _fs(0x10000, b"ReIsEr4", "Reiser4"),
    *(_fs(at, b"ReIsEr" + end, "ReiserFS") for at in (0x2034, 0x10034) for end in (b"Fs\0", b"2Fs", b"3Fs")),
    *(_fs(at, b"OCFSV2", "OCFS2") for at in (1024, 2048, 4096, 8192)),
    _fs(0x10000, b"\x01\x16\x19\x70", "GFS2"),
    *(
        _fs(at + 1372, magic, "UFS2")
        for at in (0, 8192, 65536, 262144)
        for magic in (b"\x19\x01\x54\x19", b"\x19\x54\x01\x19")
    ),
    *(_fs(at + 1372, magic, "UFS1") for at in (0, 8192, 65536) for magic in (b"\x54\x19\x01\x00", b"\x00\x01\x19\x54")),
    _volume(512, b"\x57\x45\x56\x82", "BSD disklabel"),
    _fs(1024, b"H+\0\4", "HFS+"),
    _fs(1024, b"HX\0\5", "HFSX"),
    _fs(1030, b"\x34\x34", "NILFS2", 1024, b"\2\0\0\0"),
    _fs(1024, b"BD", "HFS", 1044, b"\0\0"),
    # the block size shift and the state (clean or not) keep company to two bytes that alone say little
    *(
        _fs(1040, magic + state, "Minix", 1034, b"\0\0")
        for magic in (b"\x7f\x13", b"\x8f\x13", b"\x68\x24", b"\x78\x24")
        for state in (b"\0\0", b"\1\0", b"\2\0", b"\3\0")
    ),
    _fs(1048, b"\x5a\x4d", "Minix", 1036, b"\0\0"),
)

SWAP_PAGES = tuple(4096 << shift for shift in range(5))
SWAP: tuple[tuple[bytes, str], ...] = (
    (b"SWAPSPACE2", "swap space"),
    (b"SWAP-SPACE", "swap space (old format)"),
    (b"S1SUSPEND\0", "swap space with a hibernation image"),
    (b"S2SUSPEND\0", "swap space with a hibernation image"),
    (b"ULSUSPEND\0", "swap space with a hibernation image"),
    (b"LINHIB0001", "swap space with a hibernation image"),
)

BY_TYPE: dict[str, tuple[GapReason, str]] = {
    "21686148-6449-6E6F-744E-656564454649": (GapReason.NOT_A_FILESYSTEM, "BIOS boot partition: holds boot code only"),
    "E3C9E316-0B5C-4DB8-817D-F92DF00215AE": (GapReason.NOT_A_FILESYSTEM, "Microsoft reserved partition"),
    "9E1A2D38-C612-4316-AA26-8B49521E5A8B": (GapReason.NOT_A_FILESYSTEM, "PowerPC PReP boot partition: boot code only"),
    "0x41": (GapReason.NOT_A_FILESYSTEM, "PowerPC PReP boot partition: boot code only"),
    "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F": (GapReason.SWAP, "partition for swap space"),
    "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3": (_VOLUME, "Windows dynamic disk (its database) is not read yet"),
    "AF9B60A0-1431-4F62-BC68-3311714A69AD": (_VOLUME, "Windows dynamic disk is not read yet"),
    "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D": (_VOLUME, "Windows Storage Spaces is not read yet"),
    "0x42": (_VOLUME, "Windows dynamic disk is not read yet"),
}
