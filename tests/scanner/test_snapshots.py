"""From snapshot to report and away again, over a cloud of files that lies, forgets and comes late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud import Ledger
from core.blocks import BlockSource, Extent
from core.errors import CloudError, ConfigError, Gone, Unsupported
from core.estate import Disk, Instance, Place, Resource, Snapshot, SnapshotState
from scanner.changes import differences
from scanner.images import FileSource
from scanner.ledger import FileLedger, sweep
from scanner.machine import ScanOptions
from scanner.report import Report
from scanner.snapshots import SnapshotOptions, scan_instance, scan_snapshots
from tests.scanner.sandboxed import MIB, file, write_ext4

HERE = Place("aws", "111122223333", "eu-central-1")
FAR = datetime(2100, 1, 1, tzinfo=UTC)
SCAN = ScanOptions(jobs=1, file_timeout_seconds=20)
SHELL = b"<?php @eval($_POST['x']); ?>"
PAGE = b"<?php echo htmlentities(1); ?>"
SIZE = 16 * MIB


@dataclass
class Cloud:
    """A connector over files. `snapshots` are those there, by id: (what, its file)."""

    folder: Path
    snapshots: dict[str, tuple[Snapshot, Path]] = field(default_factory=dict)
    volumes: dict[str, Path] = field(default_factory=dict)
    lost_answers: int = 0
    late: set[str] = field(default_factory=set)  # disks whose snapshots are not listed yet
    opening: Callable[[Snapshot], None] = lambda _: None
    name: str = "aws"

    def take(self, id_: str, disk: str, content: bytes, token: str = "") -> Snapshot:
        path = write_ext4(self.folder / f"{id_}.img", [file(b"/index.php", content)], SIZE)
        made = Snapshot(HERE, id_, disk, "i-1", size_bytes=SIZE, state=SnapshotState.READY, token=token)
        self.snapshots[id_] = (made, path)
        return made

    def instances(self) -> Iterator[Instance]:
        return iter(())

    def snapshot(self, disks: Sequence[Disk], *, token: str) -> Sequence[Snapshot]:
        made = [self.take(f"snap-{len(self.snapshots)}", disk.id, PAGE, token) for disk in disks]
        if self.lost_answers:
            self.lost_answers -= 1
            raise CloudError("the answer was lost")
        return [
            Snapshot(HERE, "", disk.id, state=SnapshotState.FAILED, detail="not listed")
            if disk.id in self.late
            else one
            for disk, one in zip(disks, made, strict=True)
        ]

    def leftovers(self, used: Sequence[Snapshot]) -> Iterator[Resource]:
        keep, tokens = {one.id for one in used}, {one.token for one in used if one.token}
        yield from (one for one in self.owned() if one.token in tokens and one.id not in keep)

    def refresh(self, snapshot: Snapshot) -> Snapshot:
        return snapshot

    @contextmanager
    def open(self, snapshot: Snapshot, ledger: Ledger) -> Iterator[BlockSource]:
        if snapshot.state is not SnapshotState.READY:
            raise CloudError(f"{snapshot}: it is {snapshot.state.value}")
        self.opening(snapshot)
        with FileSource.open(self.snapshots[snapshot.id][1]) as source:
            yield source

    def changed(self, old: Snapshot, new: Snapshot) -> Iterator[Extent] | None:
        if new.state is not SnapshotState.READY:
            raise Gone(f"{new}: it is not there any more")
        with FileSource.open(self.snapshots[old.id][1]) as one, FileSource.open(self.snapshots[new.id][1]) as other:
            return iter([Extent(offset, length) for offset, length in differences(one, other)])

    def delete(self, resource: Resource) -> None:
        for one in list(self.owned()):
            if one.id == resource.id or (
                not resource.id and one.token == resource.token and resource.of in {"", one.of} - self.late
            ):
                del self.snapshots[one.id]

    def owned(self) -> Iterator[Resource]:
        for one, _ in list(self.snapshots.values()):
            if one.token and one.disk not in self.late:
                yield Resource(HERE, "snapshot", one.id, one.token, "acme", FAR, one.disk)


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[FileLedger]:
    with FileLedger(tmp_path / "data") as found:
        yield found


def machine(*disks: str) -> Instance:
    found = tuple(Disk(HERE, disk, "i-1", boot=not at, size_bytes=SIZE) for at, disk in enumerate(disks))
    return Instance(HERE, "i-1", disks=found)


def scanned(
    cloud: Cloud, ledger: FileLedger, *snapshots: Snapshot, since: Sequence[Snapshot] = (), **how: object
) -> Report:
    options = SnapshotOptions(replace(SCAN, **how), since=tuple(since))  # type: ignore[arg-type]
    return scan_snapshots(cloud, snapshots, options, ledger)


def found(report: Report) -> list[int]:
    return sorted({one.where.volume for one in report.findings})


# later scans


def test_a_base_is_used_with_the_snapshots_it_was_made_of(cloud: Cloud, ledger: FileLedger, tmp_path: Path) -> None:
    old, new = cloud.take("snap-1", "vol-1", PAGE), cloud.take("snap-2", "vol-1", SHELL)
    scanned(cloud, ledger, old, manifest=tmp_path / "base")
    report = scanned(cloud, ledger, new, since=[old], base=tmp_path / "base")
    assert (report.coverage.mode, len(report.findings)) == ("incremental", 1)


def test_since_a_later_snapshot_than_the_base(cloud: Cloud, ledger: FileLedger, tmp_path: Path) -> None:
    """What changed between the base and --since would never be looked at."""
    monday, tuesday = cloud.take("snap-1", "vol-1", PAGE), cloud.take("snap-2", "vol-1", SHELL)
    wednesday = cloud.take("snap-3", "vol-1", SHELL)
    scanned(cloud, ledger, monday, manifest=tmp_path / "base")
    with pytest.raises(ConfigError, match="snap-1"):
        scanned(cloud, ledger, wednesday, since=[tuesday], base=tmp_path / "base")
    report = scanned(cloud, ledger, wednesday, since=[tuesday], base=tmp_path / "base", full=True)
    assert (report.coverage.mode, len(report.findings)) == ("full", 1)


def test_disks_in_another_order_than_the_base_had(cloud: Cloud, ledger: FileLedger, tmp_path: Path) -> None:
    """Two disks of one image: only their order tells which is which."""
    boot, data = cloud.take("snap-1", "vol-1", PAGE), cloud.take("snap-2", "vol-2", SHELL)
    assert len(scanned(cloud, ledger, boot, data, manifest=tmp_path / "base").findings) == 1
    with pytest.raises(ConfigError, match="snap-1"):
        scanned(cloud, ledger, data, boot, since=[boot, data], base=tmp_path / "base")
    report = scanned(cloud, ledger, boot, data, since=[data, boot], base=tmp_path / "base")
    assert (report.coverage.mode, found(report)) == ("incremental", [1])


def test_a_snapshot_that_cannot_be_read_is_not_asked_for_changes(
    cloud: Cloud, ledger: FileLedger, tmp_path: Path
) -> None:
    one, two = cloud.take("snap-1", "vol-1", PAGE), cloud.take("snap-2", "vol-2", PAGE)
    scanned(cloud, ledger, one, two, manifest=tmp_path / "base")
    after = cloud.take("snap-3", "vol-1", SHELL)
    failed = replace(cloud.take("snap-4", "vol-2", PAGE), state=SnapshotState.FAILED)
    report = scanned(cloud, ledger, after, failed, since=[one, two], base=tmp_path / "base", full=True)
    assert report.findings
    assert any("it is failed" in gap.detail for gap in report.gaps)


def test_so_many_changes_that_they_are_not_listed(
    cloud: Cloud, ledger: FileLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays bounded; from some point on all counts as changed."""
    monkeypatch.setattr("scanner.snapshots.MOST_EXTENTS", 10)
    old, new = cloud.take("snap-1", "vol-1", PAGE), cloud.take("snap-2", "vol-1", SHELL)
    scanned(cloud, ledger, old, manifest=tmp_path / "base")
    asked: list[int] = []

    def changed(*_: Snapshot) -> Iterator[Extent]:
        for at in range(0, SIZE, 8192):
            asked.append(at)
            yield Extent(at, 4096)

    monkeypatch.setattr(cloud, "changed", changed)
    report = scanned(cloud, ledger, new, since=[old], base=tmp_path / "base")
    assert len(asked) <= 11
    assert len(report.findings) == 1


