"""What every connector must do. A connector's test gives a `Rig` as the fixture `rig` and subclasses `ConnectorContract`."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

import pytest

from cloud import Connector
from core.blocks import BlockSource, Extent
from core.errors import AccessDenied, CloudError, Error, Gone, Throttled
from core.estate import Disk, Instance, InstanceState, Resource, Snapshot, SnapshotState
from tests.cloud.ledger import MemoryLedger

MIB = 1 << 20
GIB = 1 << 30
WAIT_SECONDS = 30.0


class Need(Enum):
    """What a connector must be allowed to do."""

    LIST = "list instances"
    SNAPSHOT = "make snapshots"
    REFRESH = "look at a snapshot"
    READ = "read blocks"
    CHANGED = "compare snapshots"
    DELETE = "delete snapshots"


class Rig(Protocol):
    """A connector, and the other side of it. `granularity_bytes`: what `changed` rounds to. All faults end with the test."""

    connector: Connector
    granularity_bytes: int

    def machine(self, *sizes_bytes: int) -> Instance:
        """A running instance with disks of these sizes, the first one the boot disk. Multiples of a GiB."""
        ...

    def write(self, disk: Disk, offset: int, data: bytes) -> None: ...
    def terminate(self, instance: Instance) -> None: ...
    def foreign(self) -> Resource:
        """A snapshot that somebody else made, under the name that it would have as one of ours."""
        ...

    def vanish(self, snapshot: Snapshot) -> None:
        """Somebody else deletes it."""
        ...

    def deny(self, need: Need) -> str:
        """Take a permission away; its name."""
        ...

    def throttle(self, need: Need, *, times: int | None = None) -> None:
        """The next `times` calls are refused as too many; None: all."""
        ...

    def calm(self) -> None:
        """Take back what was denied and throttled."""
        ...

    def lose_next_answer(self) -> None:
        """The next snapshots are made, but the connector never learns."""
        ...

    def list_late(self) -> None:
        """What is made from now on is listed a little later."""
        ...

    def fail_next_snapshot(self, words: str) -> None: ...
    def stall_next_snapshot(self) -> None: ...
    def expire(self) -> None:
        """Whatever was lent for reading (tokens, links) expires now."""
        ...

    def differs(self) -> bool:
        """Whether this platform can tell what changed."""
        ...


def snapshots(rig: Rig, disks: Sequence[Disk], token: str) -> list[Snapshot]:
    """Made and ready."""
    return [ready(rig, one) for one in rig.connector.snapshot(disks, token=token)]


def ready(rig: Rig, snapshot: Snapshot) -> Snapshot:
    deadline = time.monotonic() + WAIT_SECONDS
    while snapshot.state is SnapshotState.PENDING:
        assert time.monotonic() < deadline, f"{snapshot} stays pending"
        snapshot = rig.connector.refresh(snapshot)
    return snapshot


def opened(rig: Rig, snapshot: Snapshot) -> AbstractContextManager[BlockSource]:
    return rig.connector.open(snapshot, MemoryLedger())


class ConnectorContract:
    """Every test gets a rig of its own."""

    # what exists

    def test_an_instance_and_its_disks(self, rig: Rig) -> None:
        made = rig.machine(GIB, 3 * GIB)
        (found,) = rig.connector.instances()
        assert found.id == made.id
        assert found.state is InstanceState.RUNNING
        assert found.place.cloud == rig.connector.name
        assert [(disk.size_bytes, disk.boot, disk.obstacle) for disk in found.disks] == [
            (GIB, True, ""),
            (3 * GIB, False, ""),
        ]
        assert {disk.instance for disk in found.disks} == {found.id}
        assert {disk.place for disk in found.disks} == {found.place}

    def test_no_instance(self, rig: Rig) -> None:
        assert list(rig.connector.instances()) == []

    # snapshots

    def test_found_again_by_token(self, rig: Rig) -> None:
        disks = rig.machine(GIB, 2 * GIB).disks
        first = rig.connector.snapshot(disks, token="scan-1")
        again = rig.connector.snapshot(disks, token="scan-1")
        other = rig.connector.snapshot(disks, token="scan-2")
        assert [one.disk for one in first] == [disk.id for disk in disks]
        assert [one.size_bytes for one in first] == [GIB, 2 * GIB]
        assert {one.token for one in first} == {"scan-1"}
        assert [one.id for one in again] == [one.id for one in first]
        assert {one.id for one in other}.isdisjoint({one.id for one in first})

    def test_lost_answer_makes_no_second_set(self, rig: Rig) -> None:
        disks = rig.machine(GIB, GIB).disks
        rig.lose_next_answer()
        made: Sequence[Snapshot] = ()
        for _ in range(3):
            try:
                made = rig.connector.snapshot(disks, token="t")
            except CloudError:
                continue
            break
        assert {one.id for one in made} == {one.id for one in rig.connector.owned()}
        assert len(made) == 2

    def test_listed_late(self, rig: Rig) -> None:
        disks = rig.machine(GIB).disks
        rig.list_late()
        (first,) = rig.connector.snapshot(disks, token="t")
        (again,) = rig.connector.snapshot(disks, token="t")
        assert again.id == first.id
        assert ready(rig, first).state is SnapshotState.READY

    def test_order_is_that_of_the_question(self, rig: Rig) -> None:
        boot, data = rig.machine(GIB, GIB).disks
        assert [one.disk for one in rig.connector.snapshot([data, boot], token="t")] == [data.id, boot.id]
        assert [one.disk for one in rig.connector.snapshot([data], token="u")] == [data.id]

    def test_a_disk_with_an_obstacle_has_a_failed_one(self, rig: Rig) -> None:
        from dataclasses import replace

        boot, data = rig.machine(GIB, GIB).disks
        made, failed = rig.connector.snapshot([boot, replace(data, obstacle="it is a scratch disk")], token="t")
        assert ready(rig, made).state is SnapshotState.READY
        assert (failed.id, failed.state, failed.detail) == ("", SnapshotState.FAILED, "it is a scratch disk")
        assert rig.connector.refresh(failed) == failed

    def test_terminated_between_listing_and_snapshot(self, rig: Rig) -> None:
        machine, other = rig.machine(GIB), rig.machine(GIB)
        rig.terminate(machine)
        with pytest.raises(Gone):
            rig.connector.snapshot(machine.disks, token="t")
        assert rig.connector.snapshot(other.disks, token="t2")[0].id

    def test_one_that_fails_says_why(self, rig: Rig) -> None:
        disks = rig.machine(GIB).disks
        rig.fail_next_snapshot("the key is not accessible")
        (failed,) = snapshots(rig, disks, "t")
        assert failed.state is SnapshotState.FAILED
        assert "the key is not accessible" in failed.detail
        with pytest.raises(CloudError, match="key is not accessible"), opened(rig, failed):
            pass

    def test_one_that_stays_pending_holds_nobody_up(self, rig: Rig) -> None:
        disks = rig.machine(GIB).disks
        rig.stall_next_snapshot()
        (pending,) = rig.connector.snapshot(disks, token="t")
        assert rig.connector.refresh(pending).state is SnapshotState.PENDING
        with pytest.raises(CloudError), opened(rig, pending):
            pass
        (resource,) = rig.connector.owned()
        rig.connector.delete(resource)

    def test_deletion_twice(self, rig: Rig) -> None:
        made = snapshots(rig, rig.machine(GIB, GIB).disks, "t")
        owned = list(rig.connector.owned())
        for resource in owned * 2:
            rig.connector.delete(resource)
        assert [rig.connector.refresh(one).state for one in made] == [SnapshotState.GONE] * 2
        assert list(rig.connector.owned()) == []

    def test_owned_finds_all(self, rig: Rig) -> None:
        machines = [rig.machine(GIB, GIB), rig.machine(GIB)]
        made = [
            one for at, machine in enumerate(machines) for one in rig.connector.snapshot(machine.disks, token=f"t{at}")
        ]
        rig.foreign()
        owned = {one.id: one for one in rig.connector.owned()}
        assert set(owned) == {one.id for one in made}
        assert {(owned[one.id].token, owned[one.id].of) for one in made} == {(one.token, one.disk) for one in made}
        assert all(one.expires > datetime.now(UTC) for one in owned.values())
        assert len({one.installation for one in owned.values()}) == 1

    def test_what_is_not_ours_stays(self, rig: Rig) -> None:
        foreign = rig.foreign()
        with pytest.raises(CloudError, match="tag"):
            rig.connector.delete(foreign)
        assert foreign.id not in {one.id for one in rig.connector.owned()}

    def test_an_intention_is_deleted_by_token(self, rig: Rig) -> None:
        from dataclasses import replace

        rig.connector.snapshot(rig.machine(GIB).disks, token="t")
        (resource,) = rig.connector.owned()
        rig.connector.delete(replace(resource, id=""))
        assert list(rig.connector.owned()) == []
        rig.connector.delete(replace(resource, id=""))

    def test_vanished(self, rig: Rig) -> None:
        gone, other = snapshots(rig, rig.machine(GIB, GIB).disks, "t")
        rig.vanish(gone)
        found = rig.connector.refresh(gone)
        assert found.state is SnapshotState.GONE
        for one in (gone, found):
            with pytest.raises(Gone), opened(rig, one) as source:
                source.read(0, 512)
        with opened(rig, other) as source:
            assert source.read(0, 4) == bytes(4)

    # bytes

    def test_reading(self, rig: Rig) -> None:
        (disk,) = rig.machine(GIB).disks
        model = _Model(GIB)
        luck = random.Random(4)
        for offset, length in [(0, 512), (MIB - 7, 100), (700_000, 700_000), (GIB - 3, 3), (333 * MIB + 1, 2 * MIB)]:
            data = luck.randbytes(length)
            rig.write(disk, offset, data)
            model.write(offset, data)
        (snapshot,) = snapshots(rig, [disk], "t")
        rig.write(disk, 0, b"later")
        with opened(rig, snapshot) as source:
            assert source.size == GIB
            for offset, length in [
                (0, 512),
                (0, 0),
                (MIB - 100, 300),
                (512 * 1024 - 1, 2),
                (600_000, 900_000),
                (333 * MIB, 3 * MIB),
                (900 * MIB, 4096),  # never written
                (GIB - 10, 10),
                (GIB - 10, 4096),  # past the end: short
                (GIB, 1),
                (GIB + 5 * MIB, 512),
            ]:
                assert bytes(source.read(offset, length)) == model.read(offset, length), (offset, length)
            for offset, length in [(-1, 5), (0, -1)]:
                with pytest.raises(ValueError, match="negative"):
                    source.read(offset, length)

    def test_unwritten_disk_is_zero(self, rig: Rig) -> None:
        (snapshot,) = snapshots(rig, rig.machine(GIB).disks, "t")
        with opened(rig, snapshot) as source:
            assert not any(source.read(0, MIB))
            assert not any(source.read(GIB - MIB, 2 * MIB))

    def test_many_threads(self, rig: Rig) -> None:
        (disk,) = rig.machine(GIB).disks
        data = random.Random(7).randbytes(4 * MIB)
        rig.write(disk, 10 * MIB, data)
        (snapshot,) = snapshots(rig, [disk], "t")
        spots = [random.Random(at).randrange(4 * MIB - 5000) for at in range(64)]
        with opened(rig, snapshot) as source, ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda at: bytes(source.read(10 * MIB + at, 5000)), spots)
            assert list(found) == [data[at : at + 5000] for at in spots]

    def test_expiry_in_the_middle_of_a_read(self, rig: Rig) -> None:
        (disk,) = rig.machine(GIB).disks
        rig.write(disk, 0, b"first")
        rig.write(disk, 500 * MIB, b"second")
        (snapshot,) = snapshots(rig, [disk], "t")
        with opened(rig, snapshot) as source:
            assert source.read(0, 5) == b"first"
            rig.expire()
            assert source.read(500 * MIB, 6) == b"second"

    def test_throttled_for_a_moment(self, rig: Rig) -> None:
        (disk,) = rig.machine(GIB).disks
        rig.write(disk, 5 * MIB, b"found")
        (snapshot,) = snapshots(rig, [disk], "t")
        rig.throttle(Need.READ, times=3)
        with opened(rig, snapshot) as source:
            assert source.read(5 * MIB, 5) == b"found"

    def test_closing_ends_the_threads(self, rig: Rig) -> None:
        (disk,) = rig.machine(GIB).disks
        for at in range(0, 64 * MIB, MIB):
            rig.write(disk, at, b"x")
        (snapshot,) = snapshots(rig, [disk], "t")
        before = set(threading.enumerate())
        outcome: list[Any] = []

        def read() -> None:
            try:
                outcome.append(len(source.read(0, 64 * MIB)))
            except Error as error:
                outcome.append(error)

        with opened(rig, snapshot) as source:
            source.read(0, 512)
            rig.throttle(Need.READ)  # so that the reader is still at it when we leave
            reader = threading.Thread(target=read)
            reader.start()
        reader.join(WAIT_SECONDS)
        assert not reader.is_alive()
        deadline = time.monotonic() + WAIT_SECONDS
        while left := [one for one in threading.enumerate() if one not in before and not _server(one)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.01)
        assert isinstance(outcome[0], Error)
        with pytest.raises(Error):
            source.read(32 * MIB, 512)

    def test_the_ledger_is_empty_again(self, rig: Rig) -> None:
        (snapshot,) = snapshots(rig, rig.machine(GIB).disks, "t")
        ledger = MemoryLedger()
        with rig.connector.open(snapshot, ledger) as source:
            source.read(0, 1)
        assert not ledger.existing
        assert ledger.words.count("intend") == ledger.words.count("made") == ledger.words.count("gone")

    # changes

    @pytest.mark.parametrize("seed", range(4))
    def test_changed_is_the_true_difference(self, rig: Rig, seed: int) -> None:
        if not rig.differs():
            pytest.skip("this platform cannot tell what changed")
        luck = random.Random(seed)
        (disk,) = rig.machine(GIB).disks
        for _ in range(20):
            rig.write(disk, luck.randrange(GIB - MIB), luck.randbytes(luck.randrange(1, MIB)))
        (old,) = snapshots(rig, [disk], "old")
        touched: set[int] = set()
        for _ in range(luck.randrange(1, 30)):
            offset, length = luck.randrange(GIB - MIB), luck.choice([1, 100, 5000, 600_000])
            rig.write(disk, offset, luck.randbytes(length))
            touched |= set(range(offset // rig.granularity_bytes, (offset + length - 1) // rig.granularity_bytes + 1))
        (new,) = snapshots(rig, [disk], "new")
        with opened(rig, old) as before, opened(rig, new) as after:
            differ = {at for at in touched if _granule(rig, before, at) != _granule(rig, after, at)}
        found = rig.connector.changed(old, new)
        assert found is not None
        assert _granules(rig, list(found)) == differ

    def test_nothing_changed(self, rig: Rig) -> None:
        if not rig.differs():
            pytest.skip("this platform cannot tell what changed")
        (disk,) = rig.machine(GIB).disks
        rig.write(disk, 0, b"same")
        (old,) = snapshots(rig, [disk], "old")
        (new,) = snapshots(rig, [disk], "new")
        found = rig.connector.changed(old, new)
        assert found is not None
        assert list(found) == []

    def test_unrelated_disks_cannot_be_compared(self, rig: Rig) -> None:
        one, other = snapshots(rig, rig.machine(GIB, GIB).disks, "t")
        assert rig.connector.changed(one, other) is None

    # refusals

    @pytest.mark.parametrize("need", list(Need))
    def test_permission_denied_by_name(self, rig: Rig, need: Need) -> None:
        if need is Need.CHANGED and not rig.differs():
            pytest.skip("this platform cannot tell what changed")
        (disk,) = rig.machine(GIB).disks
        rig.write(disk, 0, b"x")
        (snapshot,) = snapshots(rig, [disk], "t")
        (resource,) = rig.connector.owned()
        permission = rig.deny(need)
        with pytest.raises(AccessDenied) as caught:
            _use(rig, need, disk, snapshot, resource)
        assert caught.value.permission == permission
        assert permission in str(caught.value)
        rig.calm()
        _use(rig, need, disk, snapshot, resource)

    @pytest.mark.parametrize("need", [Need.LIST, Need.SNAPSHOT, Need.REFRESH, Need.DELETE])
    def test_throttled(self, rig: Rig, need: Need) -> None:
        (disk,) = rig.machine(GIB).disks
        (snapshot,) = snapshots(rig, [disk], "t")
        (resource,) = rig.connector.owned()
        rig.throttle(need)
        with pytest.raises(Throttled) as caught:
            _use(rig, need, disk, snapshot, resource)
        assert 0 < caught.value.after < 3600
        rig.calm()
        _use(rig, need, disk, snapshot, resource)


def _use(rig: Rig, need: Need, disk: Disk, snapshot: Snapshot, resource: Resource) -> None:
    if need is Need.LIST:
        list(rig.connector.instances())
    elif need is Need.SNAPSHOT:
        rig.connector.snapshot([disk], token="another")
    elif need is Need.REFRESH:
        rig.connector.refresh(snapshot)
    elif need is Need.READ:
        with opened(rig, snapshot) as source:
            assert source.read(0, 1) == b"x"
    elif need is Need.CHANGED:
        list(rig.connector.changed(snapshot, snapshot) or ())
    else:
        rig.connector.delete(resource)


def _granule(rig: Rig, source: BlockSource, at: int) -> bytes:
    return bytes(source.read(at * rig.granularity_bytes, rig.granularity_bytes))


def _granules(rig: Rig, extents: Sequence[Extent]) -> set[int]:
    """What extents cover; they are in order and do not overlap."""
    found: set[int] = set()
    end = 0
    for one in extents:
        assert one.offset >= end
        assert one.length > 0
        assert one.offset % rig.granularity_bytes == 0
        end = one.offset + one.length
        assert end <= GIB
        found |= set(range(one.offset // rig.granularity_bytes, -(-end // rig.granularity_bytes)))
    return found


def _server(thread: threading.Thread) -> bool:
    """A thread of the emulated cloud, not of the connector."""
    return "process_request_thread" in thread.name or "emulated" in thread.name


class _Model:
    """A disk as a list of what was written."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._writes: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        self._writes.append((offset, data))

    def read(self, offset: int, length: int) -> bytes:
        end = max(offset, min(offset + length, self._size))
        found = bytearray(end - offset)
        for at, data in self._writes:
            first, last = max(at, offset), min(at + len(data), end)
            if first < last:
                found[first - offset : last - offset] = data[first - at : last - at]
        return bytes(found)
