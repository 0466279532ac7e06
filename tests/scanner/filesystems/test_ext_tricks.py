"""Disks that say one thing to a scanner and another to the kernel: we see what the kernel would show, or say that we do not."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from core.blocks import MemorySource
from core.files import FileEntry
from core.findings import Gap
from scanner.filesystems.ext import READER
from scanner.images import FileSource, open_image
from scanner.volumes import find_volumes
from tests.need import need_tool
from tests.scanner.filesystems.machine import make_ext, run

MIB = 1 << 20
SCRIPT = b"#!/bin/sh\n" + b"# the content that counts\n" * 8
OLD = "-b 1024 -N 64 -O ^has_journal,^metadata_csum,uninit_bg,^extent,^64bit,^inline_data,^resize_inode"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    need_tool("mke2fs", "debugfs")
    (tmp_path / "tree" / "d").mkdir(parents=True)
    (tmp_path / "tree" / "d" / "x.sh").write_bytes(SCRIPT)
    return tmp_path / "tree"


def debugfs(image: Path, *commands: str) -> None:
    for command in commands:
        run("debugfs", "-w", "-R", command, image)


def seen(image: bytes) -> tuple[dict[bytes, FileEntry], list[Gap]]:
    filesystem = READER.open(MemorySource(image), 0)
    items = list(filesystem.files(0, filesystem.index()))
    files = {item.path: item for item in items if not isinstance(item, Gap)}
    return files, [*filesystem.gaps, *(item for item in items if isinstance(item, Gap))]


def content(file: FileEntry) -> bytes:
    with file.open() as stream:
        return stream.read()


def test_a_flag_alone_makes_no_file_inline(tree: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", 4 * MIB, ["-t", "ext4", *OLD.split()], tree)
    debugfs(image, "feature inline_data", "sif /d/x.sh flags 0x10000000")
    files, _ = seen(image.read_bytes())
    assert content(files[b"/d/x.sh"]) == SCRIPT


def test_a_flag_alone_makes_no_directory_inline(tree: Path, tmp_path: Path) -> None:
    """And the group's own count must not hide what the directory names."""
    image = make_ext(tmp_path / "image", 4 * MIB, ["-t", "ext4", *OLD.split()], tree)
    debugfs(
        image, "feature inline_data", "sif /d flags 0x10000000", "set_bg 0 itable_unused 52", "set_bg 0 checksum calc"
    )
    files, _ = seen(image.read_bytes())
    assert content(files[b"/d/x.sh"]) == SCRIPT


@pytest.mark.parametrize("field", ["first_ino 4000", "usr_quota_inum {}", "prj_quota_inum {}", "orphan_file_inum {}"])
def test_no_field_hides_what_was_deleted_while_open(tree: Path, tmp_path: Path, field: str) -> None:
    image = make_ext(tmp_path / "image", 4 * MIB, ["-t", "ext4", "-O", "^has_journal"], tree)
    files, _ = seen(image.read_bytes())
    number = files[b"/d/x.sh"].inode
    debugfs(image, "unlink /d/x.sh", f"sif <{number}> links_count 0", f"ssv {field.format(number)}")
    files, _ = seen(image.read_bytes())
    (left,) = [file for file in files.values() if file.deleted]
    assert content(left) == SCRIPT


def test_a_replay_needs_a_journal(tree: Path, tmp_path: Path) -> None:
    """The kernel does not replay what the features do not announce; nor do we, and we say so."""
    image = make_ext(tmp_path / "image", 16 * MIB, ["-t", "ext4", "-O", "^metadata_csum"], tree)
    raw = bytearray(image.read_bytes())
    compat, incompat = struct.unpack_from("<II", raw, 1024 + 92)
    struct.pack_into("<II", raw, 1024 + 92, compat & ~4, incompat | 4)
    files, gaps = seen(bytes(raw))
    assert content(files[b"/d/x.sh"]) == SCRIPT
    assert any("no journal" in gap.detail for gap in gaps)