# what cannot be read


@pytest.mark.parametrize("error", [CloudError("no"), Unsupported("blocks of 1 MiB")])
def test_a_disk_that_cannot_be_opened_is_a_gap(cloud: Cloud, ledger: FileLedger, error: Exception) -> None:
    bad, good = cloud.take("snap-1", "vol-1", PAGE), cloud.take("snap-2", "vol-2", SHELL)

    def opening(snapshot: Snapshot) -> None:
        if snapshot.id == "snap-1":
            raise error

    cloud.opening = opening
    report = scanned(cloud, ledger, bad, good)
    assert (report.exit_code, len(report.findings)) == (1, 1)
    assert any(str(error) in gap.detail for gap in report.gaps)


# what is left behind


def test_nothing_is_left(cloud: Cloud, ledger: FileLedger) -> None:
    report, used = scan_instance(cloud, machine("vol-1", "vol-2"), SnapshotOptions(SCAN), ledger)
    assert (report.exit_code, len(used)) == (0, 2)
    assert (cloud.snapshots, ledger.entries()) == ({}, [])


def test_a_second_set_after_a_lost_answer(cloud: Cloud, ledger: FileLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is made again with the same token, and both sets are there in the end."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    cloud.lost_answers = 1
    scan_instance(cloud, machine("vol-1", "vol-2"), SnapshotOptions(SCAN), ledger)
    assert cloud.snapshots == {}
    cloud.lost_answers = 1
    _, used = scan_instance(cloud, machine("vol-1"), SnapshotOptions(SCAN, keep=True), ledger)
    assert list(cloud.snapshots) == [one.id for one in used]


def test_a_second_set_that_comes_to_light_later(
    cloud: Cloud, ledger: FileLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(cloud, "leftovers", lambda _: iter(()))
    cloud.lost_answers = 1
    scan_instance(cloud, machine("vol-1"), SnapshotOptions(SCAN), ledger)
    assert len(cloud.snapshots) == 1
    assert not any(error for _, error in sweep(ledger, cloud, HERE))
    assert cloud.snapshots == {}


def test_a_snapshot_that_is_listed_after_the_scan(cloud: Cloud, ledger: FileLedger) -> None:
    cloud.late = {"vol-2"}
    report, _ = scan_instance(cloud, machine("vol-1", "vol-2"), SnapshotOptions(SCAN), ledger)
    assert report.exit_code == 3
    assert len(cloud.snapshots) == 1
    cloud.late = set()
    assert not any(error for _, error in sweep(ledger, cloud, HERE))
    assert cloud.snapshots == {}


@pytest.mark.parametrize("keep", [False, True])
def test_a_ledger_that_is_full_at_the_end_costs_neither_the_report_nor_the_deletion(
    cloud: Cloud, ledger: FileLedger, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    def full(*_: object) -> None:
        raise ConfigError("the ledger cannot be written (database or disk is full)")

    monkeypatch.setattr(ledger, "gone", full)
    monkeypatch.setattr(ledger, "keep", full)
    said: list[str] = []
    report, _ = scan_instance(
        cloud, machine("vol-1", "vol-2"), SnapshotOptions(SCAN, keep=keep), ledger, warn=said.append
    )
    assert report.exit_code == 0
    assert len(cloud.snapshots) == (2 if keep else 0)
    assert sum("disk is full" in line for line in said) == 2


def test_interrupted_while_it_is_put_away(cloud: Cloud, ledger: FileLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C a second time: what is not deleted yet stays in the ledger."""

    def interrupted(_: Resource) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(cloud, "delete", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scan_instance(cloud, machine("vol-1", "vol-2"), SnapshotOptions(SCAN), ledger)
    assert len(cloud.snapshots) == 2
    assert [error for _, error in sweep(ledger, cloud, HERE)] == [None, None]
    assert (cloud.snapshots, ledger.entries()) == ({}, [])
