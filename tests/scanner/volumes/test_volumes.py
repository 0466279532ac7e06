"""Tables made by sfdisk and sgdisk, the shared images, and hand-made trouble, through `find_volumes`."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from core.blocks import BlockSource, Extent, MemorySource
from core.errors import Corrupt, Encrypted, Error, LimitExceeded, Unreadable, Unsupported
from core.findings import Gap, GapReason, InVolume, OnDisk
from scanner.images import FileSource, open_image
from scanner.volumes import Volume, find_volumes
from tests.need import need_shared, need_tool

MIB = 1 << 20
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


def run(*command: str | Path, text: str | None = None) -> str:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [str(part) for part in command],
        check=True,
        capture_output=True,
        timeout=60,
        input=text,
        text=True,
        env=environment,
    )
    return done.stdout


def sfdisk(path: Path, script: str, size: int, sector: int = 512) -> bytearray:
    with path.open("wb") as file:
        file.truncate(size)
    run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--sector-size", str(sector), path, text=script)
    return bytearray(path.read_bytes())


def by_sfdisk(path: Path, sector: int) -> list[dict[str, Any]]:
    out = run("sfdisk", "--json", "--sector-size", str(sector), path)
    found: list[dict[str, Any]] = json.loads(out)["partitiontable"]["partitions"]
    return found


def find(disk: bytes | BlockSource) -> tuple[list[Volume], list[Gap]]:
    return find_volumes([MemorySource(bytes(disk)) if isinstance(disk, bytes | bytearray) else disk])


def places(volumes: list[Volume]) -> list[tuple[int, int, int]]:
    return [(volume.number, volume.start, volume.length) for volume in volumes]


GPT = """label: gpt
start=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name="boot"
start=3MiB, size=2MiB, type=linux, name="wurzel \u6839"
start=8MiB, size=1MiB, type=swap
"""
LOGICAL = """label: dos
start=2048, size=2048, type=83, bootable
start=4096, size=24576, type=5
start=30000, size=1000, type=c
""" + "".join(
    f"start={6144 + index * 3072}, size={1000 + index}, type={kind}\n"
    for index, kind in enumerate([83, 82, "8e", "7", "fd", 83])
)


@pytest.mark.parametrize(
    ("script", "sector"),
    [
        pytest.param(GPT, 512, id="gpt"),
        pytest.param(GPT, 4096, id="gpt-4096"),
        pytest.param("label: dos\n,1MiB,83\n,2MiB,7,*\n,,c\n", 512, id="mbr"),
        pytest.param(LOGICAL, 512, id="mbr-with-6-logical"),
        pytest.param(LOGICAL.replace("type=5", "type=f"), 512, id="mbr-extended-0f"),
        pytest.param(LOGICAL.replace("type=5", "type=85"), 512, id="mbr-extended-85"),
    ],
)
def test_equals_sfdisk(tmp_path: Path, script: str, sector: int) -> None:
    need_tool("sfdisk")
    disk = sfdisk(tmp_path / "disk", script, 16 * MIB)
    expected = [one for one in by_sfdisk(tmp_path / "disk", sector) if one["type"] not in {"5", "f", "85"}]
    volumes, gaps = find(disk)
    assert gaps == []
    found = sorted(volumes, key=lambda volume: volume.number)
    assert [(one.start, one.length) for one in found] == [
        (one["start"] * sector, one["size"] * sector) for one in expected
    ]
    assert [one.name for one in found] == [one.get("name", "") for one in expected]
    assert [one.type.removeprefix("0x").lstrip("0").lower() for one in found] == [
        one["type"].lstrip("0").lower() for one in expected
    ]
    numbers = [int(one["node"].rpartition("disk")[2]) for one in expected]
    assert [one.number for one in found] == numbers


def sector_test_script() -> str:
    return "label: dos\nstart=256, size=512, type=83\nstart=1024, size=1024, type=5\nstart=1280, size=256, type=83\n"


def test_mbr_with_sectors_of_4096(tmp_path: Path) -> None:
    """Nothing says so but what lies where the partitions start: here the extended boot record."""
    need_tool("sfdisk")
    disk = sfdisk(tmp_path / "disk", sector_test_script(), 16 * MIB, 4096)
    if by_sfdisk(tmp_path / "disk", 4096)[0]["start"] != 256:
        pytest.fail("sfdisk has made something else")
    volumes, gaps = find(disk)
    assert gaps == []
    assert places(volumes) == [(1, MIB, 2 * MIB), (5, 5 * MIB, MIB)]


def test_equals_sgdisk_with_many_partitions(tmp_path: Path) -> None:
    need_tool("sgdisk")
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    new = [part for number in range(1, 129) for part in ("-n", f"{number}:{2048 + 64 * number}:+63")]
    run("sgdisk", "-a", "1", *new, "-d", "50", path)
    volumes, gaps = find(path.read_bytes())
    assert gaps == []
    assert places(volumes) == [(n, (2048 + 64 * n) * 512, 64 * 512) for n in range(1, 129) if n != 50]


def test_hybrid_mbr_counts_shared_partitions_once(tmp_path: Path) -> None:
    need_tool("sgdisk", "sfdisk")
    sfdisk(tmp_path / "disk", GPT, 16 * MIB)
    run("sgdisk", "--hybrid", "2:3", tmp_path / "disk")
    disk = bytearray((tmp_path / "disk").read_bytes())
    assert any(disk[at + 4] == 0x83 for at in range(446, 510, 16))
    volumes, gaps = find(disk)
    assert gaps == []
    assert [volume.kind for volume in volumes] == ["gpt"] * 3
    # an MBR entry that the GPT does not have hides nothing
    at = next(at for at in range(446, 510, 16) if not disk[at + 12 : at + 16].strip(b"\0"))
    disk[at : at + 16] = struct.pack("<B3xB3xII", 0, 0, 22528, 2048)
    volumes, gaps = find(disk)
    assert gaps == []
    assert [(volume.kind, volume.start, volume.type) for volume in volumes][3:] == [("mbr", 11 * MIB, "0x00")]


@pytest.fixture(scope="module")
def gpt_disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    need_tool("sfdisk")
    return bytes(sfdisk(tmp_path_factory.mktemp("gpt") / "disk", GPT, 16 * MIB))


def damaged(disk: bytes, *places: int) -> bytearray:
    changed = bytearray(disk)
    for place in places:
        changed[place] ^= 0xFF
    return changed


LAST = 16 * MIB - 512
RIGHT = [(1, MIB, MIB), (2, 3 * MIB, 2 * MIB), (3, 8 * MIB, MIB)]


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
    assert gaps == []


def sealed(disk: bytes, header_at: int, entries_at: int, entries: bytes, **header: int) -> bytearray:
    """The disk with other entries in one copy, and right checksums."""
    changed = bytearray(disk)
    changed[entries_at : entries_at + len(entries)] = entries
    count = header.get("count", 128)
    each = header.get("each", 128)
    struct.pack_into("<II", changed, header_at + 80, count, each)
    array = bytes(changed[entries_at : entries_at + min(count * each, 5 * MIB)])
    struct.pack_into("<I", changed, header_at + 88, zlib.crc32(array))
    size = header.get("size", 92)
    struct.pack_into("<II", changed, header_at + 12, size, 0)
    struct.pack_into("<I", changed, header_at + 16, zlib.crc32(changed[header_at : header_at + min(size, 512)]))
    return changed


def entry(first: int, last: int, kind: bytes = b"k" * 16) -> bytes:
    return struct.pack(
        "<16s16sQQQ72s", kind, b"u" * 16, first, last, 0, "n\ud800x".encode("utf-16-le", "surrogatepass")
    )


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


def boot_record(*entries: tuple[int, int, int, int], start: bytes = b"") -> bytes:
    packed = b"".join(struct.pack("<B3xB3xII", *one) for one in entries)
    return start.ljust(446, b"\0") + packed.ljust(64, b"\0") + b"\x55\xaa"


def assembled(size: int, pieces: dict[int, bytes]) -> bytes:
    disk = bytearray(size)
    for sector, piece in pieces.items():
        disk[sector * 512 : sector * 512 + len(piece)] = piece
    return bytes(disk)


EXTENDED = boot_record((0, 5, 100, 1000))


@pytest.mark.parametrize(
    ("pieces", "offered", "gap"),
    [
        pytest.param({0: EXTENDED}, [], "no extended boot record in sector 100", id="nothing-there"),
        pytest.param({0: EXTENDED, 100: boot_record((0, 5, 0, 10))}, [], "circle", id="loop-to-itself"),
        pytest.param(
            {0: EXTENDED, 100: boot_record((0, 131, 1, 5), (0, 5, 50, 9)), 150: boot_record((0, 131, 2, 6), (0, 5, 0, 9))},
            [(5, 101, 5), (6, 152, 6)],
            "circle",
            id="loop-of-two",
        ),
        pytest.param(
            {0: EXTENDED, 100: boot_record((0, 131, 1, 5), (0, 5, 1 << 31, 9))},
            [(5, 101, 5)],
            "no extended boot record in sector 2147483748",
            id="link-outside",
        ),
        pytest.param(
            {0: EXTENDED, 100: boot_record((0, 131, 1, 5), (0, 0, 0, 0), (7, 9, 1 << 30, 1 << 30))},
            [(5, 101, 5)],
            None,
            id="rubbish-in-the-third-entry",
        ),
        pytest.param(
            {0: boot_record((0, 0, 10, 20), (0, 131, 40, 0), (128, 131, 50, 5))},
            [(1, 10, 20), (3, 50, 5)],
            None,
            id="type-0-counts-and-length-0-does-not",
        ),
        pytest.param({0: boot_record((0, 5, 100, 9), (0, 5, 200, 9)), 100: boot_record((0, 1, 1, 5)), 200: boot_record((0, 1, 1, 6))}, [(5, 101, 5), (6, 201, 6)], None, id="two-extended"),
        pytest.param({0: boot_record((0, 131, 10, 20), (0, 131, 15, 20))}, [(1, 10, 20), (2, 15, 20)], "MBR 1 and MBR 2", id="overlapping"),
        pytest.param({0: boot_record((0, 131, 10, 4086))}, [(1, 10, 4086)], None, id="to-the-last-sector"),
        pytest.param({0: boot_record((0, 131, 10, 4087))}, [(1, 10, 4086)], "ends 512 bytes past", id="past-the-last-sector"),
    ],
)  # fmt: skip
def test_mbr_by_hand(pieces: dict[int, bytes], offered: list[tuple[int, int, int]], gap: str | None) -> None:
    volumes, gaps = find(assembled(2 * MIB, pieces))
    assert places(volumes) == [(number, start * 512, length * 512) for number, start, length in offered]
    assert len(gaps) == (gap is not None)
    assert all(gap is not None and gap in one.detail for one in gaps)


@pytest.mark.parametrize(("count", "offered"), [(128, 128), (129, 128), (300, 128)])
def test_logical_partitions_are_bounded(count: int, offered: int) -> None:
    pieces = {0: boot_record((0, 5, 10, 3000))}
    for index in range(count):
        link = (0, 5, 4 * (index + 1), 4) if index + 1 < count else (0, 0, 0, 0)
        pieces[10 + 4 * index] = boot_record((0, 131, 1, 1), link)
    volumes, gaps = find(assembled(MIB, pieces))
    assert len(volumes) == offered
    assert [gap.reason for gap in gaps] == [GapReason.LIMIT] * (count > offered)


FAT = b"\xeb\x3c\x90mkfs.fat" + struct.pack("<HBHBHHBH", 512, 1, 1, 2, 512, 4096, 0xF8, 12)
EXT = assembled(MIB, {2: struct.pack("<II16xI12xI12xHH20xI", 16, 1024, 0, 8192, 0xEF53, 1, 1)})


@pytest.mark.parametrize(
    ("disk", "kinds", "reasons"),
    [
        pytest.param(b"", [], [GapReason.UNRECOGNISED], id="no-bytes"),
        pytest.param(bytes(1000), [], [GapReason.UNRECOGNISED], id="less-than-1-KiB"),
        pytest.param(bytes(5 * MIB), [], [GapReason.EMPTY], id="zeros"),
        pytest.param(bytes(4 * MIB) + b"x" + bytes(4 * MIB), [], [GapReason.EMPTY], id="zeros-but-for-a-byte-between-samples"),
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