def test_an_image_header_in_front_of_a_filesystem(tree: Path, tmp_path: Path) -> None:
    """The first 1024 bytes of a disk without partitions belong to whoever is root on the machine."""
    image = make_ext(tmp_path / "image", 4 * MIB, ["-t", "ext4"], tree)
    with image.open("r+b") as stream:
        stream.write(struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, MIB, 0, 1, 1 << 20, 0, 0, 0, 0))
    with FileSource.open(image) as file:
        assert open_image(file, lambda _: file).size == image.stat().st_size


def test_data_behind_a_filesystem_is_a_gap(tree: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", 4 * MIB, ["-t", "ext4", "-O", "^has_journal"], tree).read_bytes()
    assert not seen(image + bytes(8 * MIB))[1]
    gaps = seen(image + bytes(4 * MIB) + image)[1]
    assert ["behind the filesystem" in gap.detail for gap in gaps] == [True]


def test_data_outside_partitions_is_a_gap(tree: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", 4 * MIB, ["-t", "ext4", "-O", "^has_journal"], tree).read_bytes()
    table = bytes(446) + struct.pack("<B3xB3xII", 0, 0x83, 2048, 8192) + bytes(48) + b"\x55\xaa"
    disk = table + bytes(MIB - 512) + image
    assert not find_volumes([MemorySource(disk + bytes(8 * MIB))])[1]
    volumes, gaps = find_volumes([MemorySource(disk + bytes(4 * MIB) + image + bytes(2 * MIB))])
    assert len(volumes) == 1
    assert ["outside all partitions" in gap.detail for gap in gaps] == [True]


def test_a_boot_sector_hides_no_partition(tree: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", 4 * MIB, ["-t", "ext4", "-O", "^has_journal"], tree).read_bytes()
    entry = struct.pack("<B3xB3xII", 0, 0x83, 16384, 8192)
    front = bytearray(image)
    front[:512] = b"\xeb\x52\x90NTFS    ".ljust(446, b"\0") + entry + entry + bytes(32) + b"\x55\xaa"
    volumes, _ = find_volumes([MemorySource(bytes(front) + bytes(4 * MIB) + image)])
    assert {volume.start for volume in volumes} == {0, 8 * MIB}


def test_paths_are_bounded_and_what_is_below_is_found(tmp_path: Path) -> None:
    """Nested folders with long names: a gap, and their files are still looked at under a short name."""
    need_tool("mke2fs", "debugfs")
    image = make_ext(tmp_path / "image", 8 * MIB, ["-t", "ext4", "-b", "1024", "-O", "^has_journal"])
    (tmp_path / "x.sh").write_bytes(SCRIPT)
    name = "d" * 255
    script = "".join(f"mkdir {name}\ncd {name}\n" for _ in range(140)) + f"write {tmp_path / 'x.sh'} x.sh\n"
    (tmp_path / "script").write_text(script)
    run("debugfs", "-w", "-f", tmp_path / "script", image)
    files, gaps = seen(image.read_bytes())
    assert any("deeper than" in gap.detail for gap in gaps)
    (found,) = [file for file in files.values() if file.path.endswith(b"/x.sh")]
    assert content(found) == SCRIPT
    assert max(map(len, files)) < 40_000


def test_the_superblock_in_a_journal_changes_no_geometry(tree: Path, tmp_path: Path) -> None:
    """The kernel goes on with the numbers from before the replay."""
    image = make_ext(tmp_path / "image", 16 * MIB, ["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"], tree)
    with image.open("rb") as stream:
        stream.seek(1024)
        superblock = bytearray(stream.read(1024))
    struct.pack_into("<H", superblock, 88, 128)  # the size of an inode
    (tmp_path / "superblock").write_bytes(superblock)
    (tmp_path / "script").write_text(f"jo\njw -b 1 {tmp_path / 'superblock'}\njc\n")
    run("debugfs", "-w", "-f", tmp_path / "script", image)
    files, gaps = seen(image.read_bytes())
    assert content(files[b"/d/x.sh"]) == SCRIPT
    assert any("inode_bytes" in gap.detail for gap in gaps)
