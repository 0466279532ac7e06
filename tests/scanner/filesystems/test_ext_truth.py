"""Every name, content, owner, time and attribute our ext2/3/4 reader sees is what the kernel sees."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.findings import InFile
from tests.need import need_root, need_tool
from tests.scanner.filesystems.images import opened
from tests.scanner.filesystems.machine import Failed, Mounts, make_ext
from tests.scanner.filesystems.real_tree import copy_real, real_files
from tests.scanner.filesystems.trees import (
    Mixed,
    build_mixed,
    small_mixed,
)
from tests.scanner.filesystems.truth import (
    Truth,
    as_mke2fs_copies,
    assert_same,
    differences,
    kernel_truth,
    reader_truth,
    summary,
)

MIB = 1 << 20


HOLES_LOST_BY_MKE2FS = {
    b"/contents/" + name for name in (b"cut", b"hole at end", b"only a hole", b"punched", b"unwritten")
}


@dataclass(frozen=True)
class Options:
    """One way to make an image; `block` and `size` in bytes."""

    words: str
    block: int = 4096
    size: int = 384 * MIB
    mount: str = "rw"

    def make(self, image: Path, *more: str, tree: Path | None = None) -> Path:
        """`mke2fs` chooses small blocks for small images unless told."""
        return make_ext(image, self.size, ["-b", str(self.block), *self.words.split(), *more], tree)


def row(name: str, words: str, block: int = 4096, size: int = 384 * MIB, mount: str = "rw") -> object:
    return pytest.param(Options(words, block, size, mount), id=name)


# inline_data without a journal: see test_ext_live.py.
OPTION_SETS = [
    row("ext2", "-t ext2"),
    row("ext2-1k", "-t ext2 -g 8192", 1024),
    row("ext2-2k", "-t ext2", 2048),
    row("ext2-inode-128", "-t ext2 -I 128"),
    row("ext2-inode-128-1k", "-t ext2 -I 128", 1024),
    row("ext2-revision-0", "-t ext2 -r 0 -I 128 -O none", 1024),
    row("ext2-no-filetype", "-t ext2 -O ^filetype"),
    row("ext3", "-t ext3"),
    row("ext3-no-dir-index", "-t ext3 -O ^dir_index"),
    row("ext3-1k", "-t ext3", 1024),
    row("ext4", "-t ext4"),
    row("ext4-1k", "-t ext4", 1024),
    row("ext4-2k", "-t ext4", 2048),
    row("ext4-data-journal", "-t ext4", mount="data=journal"),
    row("no-64bit-no-csum", "-t ext4 -O ^64bit,^metadata_csum"),
    row("64bit-no-csum", "-t ext4 -O 64bit,^metadata_csum"),
    row("csum-no-64bit", "-t ext4 -O ^64bit,metadata_csum"),
    row("uninit-bg", "-t ext4 -O ^metadata_csum,uninit_bg"),
    row("uninit-bg-no-64bit", "-t ext4 -O ^metadata_csum,uninit_bg,^64bit"),
    row("csum-seed", "-t ext4 -O metadata_csum_seed"),
    row("meta-bg", "-t ext4 -O meta_bg,^resize_inode"),
    row("meta-bg-1k", "-t ext4 -O meta_bg,^resize_inode", 1024),
    row("meta-bg-1k-no-64bit", "-t ext4 -O meta_bg,^resize_inode,^64bit", 1024),
    row("bigalloc-16k", "-t ext4 -O bigalloc -C 16384", 4096, 640 * MIB),
    row("bigalloc-64k", "-t ext4 -O bigalloc -C 65536", 4096, 1536 * MIB),
    row("bigalloc-1k", "-t ext4 -O bigalloc -C 8192", 1024, 512 * MIB),
    row("inline-data-512", "-t ext4 -O inline_data,^has_journal -I 512"),
    row("inline-data-256", "-t ext4 -O inline_data,^has_journal -I 256"),
    row("inline-data-1024-1k", "-t ext4 -O inline_data,^has_journal -I 1024 -N 20000", 1024),
    row("ea-inode", "-t ext4 -O ea_inode"),
    row("ea-inode-1k-inline", "-t ext4 -O ea_inode,inline_data,^has_journal -I 256", 1024),
    row("inode-128", "-t ext4 -I 128"),
    row("inode-1024", "-t ext4 -I 1024 -N 40000"),
    row("sparse-super2", "-t ext4 -O sparse_super2"),
    row("no-sparse-super", "-t ext4 -O ^sparse_super,^resize_inode"),
    row("large-dir", "-t ext4 -O large_dir"),
    row("casefold", "-t ext4 -O casefold -E encoding=utf8"),
    row("no-journal", "-t ext4 -O ^has_journal"),
    row("no-extent", "-t ext4 -O ^extent,^64bit"),
    row("quota-project", "-t ext4 -O quota,project -E quotatype=usrquota:grpquota:prjquota"),
    row("orphan-file", "-t ext4 -O orphan_file"),
    row("fast-commit", "-t ext4 -O fast_commit"),
    row("blocks-64k", "-t ext4", 65536, 1024 * MIB),
    row("flex-1", "-t ext4 -G 1"),
    row("flex-64-stride", "-t ext4 -G 64 -E stride=16,stripe_width=64"),
    row("small-groups", "-t ext4 -g 1024 -N 16384", 1024),
    row("encrypt-verity-stable", "-t ext4 -O encrypt,verity,stable_inodes"),
    row("mmp", "-t ext4 -O mmp"),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTION_SETS)
def test_mixed_tree(options: Options, mounts: Mounts, workdir: Path) -> None:
    need_tool("mke2fs", "mount", "umount")
    need_root()
    image = workdir / "image"
    options.make(image)
    try:
        point = mounts.mount(image, options.mount)
    except Failed as refused:
        print(f"the kernel refuses {options.words!r}, so mke2fs -d makes it: {refused}")
        _mixed_tree_by_mke2fs(options, workdir)
        return
    mixed = Mixed(block=options.block)
    build_mixed(point, mixed)
    mounts.unmount(point)
    point = mounts.mount(image, "ro")
    expected = kernel_truth(point)
    mounts.unmount(point)
    print(f"{len(expected)} names; refused by this filesystem: {sorted(set(mixed.refused))}")
    with opened(image) as filesystem:
        assert_same(expected, reader_truth(filesystem))


def _mixed_tree_by_mke2fs(options: Options, workdir: Path) -> None:
    tree = workdir / "tree"
    tree.mkdir()
    image = workdir / "image"
    try:
        expected = _tree_image(tree, image, options, Mixed(block=options.block, attribute_room=3_900))
        with opened(image) as filesystem:
            seen = reader_truth(filesystem)
        _assert_mke2fs_tree(expected, seen.names)
        assert not seen.gaps
    finally:
        shutil.rmtree(tree)


def _tree_image(tree: Path, image: Path, options: Options, mixed: Mixed) -> dict[bytes, Truth]:
    build_mixed(tree, mixed)
    options.make(image, tree=tree)
    return as_mke2fs_copies(kernel_truth(tree))


def _assert_mke2fs_tree(expected: dict[bytes, Truth], got: dict[bytes, Truth]) -> None:
    """Inode numbers and directory sizes are the image's own; so are the root and lost+found."""
    mine = {path: truth for path, truth in got.items() if path not in {b"/", b"/lost+found"}}
    expected = {path: truth for path, truth in expected.items() if path != b"/"}
    lines = differences(expected, mine, frozenset({"inode", "size", "nlink"}))
    for path, truth in expected.items():
        other = mine.get(path)
        if not other or truth.kind in {"directory", "symlink"}:  # it does not link symlinks
            continue
        if (other.size, other.nlink) != (truth.size, truth.nlink):
            lines.append(f"{path!r}: size, nlink {truth.size, truth.nlink}, got {other.size, other.nlink}")
    assert not lines, summary(lines)


