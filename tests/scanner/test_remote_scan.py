"""Whole scans of disks that only the parent can read: the same report as of a file, whatever goes wrong meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud.store import BLOCK_BYTES
from core.blocks import BlockSource, Bytes
from core.errors import AccessDenied, ConfigError, Unreadable
from core.findings import GapReason
from demo.disk import build
from scanner.disks import RemoteDisk
from scanner.images import FileSource
from scanner.job import Job, Task
from scanner.machine import ScanOptions, opened, scan_machine, write_manifest
from scanner.manifest.file import Reader
from scanner.report import Report
from scanner.reports.document import to_json
from scanner.sandbox import Outcome, Silent, run
from scanner.wire import Message
from tests.cloud.aws import ebs
from tests.cloud.aws.ebs_server import Answer, Service, Snapshot
from tests.scanner.sandboxed import MIB, Started, file, reasons, session, write_ext4

pytestmark = pytest.mark.slow

OPTIONS = ScanOptions(jobs=2, file_timeout_seconds=20)
GIB = 1 << 30


class Slow:
    """A disk in another place. `at` is called before each block is read."""

    def __init__(self, path: Path, at: Callable[[int], None] = lambda _: None) -> None:
        self._file = FileSource.open(path)
        self.size = self._file.size
        self.got: list[int] = []
        self._at = at

    def read(self, offset: int, length: int) -> Bytes:
        self.got.append(offset // BLOCK_BYTES)
        self._at(offset // BLOCK_BYTES)
        return bytes(self._file.read(offset, length))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo disk, as long as a volume of EBS is."""
    path = tmp_path_factory.mktemp("remote") / "disk.img"
    build(path)
    with path.open("r+b") as stream:
        stream.truncate(GIB)
    return path


@pytest.fixture(scope="module")
def report(disk: Path) -> dict[str, Any]:
    return told(scan_machine([disk], OPTIONS))


def told(report: Report) -> dict[str, Any]:
    """The report as JSON, without what differs between scans: how often a byte is read depends on what memory holds."""
    return _without(to_json(report), {"started", "cpu_seconds", "wall_seconds", "target", "bytes_read"})  # type: ignore[no-any-return]


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(one, names) for key, one in value.items() if key not in names}
    if isinstance(value, list):
        return [_without(one, names) for one in value]
    return value


