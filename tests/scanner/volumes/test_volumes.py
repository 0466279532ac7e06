"""Whole disks through `find_volumes`: what is offered, what is a gap, and random damage."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest

from core.blocks import Extent, MemorySource
from core.errors import Corrupt, Encrypted, Error, LimitExceeded, Unreadable, Unsupported
from core.findings import GapReason, OnDisk
from scanner.images import FileSource, open_image
from scanner.volumes import find_volumes
from tests.need import need_shared, need_tool
from tests.scanner.volumes.tables import (
    EXT,
    GPT,
    MIB,
    RIGHT,
    assembled,
    boot_record,
    by_sfdisk,
    find,
    places,
    sealed,
    sfdisk,
)

LOGICAL = """label: dos
start=2048, size=2048, type=83, bootable
start=4096, size=24576, type=5
start=30000, size=1000, type=c
""" + "".join(
    f"start={6144 + index * 3072}, size={1000 + index}, type={kind}\n"
    for index, kind in enumerate([83, 82, "8e", "7", "fd", 83])
)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(GPT, id="gpt"),
        pytest.param("label: dos\n,1MiB,83\n,2MiB,7,*\n,,c\n", id="mbr"),
        pytest.param(LOGICAL, id="mbr-with-6-logical"),
        pytest.param(LOGICAL.replace("type=5", "type=f"), id="mbr-extended-0f"),
        pytest.param(LOGICAL.replace("type=5", "type=85"), id="mbr-extended-85"),
    ],
)
def test_equals_sfdisk(tmp_path: Path, script: str) -> None:
    need_tool("sfdisk")
    disk = sfdisk(tmp_path / "disk", script, 16 * MIB)
    expected = [one for one in by_sfdisk(tmp_path / "disk") if one["type"] not in {"5", "f", "85"}]
    volumes, gaps = find(disk)
    assert gaps == []
    found = sorted(volumes, key=lambda volume: volume.number)
    assert [(one.start, one.length) for one in found] == [(one["start"] * 512, one["size"] * 512) for one in expected]
    assert [one.name for one in found] == [one.get("name", "") for one in expected]
    assert [one.type.removeprefix("0x").lstrip("0").lower() for one in found] == [
        one["type"].lstrip("0").lower() for one in expected
    ]
    numbers = [int(one["node"].rpartition("disk")[2]) for one in expected]
    assert [one.number for one in found] == numbers


FAT = b"\xeb\x3c\x90mkfs.fat" + struct.pack("<HBHBHHBH", 512, 1, 1, 2, 512, 4096, 0xF8, 12)


@pytest.mark.parametrize(
    ("disk", "kinds", "reasons"),
    [
        pytest.param(b"", [], [GapReason.UNRECOGNISED], id="no-bytes"),
        pytest.param(bytes(1000), [], [GapReason.UNRECOGNISED], id="less-than-1-KiB"),
        pytest.param(bytes(5 * MIB), [], [GapReason.EMPTY], id="zeros"),
        pytest.param(assembled(16 * MIB, {8388: b"x"}), [], [GapReason.EMPTY], id="zeros-but-for-a-byte-between-samples"),
        pytest.param(bytes(9 * MIB) + b"x", [], [GapReason.UNRECOGNISED], id="something-at-the-end"),
        pytest.param(b"text\n" * 1000, [], [GapReason.UNRECOGNISED], id="text"),
        pytest.param(assembled(MIB, {0: boot_record()}), [], [GapReason.UNRECOGNISED], id="boot-code-without-partitions"),
        pytest.param(assembled(MIB, {0: boot_record((7, 131, 10, 10))}), [], [GapReason.UNRECOGNISED], id="boot-indicator-7"),
        pytest.param(EXT, ["whole"], [], id="ext"),
        pytest.param(boot_record() + EXT[512:], ["whole"], [], id="ext-with-boot-code"),
        pytest.param(boot_record((0, 131, 100, 10)) + EXT[512:], ["mbr", "whole"], [], id="ext-behind-an-mbr"),
        pytest.param(assembled(MIB, {0: boot_record(start=FAT)}), ["whole"], [], id="fat"),
        pytest.param(assembled(MIB, {0: boot_record((0x74, 0x65, 1, 2), start=FAT)}), ["whole"], [], id="fat-with-text-for-entries"),
        pytest.param(assembled(MIB, {0: boot_record((0, 1, 0, 9), start=FAT)}), ["whole"], [], id="fat-with-a-wrong-entry"),
        pytest.param(assembled(MIB, {0: boot_record((0, 131, 99, 9), start=FAT)}), ["mbr", "whole"], [], id="fat-with-a-right-entry"),
        pytest.param(assembled(MIB, {0: boot_record(start=b"\xeb\x52\x90NTFS    ")}), ["whole"], [], id="ntfs"),
        pytest.param(assembled(MIB, {0: b"XFSB"}), ["whole"], [], id="xfs"),
        pytest.param(assembled(MIB, {0: boot_record((0, 131, 99, 9)), 128: bytes(64) + b"_BHRfS_M"}), ["mbr", "whole"], [], id="btrfs-behind-an-mbr"),
    ],
)  # fmt: skip
def test_whole_disks(disk: bytes, kinds: list[str], reasons: list[GapReason]) -> None:
    volumes, gaps = find(disk)
    assert [volume.kind for volume in volumes] == kinds
    assert [gap.reason for gap in gaps] == reasons
    assert all(gap.where == OnDisk(0) for gap in gaps)


def test_numbers_run_over_all_disks(gpt_disk: bytes) -> None:
    volumes, gaps = find_volumes([MemorySource(gpt_disk), MemorySource(bytes(MIB)), MemorySource(EXT)])
    assert [(volume.index, volume.disk, volume.kind) for volume in volumes] == [
        (0, 0, "gpt"), (1, 0, "gpt"), (2, 0, "gpt"), (3, 2, "whole"),
    ]  # fmt: skip
    assert [gap.where for gap in gaps] == [OnDisk(1)]
    assert volumes[1].to_disk(Extent(4096, 512, 8192)) == Extent(3 * MIB + 4096, 512, 8192)
    assert bytes(volumes[3].source.read(1080, 2)) == b"\x53\xef"


class Broken:
    """A disk that fails from byte `good` on."""

    def __init__(self, content: bytes, good: int, error: Error) -> None:
        self.inner, self.size, self.good, self.error = MemorySource(content), len(content), good, error

    def read(self, offset: int, length: int) -> bytes | memoryview:
        if offset + length > self.good:
            raise self.error
        return self.inner.read(offset, length)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unreadable("x"), GapReason.UNREADABLE),
        (Corrupt("x"), GapReason.CORRUPT),
        (Encrypted("x"), GapReason.ENCRYPTED),
        (Unsupported("x"), GapReason.UNSUPPORTED_IMAGE),
        (LimitExceeded("x"), GapReason.LIMIT),
    ],
)
def test_unreadable_disk(error: Error, reason: GapReason) -> None:
    volumes, gaps = find(Broken(bytes(MIB), 100, error))
    assert volumes == []
    assert [(gap.where, gap.reason) for gap in gaps] == [(OnDisk(0), reason)]


def test_unreadable_behind_the_table(gpt_disk: bytes) -> None:
    volumes, gaps = find(Broken(gpt_disk, 40_000, Unreadable("x")))
    assert places(volumes) == RIGHT
    assert [gap.reason for gap in gaps] == [GapReason.UNREADABLE]


@pytest.mark.parametrize("name", ["osv-scalibr/valid-ext-exfat-fat32-ntfs.qcow2", "dfvfs/ext2.qcow2"])
def test_shared_images(name: str) -> None:
    folder = need_shared("disk-images")
    expected = json.loads((folder / "expected_contents.json").read_text())[name]
    disk = open_image(FileSource.open(folder / name), lambda _: MemorySource(b""))
    volumes, gaps = find_volumes([disk])
    assert gaps == []
    if "partitions" not in expected:
        assert [(volume.kind, volume.length) for volume in volumes] == [("whole", disk.size)]
        return
    assert [(volume.start, volume.length, volume.type) for volume in volumes] == [
        (one["start_sector"] * 512, one["sectors"] * 512, one["type"]) for one in expected["partitions"]
    ]


@pytest.mark.parametrize("seed", range(3))
def test_random_damage(gpt_disk: bytes, seed: int) -> None:
    """Tables with random bytes, checksums put right half of the time, and disks cut short: volumes inside the disk."""
    random_ = random.Random(seed)
    logical = assembled(
        MIB,
        {0: boot_record((0, 131, 10, 20), (0, 5, 100, 900)), 100: boot_record((0, 131, 1, 5), (0, 5, 50, 9)), 150: boot_record((0, 131, 2, 6))},
    )  # fmt: skip
    small = sealed(gpt_disk[: 34 * 512], 512, 1024, b"")
    for turn in range(150):
        disk = bytearray(small if turn % 2 else logical)
        areas = (
            [range(446, 512), range(512, 604), range(1024, 1408)]
            if turn % 2
            else [range(446, 512), range(51646, 51712)]
        )
        for _ in range(random_.randrange(1, 8)):
            disk[random_.choice(random_.choice(areas))] = random_.choice([0, 1, 5, 0x80, 0xFF, random_.randrange(256)])
        if turn % 4 == 1:
            count, each = struct.unpack_from("<II", disk, 512 + 80)
            if count <= 1024 and each <= 4096:
                disk = sealed(disk, 512, 1024, b"", count=count, each=each)
        if random_.random() < 0.1:
            del disk[random_.randrange(len(disk)) :]
        volumes, gaps = find(disk)
        assert all(0 <= volume.start < volume.start + volume.length <= len(disk) for volume in volumes)
        assert volumes or gaps