@pytest.mark.parametrize(
    "options",
    [
        row("ext2-1k", "-t ext2", 1024, 32 * MIB),
        row("ext3", "-t ext3 -J size=4", 4096, 48 * MIB),
        row("ext4", "-t ext4 -J size=4", 4096, 48 * MIB),
        row("inline-data", "-t ext4 -O inline_data -I 512 -J size=4", 4096, 48 * MIB),
        row("bigalloc-1k", "-t ext4 -O bigalloc -C 4096 -J size=4", 1024, 48 * MIB),
        row("casefold", "-t ext4 -O casefold -E encoding=utf8 -J size=4", 4096, 48 * MIB),
        row("quota", "-t ext4 -O quota,project -E quotatype=usrquota:grpquota:prjquota", 4096, 48 * MIB),
        row("blocks-16k", "-t ext4 -J size=16", 16384, 128 * MIB),
        row("blocks-64k", "-t ext4 -J size=64", 65536, 512 * MIB),
    ],
)
def test_small_tree_without_root(options: Options, workdir: Path, tmp_path: Path) -> None:
    """The same without a mount, so that it runs for everybody: what `mke2fs -d` copied is what we read."""
    need_tool("mke2fs")
    tree = tmp_path / "tree"
    tree.mkdir()
    image = workdir / "image"
    expected = _tree_image(tree, image, options, small_mixed(options.block))
    with opened(image) as filesystem:
        seen = reader_truth(filesystem)
    with opened(image) as filesystem:
        by_parts = reader_truth(filesystem, step=57)
    if "inline_data" in options.words:  # mke2fs loses the holes of files in such images: size and content are its own
        seen.names = {path: truth for path, truth in seen.names.items() if path not in HOLES_LOST_BY_MKE2FS}
        expected = {path: truth for path, truth in expected.items() if path not in HOLES_LOST_BY_MKE2FS}
        seen.gaps = [gap for gap in seen.gaps if gap.where != InFile(0, b"/contents/only a hole")]
    _assert_mke2fs_tree(expected, seen.names)
    assert not seen.gaps
    assert by_parts.names.items() >= seen.names.items(), "asking in small ranges of inodes gives the same"


