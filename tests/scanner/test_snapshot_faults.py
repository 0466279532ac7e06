"""The way from an instance to a report, with a cloud that misbehaves; on an emulated AWS: tests/cli/test_aws.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.blocks import BlockSource
from core.errors import AccessDenied, CloudError, ConfigError, Gone, Throttled
from core.estate import Disk, Instance, Place, Resource, Snapshot, SnapshotState
from core.findings import GapReason
from demo.disk import build_clean
from scanner import snapshots
from scanner.images import FileSource
from scanner.ledger import FileLedger
from scanner.machine import ScanOptions
from scanner.snapshots import SnapshotOptions, scan_instance

HERE = Place("aws", "111122223333", "eu-central-1")
OPTIONS = SnapshotOptions(ScanOptions(jobs=1), ready_seconds=0.5)


class Cloud:
    """One instance with `disks`; `says` are what the next calls raise, by their name."""

    name = "aws"

    def __init__(self, image: Path, disks: int = 1) -> None:
        self.image = image
        self.disks = tuple(
            Disk(HERE, f"vol-{at}", "i-1", f"/dev/sd{at}", image.stat().st_size, boot=not at) for at in range(disks)
        )
        self.says: dict[str, list[Exception]] = {}
        self.state: Callable[[Snapshot], Snapshot] = lambda one: replace(one, state=SnapshotState.READY)
        self.made: list[Snapshot] = []
        self.deleted: list[Resource] = []
        self.asked: list[str] = []

    def _say(self, what: str) -> None:
        self.asked.append(what)
        if self.says.get(what):
            raise self.says[what].pop(0)

    @property
    def instance(self) -> Instance:
        return Instance(HERE, "i-1", disks=self.disks)

    def snapshot(self, disks: Sequence[Disk], *, token: str) -> Sequence[Snapshot]:
        self._say("snapshot")
        self.made = [Snapshot(HERE, f"snap-{one.id}", one.id, size_bytes=one.size_bytes, token=token) for one in disks]
        return self.made

    def refresh(self, snapshot: Snapshot) -> Snapshot:
        self._say("refresh")
        return self.state(snapshot)

    @contextmanager
    def open(self, snapshot: Snapshot, ledger: object) -> Iterator[BlockSource]:
        self._say("open")
        if snapshot.state is not SnapshotState.READY:
            raise CloudError(f"{snapshot}: {snapshot.detail or snapshot.state.value}")
        with FileSource.open(self.image) as source:
            yield source

    def changed(self, old: Snapshot, new: Snapshot) -> None:
        self._say("changed")

    def delete(self, resource: Resource) -> None:
        self._say("delete")
        self.deleted.append(resource)

    def owned(self) -> Iterator[Resource]:
        yield from ()

    def leftovers(self, used: Sequence[Snapshot]) -> Iterator[Resource]:
        yield from ()

    def instances(self) -> Iterator[Instance]:
        yield self.instance


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "clean.img"
    build_clean(path)
    return path


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "_FIRST_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(snapshots, "_FIRST_TRY_SECONDS", 0.01)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[FileLedger]:
    with FileLedger(tmp_path / "data") as found:
        yield found


def scanned(cloud: Cloud, ledger: FileLedger, **options: Any) -> Any:
    return scan_instance(cloud, cloud.instance, replace(OPTIONS, **options), ledger)[0]


def test_all_goes_well(image: Path, ledger: FileLedger) -> None:
    cloud = Cloud(image)
    report = scanned(cloud, ledger)
    assert (report.exit_code, len(cloud.deleted), ledger.entries()) == (0, 1, [])
    assert cloud.deleted[0].id == "snap-vol-0"


@pytest.mark.parametrize(
    ("what", "errors", "code"),
    [
        pytest.param("snapshot", [Throttled("slow down", after=0.01)] * 2, 0, id="throttled"),
        pytest.param("snapshot", [CloudError("its answer was lost")], 0, id="lost-answer"),
        pytest.param("refresh", [Throttled("slow down", after=0.01), CloudError("500")], 0, id="looked-again"),
        pytest.param("refresh", [AccessDenied("no", permission="ec2:DescribeSnapshots")], 3, id="may-not-look"),
        pytest.param("refresh", [Gone("deleted by somebody")], 3, id="gone-while-waiting"),
        pytest.param("open", [AccessDenied("no", permission="ebs:GetSnapshotBlock")], 3, id="may-not-read"),
        pytest.param("open", [Gone("deleted by somebody")], 3, id="gone-before-it-is-read"),
        pytest.param("delete", [Throttled("slow down", after=0.01), CloudError("500")], 0, id="deleted-at-last"),
    ],
)
def test_what_goes_wrong_is_a_gap_or_done_again(
    image: Path, ledger: FileLedger, what: str, errors: list[Exception], code: int
) -> None:
    cloud = Cloud(image)
    cloud.says = {what: list(errors)}
    report = scanned(cloud, ledger)
    assert report.exit_code == code
    assert (code == 0) == (not list(report.gaps))
    assert len(cloud.deleted) == 1
    assert not [one for one in ledger.entries() if one.id], "only what may still come to light, after a second call"


def test_a_snapshot_that_stays_pending_is_a_gap_of_its_disk_alone(image: Path, ledger: FileLedger) -> None:
    cloud = Cloud(image, disks=2)
    cloud.state = lambda one: one if one.disk == "vol-1" else replace(one, state=SnapshotState.READY)
    report = scanned(cloud, ledger)
    assert [(gap.reason, "pending" in gap.detail) for gap in report.gaps] == [(GapReason.UNREADABLE, True)]
    assert {volume.disk for volume in report.volumes if volume.files} == {0}
    assert len(cloud.deleted) == 2


@pytest.mark.parametrize(
    "error", [Gone("it was terminated"), AccessDenied("no", permission="ec2:CreateSnapshots"), RuntimeError("a bug")]
)
def test_if_nothing_can_be_made_it_is_said_and_remembered(image: Path, ledger: FileLedger, error: Exception) -> None:
    cloud = Cloud(image)
    cloud.says = {"snapshot": [error]}
    with pytest.raises(type(error)):
        scanned(cloud, ledger)
    assert [one.id for one in cloud.deleted] == [""], "by its token, in case it was made all the same"
    assert len(ledger.entries()) == 1, "until the cloud must have listed it"


def test_what_cannot_be_deleted_stays_in_the_ledger(image: Path, ledger: FileLedger) -> None:
    cloud = Cloud(image)
    cloud.says = {"delete": [AccessDenied("no", permission="ec2:DeleteSnapshot")]}
    said: list[str] = []
    scan_instance(cloud, cloud.instance, OPTIONS, ledger, warn=said.append)
    assert [one.id for one in ledger.entries()] == ["snap-vol-0"]
    assert "kumomori cloud sweep" in said[0]


def test_what_is_kept_is_kept_only_if_the_scan_ended(image: Path, ledger: FileLedger) -> None:
    cloud = Cloud(image)
    scanned(cloud, ledger, keep=True)
    assert (cloud.deleted, ledger.kept_ids()) == ([], {"snap-vol-0"})
    other = Cloud(image)
    other.says = {"open": [KeyboardInterrupt()]}  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        scanned(other, ledger, keep=True)
    assert [one.id for one in other.deleted] == ["snap-vol-0"]


def made(*disks: str) -> list[Snapshot]:
    return [Snapshot(HERE, f"snap-{one}" if one else "", one) for one in disks]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(made("a", "b"), made("a", "b"), ["snap-a", "snap-b"], id="same"),
        pytest.param(made("a", "b"), made("b", "a"), ["snap-b", "snap-a"], id="turned"),
        pytest.param(made("a"), [*made("a"), Snapshot(HERE, "", "local")], ["snap-a", None], id="one-without"),
        pytest.param(made("image"), made("a"), ["snap-image"], id="an-image-for-its-instance"),
    ],
)
def test_which_snapshot_was_before(old: list[Snapshot], new: list[Snapshot], expected: list[str | None]) -> None:
    assert [one.id if one else None for one in snapshots._earlier(old, new)] == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(made("a"), made("a", "b"), id="one-more"),
        pytest.param(made("image"), made("a", "b"), id="too-few"),
    ],
)
def test_snapshots_that_do_not_fit(old: list[Snapshot], new: list[Snapshot]) -> None:
    with pytest.raises(ConfigError):
        snapshots._earlier(old, new)
