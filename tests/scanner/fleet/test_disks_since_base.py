"""Whatever became of a machine's disks, manifest or list of changes since the base: what a full scan finds is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.blocks import Extent
from core.errors import Gone
from core.estate import Place, Snapshot, SnapshotState
from demo.disk import build_clean, file
from scanner.fleet import look
from scanner.fleet.bases import Base
from scanner.fleet.context import Context
from scanner.fleet.objects import Objects
from scanner.fleet.sealing import Keys
from scanner.machine import ScanOptions
from scanner.report import Report

pytestmark = pytest.mark.slow
HERE = Place("aws", "111122223333", "eu-central-1")
BLOCK = 512 << 10
# Of the same length: changed in place, and no metadata tells.
SHELL = b"<?php if (isset($_GET['c'])) { system($_GET['c']); } ?>\n"
HARMLESS = SHELL.replace(b"system(", b"strlen(")
Extents = list[tuple[int, int]]


class Bytes:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.size = len(raw)

    def read(self, offset: int, length: int) -> bytes:
        return self._raw[offset : offset + length]


@dataclass
class Cloud:
    """Disks by snapshot. `related`: whether disks of two names can be compared; `spoil` is what becomes of a list of changes."""

    disks: dict[str, bytes]
    related: bool = False
    spoil: Callable[[Extents], Extents] = lambda extents: extents
    opened: list[str] = field(default_factory=list)

    @contextmanager
    def open(self, snapshot: Snapshot, _: object) -> Iterator[Bytes]:
        self.opened.append(snapshot.id)
        yield Bytes(self.disks[snapshot.id])

    def changed(self, old: Snapshot, new: Snapshot) -> Iterator[Extent] | None:
        if old.disk != new.disk and not self.related:
            return None
        before, after = self.disks[old.id], self.disks[new.id]
        most = max(len(before), len(after))
        found = [(at, BLOCK) for at in range(0, most, BLOCK) if before[at : at + BLOCK] != after[at : at + BLOCK]]
        return (Extent(*one) for one in self.spoil(found))


@dataclass
class Machines:
    """`bad` has a web shell where `good` has none; `data` is a disk of its own."""

    good: bytes
    bad: bytes
    data: bytes
    folder: Path
    objects: Objects

    def scan(self, cloud: Cloud, snapshots: Sequence[Snapshot], base: Base | None, manifest: Path) -> Report:
        context = cast(Context, SimpleNamespace(objects=self.objects, ledger=None))
        options = ScanOptions(jobs=1, manifest=manifest, timeout_seconds=60)
        (self.folder / "work").mkdir(exist_ok=True)
        return look._scan_snapshots(context, cloud, snapshots, options, base, self.folder / "work", lambda: None)

    def based(self, cloud: Cloud, name: str, *snapshots: Snapshot) -> Base:
        """A scan, of which the manifest is kept."""
        manifest = self.folder / name
        self.scan(cloud, snapshots, None, manifest)
        self.objects.put(f"{name}.manifest", manifest)
        return Base(name, "m", f"{name}.manifest", tuple(snapshots))


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Machines:
    folder = tmp_path_factory.mktemp("machines")
    disks = {}
    for name, content in (("good", HARMLESS), ("bad", SHELL), ("data", HARMLESS[::-1])):
        build_clean(folder / name, changes=[file(b"/srv/page.php", content)])
        disks[name] = (folder / name).read_bytes()
    assert len({len(raw) for raw in disks.values()}) == 1
    objects = Objects(folder / "objects", Keys.kept_in(folder / "keys"), scratch=folder / "scratch")
    return Machines(disks["good"], disks["bad"], disks["data"], folder, objects)


def of(name: str, disk: str, raw: bytes) -> Snapshot:
    return Snapshot(HERE, name, disk, "i-1", size_bytes=len(raw), state=SnapshotState.READY)


def found(report: Report) -> set[tuple[str, bytes, int]]:
    return {(one.rule.id, one.where.path, one.where.volume) for one in report.findings}


def compared(machines: Machines, cloud: Cloud, now: Sequence[Snapshot], base: Base) -> Report:
    """The report of the scan from the base, once it has found what a full one finds."""
    full = machines.scan(cloud, now, None, machines.folder / "full")
    later = machines.scan(cloud, now, base, machines.folder / "later")
    assert found(later) == found(full)
    assert {(one.where, one.reason) for one in full.gaps} <= {(one.where, one.reason) for one in later.gaps}
    return later


def test_what_was_changed_in_place_is_found(machines: Machines) -> None:
    """That the disks differ as they are to, and that the base is used at all."""
    cloud = Cloud({"a1": machines.good, "a2": machines.bad})
    base = machines.based(cloud, "plain", of("a1", "a", machines.good))
    before = machines.scan(cloud, [of("a1", "a", machines.good)], None, machines.folder / "before")
    later = compared(machines, cloud, [of("a2", "a", machines.bad)], base)
    assert len(later.findings) > len(before.findings)
    assert later.coverage.mode == "incremental"


@pytest.mark.parametrize("related", [False, True], ids=["of no lineage", "of one lineage"])
@pytest.mark.parametrize(
    ("disks", "mode"),
    [
        pytest.param("ab", "incremental", id="as they were"),
        pytest.param("ba", "full", id="turned"),
        pytest.param("a", "full", id="one detached"),
        pytest.param("b", "full", id="the other detached"),
        pytest.param("abc", "full", id="one attached"),
        pytest.param("cb", "", id="the first replaced"),
        pytest.param("ac", "", id="the second replaced"),
        pytest.param("bc", "", id="one detached and one attached"),
        pytest.param("ca", "", id="all in other places"),
    ],
)
def test_disks_that_came_and_went(machines: Machines, disks: str, mode: str, related: bool) -> None:
    then = {"a": machines.good, "b": machines.data}
    now = {"a": machines.bad, "b": machines.data, "c": machines.bad}
    kept = {f"{name}1": raw for name, raw in then.items()} | {f"{name}2": raw for name, raw in now.items()}
    cloud = Cloud(kept, related=related)
    base = machines.based(cloud, "both", *(of(f"{name}1", name, raw) for name, raw in then.items()))
    report = compared(machines, cloud, [of(f"{name}2", name, now[name]) for name in disks], base)
    if mode:
        assert report.coverage.mode == mode, report.coverage


def test_a_disk_that_grew(machines: Machines) -> None:
    grown = machines.bad + bytes(64 * BLOCK)
    cloud = Cloud({"a1": machines.good, "a2": grown})
    base = machines.based(cloud, "small", of("a1", "a", machines.good))
    assert compared(machines, cloud, [of("a2", "a", grown)], base).coverage.mode == "full"


@pytest.mark.parametrize(
    ("spoil", "mode"),
    [
        pytest.param(lambda some: some[::-1], "incremental", id="out of order"),
        pytest.param(lambda some: [*some, *some], "incremental", id="twice"),
        pytest.param(lambda some: [(max(0, at - 7), length + 99) for at, length in some], "incremental", id="overlapping"),
        pytest.param(lambda some: [*some, (1 << 50, BLOCK)], "full", id="beyond the end"),
        pytest.param(lambda some: [*some, (0, 1 << 60)], "full", id="longer than the disk"),
        pytest.param(lambda some: [(0, 0)] * 1000 + some, "incremental", id="of nothing"),
    ],
)  # fmt: skip
def test_lists_of_changes_of_an_odd_form(machines: Machines, spoil: Callable[[Extents], Extents], mode: str) -> None:
    cloud = Cloud({"a1": machines.good, "a2": machines.bad}, spoil=spoil)
    base = machines.based(cloud, "odd", of("a1", "a", machines.good))
    assert compared(machines, cloud, [of("a2", "a", machines.bad)], base).coverage.mode == mode


def test_the_end_of_a_list_of_changes_cannot_be_had(machines: Machines) -> None:
    def spoil(some: Extents) -> Any:
        yield from some[:1]
        raise Gone("the base's snapshot was deleted meanwhile")

    cloud = Cloud({"a1": machines.good, "a2": machines.bad}, spoil=spoil)
    base = machines.based(cloud, "cut", of("a1", "a", machines.good))
    report = compared(machines, cloud, [of("a2", "a", machines.bad)], base)
    assert (report.coverage.mode, report.coverage.base_refused) == ("full", "the base's snapshot was deleted meanwhile")


@pytest.mark.parametrize(
    "how", ["of a clone", "of the other disk", "of an older base", "of a later scan", "cut", "empty"]
)
def test_a_manifest_that_is_not_of_the_base(machines: Machines, how: str) -> None:
    """Sealed with our key under the name that is asked for: by a fault of ours, or by who has the key."""
    cloud = Cloud(
        {"a1": machines.good, "x1": machines.bad, "b1": machines.data, "a0": machines.bad, "a2": machines.bad}
    )
    base = machines.based(cloud, "right", of("a1", "a", machines.good))
    wrong = {"of a clone": "x1", "of the other disk": "b1", "of an older base": "a0", "of a later scan": "a2"}.get(how)
    if wrong:
        machines.based(cloud, "right", of(wrong, wrong[0], cloud.disks[wrong]))
    else:
        raw = (machines.folder / "right").read_bytes()
        (machines.folder / "cut").write_bytes(raw[: len(raw) // 2] if how == "cut" else b"")
        machines.objects.put("right.manifest", machines.folder / "cut")
    report = compared(machines, cloud, [of("a2", "a", machines.bad)], base)
    assert report.coverage.mode == "full"
    assert report.coverage.base_refused


def test_a_disk_without_a_size(machines: Machines) -> None:
    """The cloud did not tell it: lists of changes have no end then."""
    cloud = Cloud({"a1": machines.good, "a2": machines.bad})
    base = machines.based(cloud, "sizeless", of("a1", "a", machines.good))
    compared(machines, cloud, [replace(of("a2", "a", machines.bad), size_bytes=0)], base)
