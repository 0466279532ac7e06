"""GPT against sfdisk and sgdisk, and every way in which one copy or both can be damaged."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from core.findings import GapReason, InVolume, OnDisk
from tests.need import need_tool
from tests.scanner.volumes.tables import (
    EXT,
    LAST,
    MIB,
    RIGHT,
    assembled,
    boot_record,
    entry,
    find,
    places,
    run,
    sealed,
    sfdisk,
)


@pytest.mark.parametrize("primary", [pytest.param(True, id="both-copies"), pytest.param(False, id="backup-alone")])
def test_gpt_with_sectors_of_4096(primary: bool) -> None:
    lbas = 4095
    entries = entry(256, 511).ljust(128 * 128, b"\0")
    disk = bytearray(assembled(16 * MIB, {0: boot_record((0, 0xEE, 1, lbas))}))
    for own, other, entries_lba in ((1, lbas, 2), (lbas, 1, lbas - 4))[0 if primary else 1 :]:
        fields = struct.pack(
            "<8sIIIIQQQQ16sQ", b"EFI PART", 0x10000, 92, 0, 0, own, other, 6, lbas - 5, b"d" * 16, entries_lba
        )
        disk[own * 4096 : own * 4096 + len(fields)] = fields
        disk = sealed(disk, own * 4096, entries_lba * 4096, entries)
    volumes, gaps = find(disk)
    assert gaps == []
    assert places(volumes) == [(1, MIB, MIB)]


def test_equals_sgdisk_with_many_partitions(tmp_path: Path) -> None:
    need_tool("sfdisk", "sgdisk")
    lines = "".join(f"{n}: start={2048 + 64 * n}, size=64, type=linux\n" for n in range(1, 129) if n != 50)
    disk = sfdisk(tmp_path / "disk", f"label: gpt\n{lines}", 16 * MIB)
    volumes, gaps = find(disk)
    assert gaps == []
    shown = [line.split() for line in run("sgdisk", "-p", tmp_path / "disk").splitlines() if line[:4].strip().isdigit()]
    expected = [(int(n), int(first) * 512, (int(last) - int(first) + 1) * 512) for n, first, last, *_ in shown]
    assert len(expected) == 127
    assert places(volumes) == expected


def test_hybrid_mbr_counts_shared_partitions_once(gpt_disk: bytes) -> None:
    shared = (0, 0x83, 6144, 4096)
    hybrid = boot_record((0, 0xEE, 1, 2047), shared, (0, 0x82, 16384, 2048))
    volumes, gaps = find(hybrid + gpt_disk[512:])
    assert gaps == []
    assert [volume.kind for volume in volumes] == ["gpt"] * 3
    # an MBR entry that the GPT does not have hides nothing
    volumes, gaps = find(boot_record((0, 0xEE, 1, 2047), shared, (0, 0, 22528, 2048)) + gpt_disk[512:])
    assert gaps == []
    assert [(volume.kind, volume.start, volume.type) for volume in volumes][3:] == [("mbr", 11 * MIB, "0x00")]


def damaged(disk: bytes, *places: int) -> bytearray:
    changed = bytearray(disk)
    for place in places:
        changed[place] ^= 0xFF
    return changed


@pytest.mark.parametrize(
    "places_",
    [
        pytest.param([512], id="primary-signature"),
        pytest.param([512 + 40], id="primary-header"),
        pytest.param([1024 + 40], id="primary-entries"),
        pytest.param([LAST], id="backup-signature"),
        pytest.param([LAST + 50], id="backup-header"),
        pytest.param([LAST - 32 * 512], id="backup-entries"),
        pytest.param([450], id="no-protective-mbr"),
        pytest.param([510], id="no-mbr"),
        pytest.param([510, 512], id="no-mbr-and-no-primary"),
    ],
)
def test_one_damaged_copy_hides_nothing(gpt_disk: bytes, places_: list[int]) -> None:
    volumes, gaps = find(damaged(gpt_disk, *places_))
    assert [place for place in places(volumes) if place[0] and place != (1, 512, 32767 * 512)] == RIGHT
    assert [gap for gap in gaps if "overlap" not in gap.detail] == []


def test_wiped_start_of_a_gpt_disk(gpt_disk: bytes) -> None:
    volumes, gaps = find(bytes(MIB) + gpt_disk[MIB:])
    assert places(volumes) == RIGHT
    assert gaps == []


def test_both_copies_damaged(gpt_disk: bytes) -> None:
    volumes, gaps = find(damaged(gpt_disk, 512 + 40, LAST + 40))
    assert volumes == []
    assert [(gap.where, gap.reason) for gap in gaps] == [(OnDisk(0), GapReason.CORRUPT)]
    assert "both copies" in gaps[0].detail


def test_backup_where_the_damaged_primary_points(gpt_disk: bytes) -> None:
    """A disk that was made larger: the backup is not at its end."""
    volumes, gaps = find(damaged(gpt_disk, 1024 + 40) + bytes(MIB))
    assert places(volumes) == RIGHT
    assert [gap.reason for gap in gaps] == [GapReason.NOT_A_FILESYSTEM], "the old backup lies where no partition is"


def test_copies_that_differ_are_both_looked_at(gpt_disk: bytes) -> None:
    disk = sealed(gpt_disk, LAST, LAST - 32 * 512, entry(22528, 22528 + 2047))
    volumes, gaps = find(disk)
    assert places(volumes) == [*RIGHT, (1, 11 * MIB, MIB)]
    assert [gap.reason for gap in gaps] == [GapReason.CORRUPT]
    assert "different" in gaps[0].detail


@pytest.mark.parametrize(
    ("entries", "offered", "gap"),
    [
        pytest.param(entry(16384, 40000), [(8 * MIB, 8 * MIB)], (GapReason.UNREADABLE, "ends 3703296 bytes past"), id="ends-outside"),
        pytest.param(entry(40000, 50000), [], (GapReason.UNREADABLE, "starts 3702784 bytes past"), id="starts-outside"),
        pytest.param(entry(1 << 63, (1 << 64) - 1), [], (GapReason.UNREADABLE, "starts"), id="far-outside"),
        pytest.param(entry(4096, 2048), [], (GapReason.CORRUPT, "before it starts"), id="backwards"),
        pytest.param(
            entry(2048, 4096) + entry(4096, 6144) + entry(5000, 5001),
            [(MIB, 2049 * 512), (2 * MIB, 2049 * 512), (5000 * 512, 1024)],
            (GapReason.CORRUPT, "GPT 1 and GPT 2"),
            id="overlapping",
        ),
    ],
)  # fmt: skip
def test_misplaced_partitions(
    gpt_disk: bytes, entries: bytes, offered: list[tuple[int, int]], gap: tuple[GapReason, str]
) -> None:
    disk = sealed(bytes(LAST) + bytes(512), 0, 0, b"")  # an empty disk of the same size
    disk[: 34 * 512] = gpt_disk[: 34 * 512]
    disk = sealed(disk, 512, 1024, entries.ljust(512, b"\0"))
    volumes, gaps = find(disk)
    assert [(volume.start, volume.length) for volume in volumes] == offered
    assert len(gaps) == 1
    assert gaps[0].reason is gap[0]
    assert gap[1] in gaps[0].detail


def test_names_with_lone_surrogates_stay_text(gpt_disk: bytes) -> None:
    volumes, _ = find(sealed(gpt_disk, 512, 1024, entry(2048, 2049)))
    assert volumes[0].name == "n\ufffdx"
    volumes[0].name.encode()


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"count": 1025}, id="too-many-entries"),
        pytest.param({"count": 0xFFFFFFFF}, id="far-too-many-entries"),
        pytest.param({"each": 64}, id="small-entries"),
        pytest.param({"each": 192}, id="entries-no-power-of-two"),
        pytest.param({"each": 8192, "count": 4}, id="large-entries"),
        pytest.param({"size": 91}, id="short-header"),
        pytest.param({"size": 513}, id="long-header"),
    ],
)
def test_bad_gpt_header_means_the_backup(gpt_disk: bytes, header: dict[str, int]) -> None:
    volumes, gaps = find(sealed(gpt_disk, 512, 1024, b"", **header))
    assert places(volumes) == RIGHT
    assert gaps == []


def test_larger_entries_are_fine(gpt_disk: bytes) -> None:
    entries = gpt_disk[1024:1152].ljust(256, b"\0")
    disk = sealed(gpt_disk[: 2 * MIB] + bytes(MIB), 512, 1024, entries.ljust(16384, b"\0"), each=256, count=64)
    assert places(find(disk)[0]) == [(1, MIB, MIB)]


def test_truncated_disk(gpt_disk: bytes) -> None:
    volumes, gaps = find(gpt_disk[: 4 * MIB])
    assert places(volumes) == [(1, MIB, MIB), (2, 3 * MIB, MIB)]
    assert [(gap.where, gap.reason, gap.detail) for gap in gaps] == [
        (InVolume(1), GapReason.UNREADABLE, "GPT partition 2 ends 1048576 bytes past the end of the disk"),
        (OnDisk(0), GapReason.UNREADABLE, "GPT partition 3 starts 4194304 bytes past the end of the disk"),
    ]


def test_gpt_without_partitions(tmp_path: Path) -> None:
    need_tool("sfdisk")
    volumes, gaps = find(sfdisk(tmp_path / "disk", "label: gpt\n", 4 * MIB))
    assert volumes == []
    assert [gap.reason for gap in gaps] == [GapReason.EMPTY]


def test_ext_behind_a_gpt(gpt_disk: bytes) -> None:
    """The entries of a GPT may stand elsewhere, and then there is room for a superblock."""
    disk = bytearray(gpt_disk)
    disk[LAST - 32 * 512 : LAST] = gpt_disk[1024 : 1024 + 32 * 512]
    struct.pack_into("<Q", disk, 512 + 72, LAST // 512 - 32)
    disk[1024:2048] = EXT[1024:2048]
    struct.pack_into("<I", disk, 512 + 16, 0)
    struct.pack_into("<I", disk, 512 + 16, zlib.crc32(disk[512 : 512 + 92]))
    volumes, _ = find(disk)
    assert [volume.kind for volume in volumes] == ["gpt", "gpt", "gpt", "whole"]


def test_a_copy_for_the_other_sector_size_hides_no_backup(gpt_disk: bytes) -> None:
    """A table where disks with sectors of 4096 bytes have it, while the real one is left only at the end."""
    header = struct.pack("<8sIIIIQQQQ16sQ", b"EFI PART", 0x10000, 92, 0, 0, 1, 4094, 6, 4000, b"g" * 16, 2)
    disk = bytearray(gpt_disk)
    disk[512:1024] = bytes(512)
    disk[4096:4608] = header.ljust(512, b"\0")
    volumes, gaps = find(sealed(disk, 4096, 8192, entry(2816, 2816).ljust(128 * 128, b"\0")))
    assert set(places(volumes)) > set(RIGHT)
    assert GapReason.CORRUPT in {gap.reason for gap in gaps}
