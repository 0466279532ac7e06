"""MBR tables by hand: chains of logical partitions that loop, leave the disk or never end."""

from __future__ import annotations

import pytest

from core.findings import GapReason
from tests.scanner.volumes.tables import (
    MIB,
    assembled,
    boot_record,
    find,
    places,
)

EXTENDED = boot_record((0, 5, 100, 1000))


def test_mbr_with_sectors_of_4096() -> None:
    """Nothing says so but what lies where the partitions start: here the extended boot record."""
    primary = boot_record((0, 131, 256, 512), (0, 5, 1024, 1024))
    disk = assembled(16 * MIB, {0: primary, 8 * 1024: boot_record((0, 131, 256, 256))})
    volumes, gaps = find(disk)
    assert gaps == []
    assert places(volumes) == [(1, MIB, 2 * MIB), (5, 5 * MIB, MIB)]


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