# The default of each kind and ten unusual ones; the sizes leave room for clusters of 16 KiB.
REAL_SETS = [
    row("ext2", "-t ext2"),
    row("ext2-1k-inode-128", "-t ext2 -I 128", 1024),
    row("ext3", "-t ext3"),
    row("ext3-no-dir-index", "-t ext3 -O ^dir_index"),
    row("ext4", "-t ext4"),
    row("ext4-2k-data-journal", "-t ext4", 2048, mount="data=journal"),
    row("no-64bit-no-csum", "-t ext4 -O ^64bit,^metadata_csum,uninit_bg"),
    row("meta-bg-1k", "-t ext4 -O meta_bg,^resize_inode", 1024),
    row("bigalloc-16k", "-t ext4 -O bigalloc -C 16384"),
    row("inline-data-512", "-t ext4 -O inline_data,^has_journal -I 512"),
    row("ea-inode", "-t ext4 -O ea_inode"),
    row("inode-1024", "-t ext4 -I 1024"),
    row("sparse-super2-no-extent", "-t ext4 -O sparse_super2,^resize_inode,^extent,^64bit"),
    row("flex-1-small-groups", "-t ext4 -G 1 -g 4096", 1024),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", REAL_SETS)
def test_real_tree(options: Options, mounts: Mounts, workdir: Path) -> None:
    """At least 20,000 files of this machine, copied through the kernel."""
    need_tool("mke2fs", "mount", "umount", "cp")
    need_root()
    chosen = real_files(20_000, 200 * MIB)
    image = make_ext(workdir / "image", 1536 * MIB, ["-b", str(options.block), *options.words.split(), "-N", "60000"])
    point = mounts.mount(image, options.mount)
    copy_real(chosen, point)
    mounts.unmount(point)
    point = mounts.mount(image, "ro")
    expected = kernel_truth(point)
    mounts.unmount(point)
    files = [truth for truth in expected.values() if truth.kind == "file"]
    assert len(files) >= 20_000, "this machine has too few files in /usr for this test"
    print(f"{len(files)} files, {sum(truth.size for truth in files) // MIB} MiB, {len(expected)} names")
    with opened(image) as filesystem:
        assert_same(expected, reader_truth(filesystem))


@pytest.mark.slow
def test_very_large_directory(mounts: Mounts, workdir: Path) -> None:
    """1 KiB blocks and 20,000 names of 40 bytes: an index of two levels."""
    need_tool("mke2fs", "mount", "umount")
    need_root()
    image = make_ext(workdir / "image", 384 * MIB, ["-t", "ext4", "-b", "1024"])
    point = mounts.mount(image)
    build_mixed(point, Mixed(block=1024, directory=20_000, sparse_bytes=3 * MIB))
    mounts.unmount(point)
    point = mounts.mount(image, "ro")
    expected = kernel_truth(point)
    mounts.unmount(point)
    with opened(image) as filesystem:
        assert_same(expected, reader_truth(filesystem, step=1000))
