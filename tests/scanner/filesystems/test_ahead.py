"""Metadata of a disk that is far away is announced before it is read, and nothing else is."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.blocks import BlockSource, Bytes, Extent, MemorySource, Slice, is_far, prefetch
from demo.ext4 import Node
from scanner.filesystems import FILESYSTEMS
from scanner.shared import Blocks
from tests.scanner.sandboxed import MIB, file, write_ext4

FILES = 40


class Far:
    far = True

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.told: list[Extent] = []
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> Bytes:
        self.reads.append((offset, length))
        return self.content[offset : offset + length]

    def prefetch(self, extents: Sequence[Extent]) -> None:
        self.told += extents


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    nodes: list[Node] = []
    for number in range(FILES):
        nodes.append(Node(b"/d%d" % number, stat.S_IFDIR | 0o755))
        nodes.append(file(b"/d%d/f" % number, b"x" * 100_000))
    path: Path = write_ext4(tmp_path_factory.mktemp("ahead") / "disk.img", nodes, 16 * MIB)
    return path.read_bytes()


def index(source: BlockSource) -> int:
    (reader,) = [one for one in FILESYSTEMS if one.probe(source)]
    return reader.open(source, 0).index()


def test_tables_and_directories_are_announced(content: bytes) -> None:
    far = Far(content)
    assert index(Slice(far, 0, far.size)) == index(MemorySource(content))
    assert far.told
    told = sum(one.length for one in far.told)
    assert told < 0.1 * FILES * 100_000, "no contents"
    blocks = {at // 4096 for one in far.told for at in range(one.offset, one.offset + one.length, 4096)}
    for offset, _ in far.reads[-FILES:]:  # the directories come last
        assert offset // 4096 in blocks


def test_damage_is_not_announced_but_told_by_who_reads(content: bytes) -> None:
    damaged = bytearray(content)
    damaged[4096 : 4096 + 64] = b"\xff" * 64  # the first group's descriptor
    assert index(Far(bytes(damaged))) == index(MemorySource(bytes(damaged)))


def test_who_is_far(content: bytes) -> None:
    far, near = Far(content), MemorySource(content)
    blocks = Blocks(1 << 20)
    for source, expected in ((far, True), (near, False)):
        assert is_far(source) is expected
        assert is_far(Slice(blocks.watch(source), 0, 100)) is expected
        prefetch(Slice(blocks.watch(source), 10, 100), [Extent(5, 1000), Extent(200, 5), Extent(-1, 5)])
    assert far.told == [Extent(15, 95)]
