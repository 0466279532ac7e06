"""A filesystem copied at one moment while programs write to it: our reader sees what the kernel sees after recovery.

The image lies on XFS, whose reflink copy is one moment. Nothing is synced before. Our reader reads the copy as it is;
the kernel mounts a second copy, replays the journal and deals with the orphans.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.findings import GapReason
from tests.need import need_root, need_tool
from tests.scanner.filesystems.images import opened
from tests.scanner.filesystems.load import Load, hold_deleted
from tests.scanner.filesystems.machine import Failed, Mounts, empty_image, make_ext, run
from tests.scanner.filesystems.truth import Seen, Truth, differences, kernel_truth, reader_truth, summary

MIB = 1 << 20
MOMENTS = 12
PAUSE_SECONDS = 0.3


@dataclass(frozen=True)
class Live:
    words: str
    mount: str = "rw"


def row(name: str, words: str, mount: str = "rw") -> object:
    return pytest.param(Live(words, f"{mount},commit=1" if mount == "rw" else f"rw,{mount},commit=1"), id=name)


# Not inline_data: Linux 6.18 can deadlock its journal thread on it for good (ordered mode, writing inline data back
# starts a transaction inside a commit), and a machine that hangs until it is restarted is too much for a test.
VARIANTS = [
    row("ext4", "-t ext4 -b 4096"),
    row("ext4-data-journal", "-t ext4 -b 4096", "data=journal"),
    row("ext4-writeback", "-t ext4 -b 4096", "data=writeback"),
    row("no-csum", "-t ext4 -b 4096 -O ^metadata_csum"),
    row("no-csum-journal-checksum", "-t ext4 -b 4096 -O ^metadata_csum", "journal_checksum"),
    row(
        "no-csum-async-commit",
        "-t ext4 -b 4096 -O ^metadata_csum",
        "data=writeback,journal_checksum,journal_async_commit",
    ),
    row("no-64bit", "-t ext4 -b 4096 -O ^64bit,^metadata_csum"),
    row("csum-no-64bit", "-t ext4 -b 4096 -O ^64bit"),
    row("1k", "-t ext4 -b 1024"),
    row("1k-tiny-journal-data-journal", "-t ext4 -b 1024 -J size=2", "data=journal"),
    row("tiny-journal", "-t ext4 -b 4096 -J size=4"),
    row("ext3", "-t ext3 -b 4096"),
    row("ext3-1k-data-journal", "-t ext3 -b 1024 -J size=2", "data=journal"),
    row("orphan-file", "-t ext4 -b 4096 -O orphan_file"),
    row("bigalloc", "-t ext4 -b 4096 -O bigalloc -C 16384"),
    row("fast-commit", "-t ext4 -b 4096 -O fast_commit"),
]


@pytest.mark.slow
@pytest.mark.parametrize("live", VARIANTS)
def test_copies_of_a_live_filesystem(live: Live, mounts: Mounts, workdir: Path) -> None:
    need_tool("mke2fs", "mkfs.xfs", "debugfs", "e2fsck", "mount", "umount", "cp")
    need_root()
    outer = mounts.mount(_outer(workdir))
    image = make_ext(outer / "disk", 256 * MIB, live.words.split())
    copies, held = _copies(image, live, mounts)
    problems: list[str] = []
    unreplayed = orphans = 0
    for copy in copies:
        seen, expected, lines = _compare(copy, live, mounts)
        problems += [f"{copy.name}: {line}" for line in lines]
        if not_replayed(seen):
            unreplayed += 1
            continue
        orphans += len(seen.deleted)
        lost = set(held) - {truth.sha256 for truth in seen.deleted.values()}
        problems += [f"{copy.name}: a deleted open file is not listed, sha256 {sha256}" for sha256 in lost]
    print(
        f"{len(copies)} copies, {unreplayed} with fast commits not replayed, {orphans} deleted files, last {len(expected)} names"
    )
    assert not problems, summary(problems)
    assert unreplayed == 0 or "fast_commit" in live.words


def _outer(workdir: Path) -> Path:
    outer = empty_image(workdir / "outer", 4096 * MIB)
    run("mkfs.xfs", "-q", "-m", "reflink=1", outer)
    return outer


def _copies(image: Path, live: Live, mounts: Mounts) -> tuple[list[Path], list[str]]:
    """Copies of `image` taken under load, and the sha256 of what was deleted but open all the time."""
    point = mounts.mount(image, live.mount)
    held = hold_deleted(point, seed=7)
    copies = []
    with Load(point, seed=1):
        for number in range(MOMENTS):
            time.sleep(PAUSE_SECONDS)
            copies.append(_reflink(image, image.with_name(f"copy{number}")))
    for handle in held:
        os.close(handle)
    mounts.unmount(point)
    return copies, list(held.values())


def _reflink(image: Path, copy: Path) -> Path:
    run("cp", "--reflink=always", image, copy)
    return copy


def _compare(copy: Path, live: Live, mounts: Mounts) -> tuple[Seen, dict[bytes, Truth], list[str]]:
    """What the reader says of `copy`, what the kernel says, and how they differ, deleted files included."""
    with opened(copy) as filesystem:
        seen = reader_truth(filesystem)
    if "fast_commit" in live.words and not_replayed(seen):  # what fast commits say is missing, all else must be there
        return seen, {}, [f"gap: {gap}" for gap in seen.gaps if gap.reason != GapReason.JOURNAL_NOT_REPLAYED]
    second = _reflink(copy, copy.with_name("second"))
    before = time.time_ns() - 20_000_000  # the clock of the kernel's timestamps ticks every few milliseconds
    point = mounts.mount(second, live.mount)
    expected = kernel_truth(point)
    mounts.unmount(point)
    second.unlink()
    _forgive_recovery_times(expected, seen, before)
    lines = differences(expected, seen.names)
    lines += [f"gap: {gap}" for gap in seen.gaps]
    if "fast_commit" not in live.words:  # there e2fsck empties the orphans, so that it knows less than we do
        lines += _deleted_differences(copy, seen)
    return seen, expected, lines


def not_replayed(seen: Seen) -> bool:
    return any(gap.reason == GapReason.JOURNAL_NOT_REPLAYED for gap in seen.gaps)


def _forgive_recovery_times(expected: dict[bytes, Truth], seen: Seen, before: int) -> None:
    """An interrupted truncate is finished by the kernel at mount, which sets the file's mtime to now."""
    for path, truth in expected.items():
        if truth.mtime_ns >= before and path in seen.names:
            mine = seen.names[path]
            seen.names[path] = Truth(**{**vars(mine), "mtime_ns": truth.mtime_ns})


