"""What volumes are recognised as: by what the tools of Debian make, and by signatures written as their formats say."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.blocks import MemorySource
from core.findings import GapReason
from scanner.images import FileSource
from scanner.volumes import Volume, by_type, find_volumes, recognise
from scanner.volumes.signatures import is_empty
from tests.need import need_shared, need_tool

MIB = 1 << 20
FS = GapReason.UNSUPPORTED_FILESYSTEM
VOLUME = GapReason.UNSUPPORTED_VOLUME


def run(*command: str | Path, text: bytes = b"") -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, timeout=100, input=text, env=environment
    )


@pytest.mark.parametrize(
    ("command", "mebibytes", "reason", "words"),
    [
        pytest.param("mkfs.xfs -q", 320, FS, "XFS", id="xfs"),
        pytest.param("mkfs.btrfs -q", 128, FS, "btrfs", id="btrfs"),
        pytest.param("mkfs.vfat -F 12", 4, FS, "FAT12", id="fat12"),
        pytest.param("mkfs.vfat -F 16", 16, FS, "FAT16", id="fat16"),
        pytest.param("mkfs.vfat -F 32", 64, FS, "FAT32", id="fat32"),
        pytest.param("mkfs.ntfs -q -F -f", 4, FS, "NTFS", id="ntfs"),
        pytest.param("mkfs.minix -1", 1, FS, "Minix", id="minix-1"),
        pytest.param("mkfs.minix -2", 1, FS, "Minix", id="minix-2"),
        pytest.param("mkfs.minix -3", 1, FS, "Minix", id="minix-3"),
        pytest.param("mkswap", 1, GapReason.SWAP, "swap space", id="swap"),
        pytest.param("mkswap -p 65536", 2, GapReason.SWAP, "swap space", id="swap-64K-pages"),
        pytest.param(
            "cryptsetup -q luksFormat --type luks1 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file -",
            8, GapReason.ENCRYPTED, "LUKS1", id="luks1",
        ),
        pytest.param(
            "cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file -",
            24, GapReason.ENCRYPTED, "LUKS2", id="luks2",
        ),
    ],
)  # fmt: skip
def test_made_by_its_tool(tmp_path: Path, command: str, mebibytes: int, reason: GapReason, words: str) -> None:
    program, *options = command.split()
    need_tool(program)
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(mebibytes * MIB)
    run(program, *options, path, text=b"throwaway")
    found = recognise(FileSource.open(path))
    assert found is not None
    assert found[0] is reason
    assert words in found[1]
    volumes, gaps = find_volumes([FileSource.open(path)])
    assert [volume.kind for volume in volumes] == ["whole"]
    assert gaps == []


def md(size: int, offset: int, version: tuple[int, int], own_place: int = 0) -> bytes:
    block = struct.pack("<II", 0xA92B4EFC, version[0]).ljust(144, b"\0") + struct.pack("<Q", own_place)
    return at(size, (offset, block))


def at(size: int, *pieces: tuple[int, bytes]) -> bytes:
    disk = bytearray(size)
    for offset, piece in pieces:
        disk[offset : offset + len(piece)] = piece
    return bytes(disk)


BCACHE = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")


@pytest.mark.parametrize(
    ("disk", "reason", "words"),
    [
        pytest.param(at(MIB, (512, b"LABELONE")), VOLUME, "LVM2", id="lvm2"),
        pytest.param(at(MIB, (1536, b"LABELONE")), VOLUME, "LVM2", id="lvm2-fourth-sector"),
        pytest.param(md(MIB, MIB - 8192, (1, 0), 2032), VOLUME, "md 1.0", id="md-1.0"),
        pytest.param(md(MIB, 0, (1, 1)), VOLUME, "md 1.1", id="md-1.1"),
        pytest.param(md(MIB, 4096, (1, 2)), VOLUME, "md 1.2", id="md-1.2"),
        pytest.param(md(MIB + 5000, MIB - 65536, (0, 90)), VOLUME, "md 0.90", id="md-0.90"),
        pytest.param(
            at(MIB, (MIB - 65536, struct.pack(">II", 0xA92B4EFC, 0))), VOLUME, "0.90", id="md-0.90-big-endian"
        ),
        pytest.param(at(MIB, (4120, BCACHE)), VOLUME, "bcache", id="bcache"),
        pytest.param(at(MIB, (135168, struct.pack("<Q", 0x00BAB10C))), VOLUME, "ZFS", id="zfs"),
        pytest.param(at(MIB, (132096, struct.pack(">Q", 0x00BAB10C))), VOLUME, "ZFS", id="zfs-big-endian"),
        pytest.param(at(MIB, (0, b"bluestore block device\n")), VOLUME, "Ceph", id="ceph"),
        pytest.param(at(3 * MIB, (MIB, b"\x0d\xd0\x01\xc0")), VOLUME, "VMFS", id="vmfs-extent"),
        pytest.param(at(3 * MIB, (2 * MIB, b"\x5e\xf1\xab\x2f")), FS, "VMFS", id="vmfs"),
        pytest.param(at(MIB, (3, b"-FVE-FS-")), GapReason.ENCRYPTED, "BitLocker", id="bitlocker"),
        pytest.param(at(MIB, (16384, b"SKUL\xba\xbe\0\2")), GapReason.ENCRYPTED, "LUKS2", id="luks2-second-header"),
        pytest.param(at(MIB, (3, b"EXFAT   "), (510, b"\x55\xaa")), FS, "exFAT", id="exfat"),
        pytest.param(at(MIB, (3, b"ReFS\0\0\0\0")), FS, "ReFS", id="refs"),
        pytest.param(at(MIB, (1024, b"H+\0\4")), FS, "HFS+", id="hfs-plus"),
        pytest.param(at(MIB, (1024, b"HX\0\5")), FS, "HFSX", id="hfsx"),
        pytest.param(at(MIB, (32, b"NXSB")), FS, "APFS", id="apfs"),
        pytest.param(at(MIB, (0x8001, b"CD001")), FS, "ISO 9660", id="iso"),
        pytest.param(at(MIB, (0x8001, b"CD001"), (0x9801, b"NSR03")), FS, "UDF", id="udf-bridge"),
        pytest.param(at(MIB, (0, b"hsqs")), FS, "squashfs", id="squashfs"),
        pytest.param(at(MIB, (1024, struct.pack("<I", 0xE0F5E1E2))), FS, "EROFS", id="erofs"),
        pytest.param(at(MIB, (1024, struct.pack("<I", 0xF2F52010))), FS, "F2FS", id="f2fs"),
        pytest.param(at(MIB, (0x8000, b"JFS1")), FS, "JFS", id="jfs"),
        pytest.param(at(MIB, (0x10034, b"ReIsEr2Fs")), FS, "ReiserFS", id="reiserfs"),
        pytest.param(at(MIB, (1024, struct.pack("<IHH", 2, 0, 0x3434))), FS, "NILFS2", id="nilfs2"),
        pytest.param(at(MIB, (65536 + 1372, struct.pack("<I", 0x19540119))), FS, "UFS2", id="ufs2"),
        pytest.param(at(MIB, (262144 + 1372, struct.pack(">I", 0x19540119))), FS, "UFS2", id="ufs2-big-endian"),
        pytest.param(at(MIB, (8192 + 1372, struct.pack("<I", 0x00011954))), FS, "UFS1", id="ufs1"),
        pytest.param(at(MIB, (4086, b"S1SUSPEND\0")), GapReason.SWAP, "hibernation", id="hibernated"),
        pytest.param(bytes(MIB), GapReason.EMPTY, "zeros", id="empty"),
    ],
)
def test_written_by_its_definition(disk: bytes, reason: GapReason, words: str) -> None:
    found = recognise(MemorySource(disk))
    assert found is not None
    assert (found[0], words in found[1]) == (reason, True)


@pytest.mark.parametrize(
    "disk",
    [
        pytest.param(b"x" * 5000, id="text"),
        pytest.param(b"x", id="one-byte"),
        pytest.param(at(MIB, (3, b"NTFS    ")), id="ntfs-without-boot-signature"),
        pytest.param(at(MIB, (0, b"LUKS\xba\xbe\0\x03")), id="luks-3"),
        pytest.param(md(MIB, MIB - 8192, (1, 0), 99), id="md-1.0-that-belongs-elsewhere"),
        pytest.param(at(MIB, (2048, b"LABELONE")), id="lvm2-fifth-sector"),
        pytest.param(at(MIB, (0, b"\xeb\x3c\x90"), (510, b"\x55\xaa")), id="boot-code-that-is-no-fat"),
    ],
)
def test_unknown(disk: bytes) -> None:
    assert recognise(MemorySource(disk)) is None


def test_empty_looks_at_samples() -> None:
    assert is_empty(MemorySource(bytes(10)))
    assert not is_empty(MemorySource(at(64 * MIB, (32 * MIB + 5, b"x"))))
    assert not is_empty(MemorySource(at(64 * MIB, (64 * MIB - 1, b"x"))))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("21686148-6449-6E6F-744E-656564454649", GapReason.NOT_A_FILESYSTEM),
        ("E3C9E316-0B5C-4DB8-817D-F92DF00215AE", GapReason.NOT_A_FILESYSTEM),
        ("0x42", VOLUME),
        ("0x83", None),
        ("", None),
    ],
)
def test_by_type(kind: str, reason: GapReason | None) -> None:
    found = by_type(Volume(0, 0, "gpt", 1, 0, MIB, kind, "", MemorySource(bytes(MIB))))
    assert (found[0] if found else None) is reason


@pytest.mark.parametrize(
    ("name", "words"), [("dfvfs/iso9660.raw", "ISO 9660"), ("dfvfs/syslog", None), ("osv-scalibr/invalid.vdi", None)]
)
def test_shared_images(name: str, words: str | None) -> None:
    found = recognise(FileSource.open(need_shared("disk-images") / name))
    assert (found is None) if words is None else (found is not None and words in found[1])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=9000))
def test_any_bytes(disk: bytes) -> None:
    recognise(MemorySource(disk))
    volumes, gaps = find_volumes([MemorySource(disk)])
    assert volumes or gaps


def test_noise_is_unknown() -> None:
    random_ = random.Random(1)
    assert all(recognise(MemorySource(random_.randbytes(300_000))) is None for _ in range(20))
