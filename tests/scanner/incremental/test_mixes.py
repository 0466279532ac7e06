"""After every mix of changes the incremental scan finds what a full scan finds: no change is missed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.need import need_root, need_tool
from tests.scanner.filesystems.load import Load, hold_deleted
from tests.scanner.filesystems.machine import Mounts, empty_image, make_ext, run
from tests.scanner.incremental.compare import changed_extents, copy, differences, full, incremental
from tests.scanner.incremental.mixes import Mixer

MIB = 1 << 20
FILES = 400
ROUNDS = 3

FORMATS = [
    pytest.param("-t ext4 -b 4096 -I 256", 4096, id="ext4"),
    pytest.param("-t ext4 -b 4096 -I 256", 512 << 10, id="ext4-512k"),
    pytest.param("-t ext4 -b 1024 -O ^metadata_csum", 1024, id="ext4-1k-no-csum"),
    pytest.param("-t ext3 -b 1024", 4096, id="ext3-indirect"),
    pytest.param("-t ext2 -b 4096 -I 128", 4096, id="ext2-small-inodes"),
    pytest.param("-t ext4 -b 4096 -O inline_data,^has_journal -I 512", 4096, id="inline"),
    pytest.param("-t ext4 -b 4096 -O ea_inode -I 256", 64 << 10, id="ea-inode"),
]


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    with Mounts(tmp_path) as held:
        yield held


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("words", "grain"), FORMATS)
def test_no_change_is_missed(words: str, grain: int, seed: int, mounts: Mounts, tmp_path: Path) -> None:
    """3 rounds, each on the manifest that the incremental scan before it left: an error would be carried on."""
    need_root()
    need_tool("mke2fs", "mount", "umount")
    disk = make_ext(tmp_path / "disk", 128 * MIB, words.split())
    mixer = Mixer(mounts.mount(disk, "rw,noatime"), seed)
    mixer.fill(FILES)
    mounts.unmount(mixer.root)
    base = tmp_path / "base"
    full(disk, base)
    for number in range(ROUNDS):
        before = copy(disk, tmp_path / "before")
        mixer.root = mounts.mount(disk, "rw,noatime")
        done = mixer.mix(12 if number else 40)
        mounts.unmount(mixer.root)
        changes = changed_extents(before, disk, grain)
        found = incremental(disk, base, tmp_path / "found", changes)
        expected = full(disk, tmp_path / "right")
        assert not differences(expected, found, tmp_path / "right", tmp_path / "found"), done
        assert found.coverage.mode == "incremental"
        assert found.coverage.files_carried, "nothing was taken over: this compares a full scan with itself"
        assert changes, done
        base = (tmp_path / "found").rename(tmp_path / f"base{number}")


@pytest.mark.slow
@pytest.mark.parametrize("options", ["rw,commit=1", "rw,commit=1,data=journal"])
def test_copies_of_a_live_filesystem(options: str, mounts: Mounts, tmp_path: Path) -> None:
    """The base and the disk both have a journal to replay: what it replaced in memory counts as changed."""
    need_root()
    need_tool("mke2fs", "mkfs.xfs", "mount", "umount", "cp")
    outer_image = empty_image(tmp_path / "outer", 4096 * MIB)
    run("mkfs.xfs", "-q", "-m", "reflink=1", outer_image)
    outer = mounts.mount(outer_image)
    disk = make_ext(outer / "disk", 256 * MIB, ["-t", "ext4", "-b", "4096", "-J", "size=4"])
    point = mounts.mount(disk, options)
    held = hold_deleted(point, seed=7)
    copies = []
    with Load(point, seed=1):
        for number in range(6):
            time.sleep(0.4)
            copies.append(outer / f"copy{number}")
            run("cp", "--reflink=always", disk, copies[-1])
    for handle in held:
        os.close(handle)
    mounts.unmount(point)
    base = tmp_path / "base"
    full(copies[0], base)
    for number in range(1, len(copies)):
        changes = changed_extents(copies[number - 1], copies[number], 4096)
        found = incremental(copies[number], base, tmp_path / "found", changes)
        expected = full(copies[number], tmp_path / "right")
        assert not differences(expected, found, tmp_path / "right", tmp_path / "found")
        base = (tmp_path / "found").rename(tmp_path / f"base{number}")