def _deleted_differences(copy: Path, seen: Seen) -> list[str]:
    """Deleted files against debugfs, after e2fsck has replayed the journal and left the orphans alone."""
    third = _reflink(copy, copy.with_name("third"))
    run("e2fsck", "-y", "-E", "journal_only", third, good=(0, 1))
    lines = []
    content = copy.with_name("content")
    for path, truth in seen.deleted.items():
        if truth.kind != "file":
            continue
        content.unlink(missing_ok=True)
        run("debugfs", "-R", f"dump <{truth.inode}> {content}", third)
        other = hashlib.sha256(content.read_bytes()).hexdigest() if content.exists() else "nothing"
        if other != truth.sha256:
            lines.append(f"deleted {path!r}: debugfs says {other[:16]}, we say {truth.sha256[:16]}")
    chain = _orphan_chain(third)
    mine = {truth.inode for truth in seen.deleted.values()}
    lines += [f"orphan inode {inode} is not listed as deleted" for inode in sorted(chain - mine)]
    third.unlink()
    return lines


def _orphan_chain(image: Path) -> set[int]:
    """Inodes without a name on the superblock's list of orphans; each inode's dtime holds the next one."""
    stats = run("debugfs", "-R", "stats -h", image).decode("utf-8", "replace")
    first = re.search(r"First orphan inode: *(\d+)", stats)
    inode = int(first[1]) if first else 0
    found: set[int] = set()
    visited: set[int] = set()
    while inode and inode not in visited:
        visited.add(inode)
        try:
            said = run("debugfs", "-R", f"stat <{inode}>", image).decode("utf-8", "replace")
        except Failed:
            break
        links = re.search(r"Links: (\d+)", said)
        if links and int(links[1]) == 0:
            found.add(inode)
        following = re.search(r"dtime: 0x([0-9a-f]+)", said)
        inode = int(following[1], 16) & 0xFFFFFFFF if following else 0
    return found
