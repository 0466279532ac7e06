"""Damaged and lying ext images: never another exception, a hang, a flood of memory or a false clean result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.need import need_tool
from tests.scanner.filesystems.hostile_images import KINDS, build_image, damage_kind
from tests.scanner.filesystems.images import opened
from tests.scanner.filesystems.layout import find_layout
from tests.scanner.filesystems.truth import differences, reader_truth, summary

MUTATIONS, TRUNCATIONS = 60, 8  # of each kind of image; `make soak` does many more


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in KINDS])
def test_damage(name: str, workdir: Path) -> None:
    """With checksums, whatever is lost or changed without a gap is an error; without, a file that has gone is."""
    need_tool("mke2fs", "debugfs", "dumpe2fs")
    outcome = damage_kind(name, workdir / name, MUTATIONS, TRUNCATIONS)
    print(f"{name}: {dict(outcome.counts)}")
    assert not outcome.broken, f"{len(outcome.broken)} of {MUTATIONS + TRUNCATIONS}:\n" + "\n".join(outcome.broken[:20])
    assert sum(outcome.counts.values()) == MUTATIONS + TRUNCATIONS


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in KINDS if KINDS[name].dirty])
def test_journal_made_by_debugfs(name: str, workdir: Path) -> None:
    """Two transactions that are only in the journal are seen, in their order."""
    need_tool("mke2fs", "debugfs", "dumpe2fs")
    image, states = build_image(KINDS[name], workdir / name)
    with opened(states[-1]) as filesystem:
        expected = reader_truth(filesystem)
    with opened(states[0]) as filesystem:
        before = reader_truth(filesystem)
    with opened(image) as filesystem:
        seen = reader_truth(filesystem)
    assert b"/new folder/linked" in expected.names
    assert b"/new folder" not in before.names
    lines = differences(expected.names, seen.names)
    assert not lines, summary(lines)
    assert not seen.gaps


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in ("ext4", "ext3-1k", "ext2")])
def test_all_regions_are_found(name: str, workdir: Path) -> None:
    """The mutations hit what they mean to hit."""
    need_tool("mke2fs", "debugfs", "dumpe2fs")
    image, _ = build_image(KINDS[name], workdir / name)
    layout = find_layout(image)
    wanted = {"superblock", "descriptors", "block bitmap", "inode bitmap", "inode", "directory", "mapping"}
    if "ext2" not in name:
        wanted.add("journal")
    assert wanted <= layout.regions.keys()
    assert len(layout.directories) > 10