def served(path: Path, **others: Any) -> Service:
    """The disk as a snapshot, its empty blocks not written."""
    blocks = {}
    with path.open("rb") as stream:
        for number in range(-(-path.stat().st_size // BLOCK_BYTES)):
            data = stream.read(BLOCK_BYTES)
            if data.count(0) != len(data):
                blocks[number] = data
    return Service({ebs.SNAPSHOT: Snapshot(blocks)}, **others)


def test_the_same_report_as_of_a_file(disk: Path, report: dict[str, Any]) -> None:
    source = Slow(disk)
    assert told(scan_machine([RemoteDisk("disk", source)], OPTIONS)) == report
    assert len(source.got) == len(set(source.got)), "no block was fetched twice"


def test_the_same_report_through_ebs(disk: Path, report: dict[str, Any]) -> None:
    service = served(disk, page=7, empty_pages=1)
    spoilt = Answer(spoil=True)
    service.fault = lambda call: spoilt if call.number == 1 and call.block % 5 == 0 else None
    with ebs.opened(service, threads=8, store_bytes=64 * BLOCK_BYTES) as source:
        found = scan_machine([RemoteDisk(ebs.SNAPSHOT, source)], OPTIONS)
    assert told(found) == report
    assert found.target == (ebs.SNAPSHOT,)
    assert all(guard.active for guard in found.guards) == all(guard["active"] for guard in report["guards"])
    assert service.got.keys() <= service.snapshots[ebs.SNAPSHOT].blocks.keys()


def test_a_store_with_hardly_any_room(disk: Path, report: dict[str, Any]) -> None:
    with ebs.opened(served(disk), store_bytes=8 * BLOCK_BYTES) as source:
        assert told(scan_machine([RemoteDisk("disk", source)], OPTIONS)) == report
        with pytest.raises(ConfigError, match="fewer"):
            scan_machine([RemoteDisk("disk", source)], replace(OPTIONS, jobs=8))


def test_two_disks_one_of_them_here(disk: Path, tmp_path: Path) -> None:
    other = write_ext4(tmp_path / "other.img", [file(b"/there", b"x" * 3 * MIB)])
    near = told(scan_machine([disk, other], OPTIONS))
    mixed: list[list[Path | RemoteDisk]] = [
        [RemoteDisk("a", Slow(disk)), other],
        [RemoteDisk("a", Slow(disk)), RemoteDisk("b", Slow(other))],
    ]
    for targets in mixed:
        assert told(scan_machine(targets, OPTIONS)) == near
    source = Slow(other)
    with pytest.raises(ConfigError, match="given twice"), opened([RemoteDisk("a", source), RemoteDisk("b", source)]):
        pass


def run_on(source: BlockSource, job: Job, listener: Silent | None = None) -> Outcome:
    return run([RemoteDisk("disk", source)], job, timeout_seconds=60, listener=listener)


class Rows(Silent):
    def __init__(self) -> None:
        self.rows: list[Message] = []
        self.content = b""

    def row(self, row: Message) -> None:
        self.rows.append(row)

    def data(self, chunk: bytes) -> None:
        self.content += chunk


def test_a_listing_fetches_little(tmp_path: Path) -> None:
    """Without --hash only metadata is fetched; with it every block of a file once; of one file its own."""
    content = {b"/file-%02d" % number: os.urandom(2 * MIB) for number in range(60)}
    path = write_ext4(tmp_path / "disk.img", [file(name, data) for name, data in content.items()], 160 * MIB)
    blocks = sum(1 for _ in served(path).snapshots[ebs.SNAPSHOT].blocks)
    near, far = Rows(), Rows()
    job = Job(task=Task.LIST, jobs=2)
    with opened([path]) as disks:
        run(disks, job, timeout_seconds=60, listener=near)
    source = Slow(path)
    run_on(source, job, far)
    assert far.rows == near.rows
    metadata = len(set(source.got))
    assert metadata <= 0.05 * blocks
    source, hashed = Slow(path), Rows()
    run_on(source, replace(job, hash=True), hashed)
    assert sum(1 for row in hashed.rows if row.get("sha256")) == 60
    assert len(source.got) == len(set(source.got)) <= blocks + metadata, "none twice"
    source, one = Slow(path), Rows()
    run_on(source, Job(task=Task.CAT, jobs=1, path=b"/file-07"), one)
    assert one.content == content[b"/file-07"]
    assert len(set(source.got)) <= metadata + 5


def test_a_scan_of_what_changed_fetches_little(tmp_path: Path) -> None:
    content = {b"/file-%02d" % number: os.urandom(2 * MIB) for number in range(60)}
    size = 160 * MIB
    old = write_ext4(tmp_path / "old.img", [file(name, data) for name, data in content.items()], size)
    for number in range(20, 30):
        content[b"/file-%02d" % number] = os.urandom(2 * MIB)
    new = write_ext4(tmp_path / "new.img", [file(name, data) for name, data in content.items()], size)
    a, b = old.read_bytes(), new.read_bytes()
    changes = [
        (at, BLOCK_BYTES) for at in range(0, size, BLOCK_BYTES) if a[at : at + BLOCK_BYTES] != b[at : at + BLOCK_BYTES]
    ]
    scan_machine([old], replace(OPTIONS, manifest=tmp_path / "base"))
    source = Slow(old)
    run_on(source, Job(task=Task.LIST, jobs=2))
    metadata = len(set(source.got))
    source = Slow(new)
    found = scan_machine(
        [RemoteDisk("disk", source)], replace(OPTIONS, base=tmp_path / "base", changes=(tuple(changes),))
    )
    assert found.coverage.mode == "incremental"
    assert found.coverage.files_scanned == 10
    assert 10 <= found.coverage.files_hashed <= 12, "neighbours have a part of the first and the last changed block"
    assert len(set(source.got)) == len(source.got) <= 1.3 * len(changes) + metadata


def test_a_manifest_of_a_remote_disk(disk: Path, tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    with near.open("wb") as one, far.open("wb") as other:
        assert write_manifest(disk, one, OPTIONS, Silent()) == write_manifest(
            RemoteDisk("far", Slow(disk)), other, OPTIONS, Silent()
        )
    volumes = [Reader(FileSource.open(one)).facts["volumes"] for one in (near, far)]
    assert volumes[0] == volumes[1]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param(Answer(403, "AccessDeniedException", "UNAUTHORIZED_ACCOUNT"), "ebs:GetSnapshotBlock", id="denied"),
        pytest.param(Answer(403, "AccessDeniedException", "DEPENDENCY_ACCESS_DENIED"), "kms:Decrypt", id="key"),
        pytest.param(Answer(404, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND"), "not there any more", id="gone"),
        pytest.param(Answer(reset=True), "connection failed", id="no-connection"),
        pytest.param(Answer(spoil=True), "checksum is wrong", id="spoilt"),
    ],
)
@pytest.mark.parametrize("begin", [0, 3])
def test_what_cannot_be_fetched_is_a_gap_with_its_reason(disk: Path, fault: Answer, words: str, begin: int) -> None:
    """From the first block on, and half way."""
    service = served(disk)
    service.fault = lambda call: fault if call.block >= 0 and len(service.got) >= begin else None
    with ebs.opened(service, patience_seconds=0.3, store_bytes=64 * BLOCK_BYTES) as source:
        found = scan_machine([RemoteDisk("disk", source)], OPTIONS)
    assert found.exit_code in {1, 3}
    if begin == 0:
        assert not found.findings
    assert any(words in gap.detail and gap.reason is GapReason.UNREADABLE for gap in found.gaps), found.gaps


def test_one_bad_block_costs_one_file(tmp_path: Path) -> None:
    content = {b"/file-%02d" % number: os.urandom(MIB) for number in range(20)}
    path = write_ext4(tmp_path / "disk.img", [file(name, data) for name, data in content.items()], 32 * MIB)
    listed = Rows()
    with opened([path]) as disks:
        run(disks, Job(task=Task.LIST, jobs=1, extents=True), timeout_seconds=60, listener=listed)
    (row,) = [row for row in listed.rows if row["path"] == "/file-09"]
    bad = row["extents"][0]["offset"] // BLOCK_BYTES + 1

    def at(block: int) -> None:
        if block == bad:
            raise AccessDenied("ebs:GetSnapshotBlock is denied", permission="ebs:GetSnapshotBlock")

    rows = Rows()
    outcome = run_on(Slow(path, at), Job(task=Task.LIST, jobs=2, hash=True), rows)
    lost = [row["path"] for row in rows.rows if row["type"] == "file" and row["sha256"] is None]
    assert "/file-09" in lost
    assert len(lost) <= 2
    assert len(reasons(outcome)) == len(lost)


def worker_pids(started: Started) -> list[int]:
    return [pid for leader in started.pids for pid in session(leader) if pid != leader]


@pytest.mark.parametrize("who", ["worker", "parser"])
def test_killed_in_the_middle_of_a_read(
    monkeypatch: pytest.MonkeyPatch, disk: Path, report: dict[str, Any], who: str
) -> None:
    """The scan ends, says so, and looks at all else; the next one, over the same store, is as if nothing had been."""
    started = Started(monkeypatch)
    killed: list[int] = []
    lock = threading.Lock()

    def at(_: int) -> None:
        with lock:
            victims = worker_pids(started) if not killed else []
            if victims:  # there are workers: files are being read
                killed.append(victims[0] if who == "worker" else started.pids[0])
                os.kill(killed[0], signal.SIGKILL)
                time.sleep(0.05)

    source = Slow(disk, at)
    begun = time.monotonic()
    outcome = run_on(source, Job(task=Task.SCAN, jobs=2, file_timeout_seconds=20))
    assert killed
    assert time.monotonic() - begun < 50
    assert any("killed" in gap.detail for gap in outcome.gaps)
    assert sum(volume.finished for volume in outcome.volumes.values()) >= 1
    if who == "worker":
        assert len(outcome.findings) >= len(report["findings"]) - 1
    started.assert_gone()
    assert told(scan_machine([RemoteDisk("disk", source)], OPTIONS)) == report


@pytest.mark.parametrize("error", [Unreadable("the network is gone"), RuntimeError("a bug")])
def test_a_source_that_fails_from_some_point_on(disk: Path, error: Exception) -> None:
    count = iter(range(10**6))

    def at(_: int) -> None:
        if next(count) > 30:
            raise error

    found = scan_machine([RemoteDisk("disk", Slow(disk, at))], OPTIONS)
    assert any(str(error) in gap.detail for gap in found.gaps)


def _wait(stop: threading.Event) -> None:
    stop.wait(30)


def test_a_source_that_says_nothing_is_left_at_the_deadline(disk: Path) -> None:
    stop = threading.Event()
    source = Slow(disk, lambda block: _wait(stop) if block else None)
    begun = time.monotonic()
    timer = threading.Timer(3, stop.set)
    timer.start()
    outcome = run([RemoteDisk("disk", source)], Job(task=Task.LIST, jobs=1), timeout_seconds=1)
    stop.set()
    timer.join()
    assert ("machine", GapReason.TIMEOUT.value) in reasons(outcome)
    assert time.monotonic() - begun < 20


def test_a_parser_that_asks_for_nonsense_is_ended(monkeypatch: pytest.MonkeyPatch, disk: Path) -> None:
    started = Started(monkeypatch)
    started.misbehave("index", "ask-for-blocks")
    outcome = run_on(Slow(disk), Job(task=Task.LIST, jobs=1))
    assert any("question for blocks" in gap.detail for gap in outcome.gaps)
    started.assert_gone()


def test_a_remote_disk_names_no_file_beside_it(monkeypatch: pytest.MonkeyPatch, disk: Path) -> None:
    """A header of another format on a snapshot is data: it is never followed."""

    class Headed(Slow):
        def read(self, offset: int, length: int) -> Bytes:
            data = bytearray(super().read(offset, length))
            if not offset:
                data[:4] = b"QFI\xfb"
            return bytes(data)

    found = scan_machine([RemoteDisk("disk", Headed(disk))], OPTIONS)
    assert found.findings
    assert not [gap for gap in found.gaps if gap.reason is GapReason.UNSUPPORTED_IMAGE]
