"""What volumes and snapshots hold: shared, freed, and never mixed up."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.aws.content import BLOCK, BlockStore, Content, restore, take

SIZE = 64 * BLOCK


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    store = BlockStore(tmp_path / "blocks")
    yield store
    store.close()


@pytest.fixture
def volume(tmp_path: Path) -> Content:
    path = tmp_path / "volume"
    with path.open("wb") as out:
        out.truncate(SIZE)
    return Content(path, SIZE, "lineage")


def test_snapshots_keep_what_was_there(store: BlockStore, volume: Content, tmp_path: Path) -> None:
    """Random writes between snapshots: each one restores to what the volume held at its time."""
    luck = random.Random(4)
    kept = []
    for _ in range(6):
        for _ in range(5):
            length = luck.choice([1, 4096, BLOCK + 5])
            volume.write(luck.randrange(SIZE - length), luck.randbytes(length))
        volume.discard(luck.randrange(64) * BLOCK, BLOCK)
        kept.append((take(volume, store), volume.path.read_bytes()))
    for number, (blocks, expected) in enumerate(kept):
        assert list(blocks.indexes) == sorted(set(blocks.indexes))
        restore(blocks, store, tmp_path / f"restored-{number}", SIZE)
        assert (tmp_path / f"restored-{number}").read_bytes() == expected
    for blocks, _ in kept:
        store.release(blocks.slots)
    assert len(store) == 0
    assert (tmp_path / "blocks").stat().st_blocks == 0


def test_only_what_was_written_is_in_a_snapshot(store: BlockStore, volume: Content) -> None:
    assert not len(take(volume, store))
    volume.write(7 * BLOCK, bytes(4096))  # zeros that were written are there
    volume.write(9 * BLOCK - 1, b"xy")
    taken = take(volume, store)
    assert list(taken.indexes) == [7, 8, 9]
    assert taken.slot(6) is None
    assert store.read(taken.slot(9) or 0)[:2] == b"y\0"


def test_freed_slots_are_used_again(store: BlockStore) -> None:
    first, second = store.put(b"a" * BLOCK), store.put(b"b" * BLOCK)
    store.release([first])
    assert store.put(b"c" * BLOCK) == first
    assert store.read(first) == b"c" * BLOCK
    assert store.read(second) == b"b" * BLOCK


@pytest.mark.parametrize(
    ("offset", "length"),
    [pytest.param(-1, 1, id="before"), pytest.param(SIZE, 1, id="behind"), pytest.param(SIZE - 1, 2, id="across")],
)
def test_nothing_is_written_outside(offset: int, length: int, volume: Content) -> None:
    with pytest.raises(ValueError, match="outside"):
        volume.write(offset, bytes(length))
    assert volume.read(SIZE - 1, 5) == b"\0"
    assert volume.read(SIZE + 5, 5) == b""


def test_a_block_has_its_size(store: BlockStore) -> None:
    with pytest.raises(ValueError, match="524288"):
        store.put(b"short")
