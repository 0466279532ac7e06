from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.store import BLOCK_BYTES, BlockStore, Key, Place
from core.errors import Unreadable


def block(number: int) -> bytes:
    return number.to_bytes(8, "little") * (BLOCK_BYTES // 8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "pin", "unpin", "touch", "read"]), st.integers(0, 15)), max_size=60))
def test_it_holds_what_was_put_or_says_that_it_does_not(steps: list[tuple[str, int]]) -> None:
    with BlockStore(8 * BLOCK_BYTES) as store:
        disk = store.disk()
        places: dict[int, Place] = {}
        pins: dict[int, int] = {}
        for what, number in steps:
            key = Key(disk, number)
            if what == "put" and len([one for one in pins.values() if one]) < 7:
                places[number] = store.put(key, block(number))
                pins[number] = pins.get(number, 0) + 1
            elif what == "pin" and (found := store.pin(key)) is not None:
                assert found == places[number]
                pins[number] = pins.get(number, 0) + 1
            elif what == "unpin":
                store.unpin(key)
                pins[number] = max(0, pins.get(number, 0) - 1)
            elif what == "touch":
                store.touch(key)
            elif number in places:
                data = store.copy(places[number], 16, 64)
                assert data in {None, block(number)[16:80]}
            for held, count in pins.items():
                if count:
                    assert store.copy(places[held], 0, 8) == block(held)[:8]


def test_the_least_recently_used_makes_room() -> None:
    with BlockStore(8 * BLOCK_BYTES) as store:
        disk = store.disk()
        for number in range(8):
            store.put(Key(disk, number), block(number))
            store.unpin(Key(disk, number))
        assert store.touch(Key(disk, 0))
        store.put(Key(disk, 8), block(8))
        assert store.pin(Key(disk, 1)) is None
        assert store.pin(Key(disk, 0)) is not None


def test_who_shares_it_cannot_write() -> None:
    with BlockStore(8 * BLOCK_BYTES) as store:
        for fd in (store.data_fd, store.table_fd):
            with pytest.raises(OSError):
                os.pwrite(fd, b"x", 0)
            with pytest.raises(PermissionError):
                mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            with pytest.raises(OSError):
                os.ftruncate(fd, 0)
            assert os.fstat(fd).st_mode & 0o777 == 0


def test_a_full_store_waits_for_room() -> None:
    with BlockStore(8 * BLOCK_BYTES) as store:
        disk = store.disk()
        for number in range(8):
            store.put(Key(disk, number), block(number))
        done = threading.Event()

        def late() -> None:
            store.put(Key(disk, 8), block(8))
            done.set()

        thread = threading.Thread(target=late)
        thread.start()
        assert not done.wait(0.05)
        store.unpin(Key(disk, 3))
        assert done.wait(10)
        thread.join()


def test_closing_ends_those_who_wait() -> None:
    store = BlockStore(8 * BLOCK_BYTES)
    disk = store.disk()
    place = store.put(Key(disk, 0), block(0))
    for number in range(1, 8):
        store.put(Key(disk, number), block(number))
    failed: list[Exception] = []

    def late() -> None:
        try:
            store.put(Key(disk, 8), block(8))
        except Unreadable as error:
            failed.append(error)

    thread = threading.Thread(target=late)
    thread.start()
    time.sleep(0.02)
    store.close()
    thread.join(10)
    assert failed
    store.close()
    with pytest.raises(Unreadable):
        store.copy(place, 0, 1)


def test_forgetting_a_disk_leaves_the_others() -> None:
    with BlockStore(8 * BLOCK_BYTES) as store:
        one, two = store.disk(), store.disk()
        for disk in (one, two):
            store.put(Key(disk, 1), block(disk))
            store.unpin(Key(disk, 1))
        store.forget(one)
        assert store.pin(Key(one, 1)) is None
        assert store.pin(Key(two, 1)) is not None
        with pytest.raises(ValueError):
            store.put(Key(two, 2), bytes(BLOCK_BYTES + 1))


_READER = """
import mmap, os, sys
data, table, slots, seconds = (int(one) for one in sys.argv[1:])
numbers = memoryview(mmap.mmap(table, slots * 8, prot=mmap.PROT_READ)).cast("Q")
import random, time
end = time.monotonic() + seconds
right = torn = 0
while time.monotonic() < end:
    slot = random.randrange(slots)
    before = numbers[slot]
    if not before:
        continue
    copy = os.pread(data, 1 << 19, slot << 19)
    if numbers[slot] == before:
        # what is in a slot is its generation, over and over
        assert copy == before.to_bytes(8, "little") * (1 << 16), "another block's bytes"
        right += 1
    else:
        torn += copy != before.to_bytes(8, "little") * (1 << 16)
print(right, torn)
"""


def test_a_reader_never_takes_one_block_for_another() -> None:
    """Another process copies out of a tiny store, from any slot, while all slots are written again and again."""
    with BlockStore(8 * BLOCK_BYTES) as store:
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", _READER, *(str(one) for one in (store.data_fd, store.table_fd, store.slots, 2))],
                pass_fds=[store.data_fd, store.table_fd],
                stdout=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        disk = store.disk()
        chosen = random.Random(1)
        number = 0
        while any(one.poll() is None for one in readers):
            number += 1  # one writer: the generation that `put` will give is known beforehand
            place = store.put(Key(disk, number), block(number))
            assert place.generation == number
            store.unpin(Key(disk, number))
            if chosen.random() < 0.05:
                time.sleep(0.001)
        for one in readers:
            said, _ = one.communicate(timeout=30)
            assert one.returncode == 0
            right, _torn = (int(word) for word in said.split())
            assert right > 10
