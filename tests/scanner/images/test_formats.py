"""Which format a file is taken for, and what is said about those that are not read."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from core.blocks import BlockSource, MemorySource
from core.errors import Corrupt, Unsupported
from scanner.images import IMAGES, FileSource, open_image
from tests.need import need_shared, need_tool


def no_backing(name: str) -> BlockSource:
    raise AssertionError(name)


def mbr(start: bytes = b"") -> bytes:
    entry = struct.pack("<B3xB3xII", 0x80, 0x83, 2048, 2048)
    return (start.ljust(446, b"\0") + entry).ljust(510, b"\0") + b"\x55\xaa" + bytes(8192)


MAGICS = [
    pytest.param(b"KDMV", "VMDK", id="vmdk-sparse"),
    pytest.param(b"COWD", "VMDK", id="vmdk-cowd"),
    pytest.param(b"# Disk DescriptorFile\n", "VMDK", id="vmdk-descriptor"),
    pytest.param(b"conectix", "VHD", id="vhd"),
    pytest.param(b"vhdxfile", "VHDX", id="vhdx"),
    pytest.param(bytes(0x40) + b"\x7f\x10\xda\xbe", "VDI", id="vdi"),
    pytest.param(b"QED\0", "QED", id="qed"),
    pytest.param(b"WithoutFreeSpace", "Parallels", id="parallels"),
    pytest.param(b"WithouFreSpacExt", "Parallels", id="parallels-ext"),
    pytest.param(b"EVF\x09\x0d\x0a\xff\x00", "E01", id="e01"),
    pytest.param(b"box.ovf".ljust(257, b"\0") + b"ustar", "OVA", id="ova"),
    pytest.param(b"\x3a\xff\x26\xed", "Android", id="android-sparse"),
    pytest.param(b"\x1f\x8b\x08", "gzip", id="gzip"),
    pytest.param(b"\xfd7zXZ\0", "xz", id="xz"),
    pytest.param(b"\x28\xb5\x2f\xfd", "zstd", id="zstd"),
    pytest.param(b"BZh91AY&SY", "bzip2", id="bzip2"),
    pytest.param(b"\x04\x22\x4d\x18", "lz4", id="lz4"),
    pytest.param(b"7z\xbc\xaf\x27\x1c", "7z", id="7z"),
    pytest.param(b"PK\x03\x04", "zip", id="zip"),
]


@pytest.mark.parametrize(("start", "word"), MAGICS)
def test_not_read(start: bytes, word: str) -> None:
    with pytest.raises(Unsupported, match=word) as caught:
        open_image(MemorySource(start.ljust(10_000, b"\0")), no_backing)
    assert "`" in str(caught.value)  # says what to do


@pytest.mark.parametrize(("start", "word"), [*MAGICS, pytest.param(b"QFI\xfb\0\0\0\3", "qcow2", id="qcow2")])
def test_a_raw_disk_with_partitions_is_never_refused(start: bytes, word: str) -> None:
    """A guest can put any bytes into its boot code."""
    for disk in (
        MemorySource(mbr(start)),
        MemorySource(start.ljust(512, b"\0") + b"EFI PART" + bytes(8192)),
        MemorySource(start.ljust(4096, b"\0") + b"EFI PART" + bytes(8192)),
        MemorySource(mbr(start) + struct.pack(">4sII", b"koly", 4, 512).ljust(512, b"\0")),
    ):
        assert open_image(disk, no_backing) is disk


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xeb\x63\x90" + bytes(5000), id="boot-code"),
        pytest.param(b"BZh9 is a name" + bytes(5000), id="half-a-bzip2"),
        pytest.param(b"conecti", id="half-a-vhd"),
        pytest.param(b"x.ovf".ljust(8192, b"\0"), id="name-without-tar"),
        pytest.param(bytes(5000) + b"koly".ljust(512, b"\1"), id="koly-of-another-version"),
        pytest.param(bytes(5000) + b"conectix".ljust(512, b"\0"), id="vhd-footer-without-checksum"),
    ],
)
def test_raw(content: bytes) -> None:
    disk = MemorySource(content)
    assert open_image(disk, no_backing) is disk


def test_apple_disk_image() -> None:
    with pytest.raises(Unsupported, match="Apple"):
        open_image(MemorySource(bytes(5000) + struct.pack(">4sII", b"koly", 4, 512).ljust(512, b"\0")), no_backing)


def test_fixed_vhd_is_read_without_its_footer(tmp_path: Path) -> None:
    need_tool("qemu-img")
    content = b"fixed" * 300_000
    (tmp_path / "raw").write_bytes(content)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on"]
    subprocess.run([*command, str(tmp_path / "raw"), str(tmp_path / "a.vhd")], check=True, timeout=60)
    disk = open_image(FileSource.open(tmp_path / "a.vhd"), no_backing)
    assert disk.size == (tmp_path / "a.vhd").stat().st_size - 512
    assert bytes(disk.read(0, disk.size)).startswith(content)


def test_format_given_by_the_caller() -> None:
    disk = MemorySource(b"QFI\xfb" + bytes(1000))
    assert open_image(disk, no_backing, image_format="raw") is disk
    with pytest.raises(Unsupported, match="'tape'"):
        open_image(disk, no_backing, image_format="tape")
    with pytest.raises(Unsupported, match="VMDK"):
        open_image(MemorySource(b"KDMV"), no_backing, image_format="vmdk")
    with pytest.raises(Corrupt, match="said to be vdi"):
        open_image(disk, no_backing, image_format="vdi")
    with pytest.raises(Corrupt, match="said to be qcow2"):
        open_image(MemorySource(bytes(1000)), no_backing, image_format="qcow2")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("osv-scalibr/valid-ext-exfat-fat32-ntfs.vmdk", "VMDK"),
        ("osv-scalibr/valid.ova", "OVA"),
        ("osv-scalibr/archive.tar.gz", "gzip"),
        ("dfvfs/ext2.vmdk", "VMDK"),
        ("dfvfs/ext2.E01", "E01"),
        ("dfvfs/ext2.vhd", "VHD"),
        ("dfvfs/hfsplus_zlib.dmg", "Apple"),
        ("dfvfs/syslog.bz2", "bzip2"),
        ("dfvfs/syslog.gz", "gzip"),
        ("dfvfs/syslog.xz", "xz"),
        ("dfvfs/zip/syslog.zip", "zip"),
    ],
)
def test_shared_images_not_read(name: str, word: str) -> None:
    with pytest.raises(Unsupported, match=word):
        open_image(FileSource.open(need_shared("disk-images") / name), no_backing)


@pytest.mark.parametrize("name", ["invalid.qcow2", "invalid.vmdk", "invalid.vdi", "invalid.ova", "archive.tar"])
def test_shared_images_taken_as_raw(name: str) -> None:
    disk = FileSource.open(need_shared("disk-images/osv-scalibr") / name)
    assert open_image(disk, no_backing) is disk


def test_raw_is_probed_last() -> None:
    assert IMAGES[-1].name == "raw"
    assert all(not image.probe(b"", b"") for image in IMAGES[:-1])
