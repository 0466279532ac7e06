from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.findings import GapReason
from demo.disk import DELETED, build
from scanner import sandbox
from scanner.job import Job, Task
from scanner.sandbox import (
    MAX_FINDINGS,
    Listener,
    Outcome,
    Progress,
    Silent,
    Support,
    VolumeState,
    _Attempt,
    run,
)
from scanner.wire import Message, WireError, load
from tests.need import need_tool
from tests.scanner.evil_parser import ANSWERS, RAW_ANSWERS, SHAPES, piece_of
from tests.scanner.sandboxed import MIB, ROOT, Started, file, folder, opened, reasons, write_ext4

pytestmark = pytest.mark.slow

JOB = Job(task=Task.SCAN, jobs=2, file_timeout_seconds=1, index_timeout_seconds=1, memory_bytes=512 * MIB)
# to fill its memory takes a busy machine longer than a hang needs to show
PATIENT = replace(JOB, file_timeout_seconds=20, index_timeout_seconds=20)
SWAP_AND_LUKS = {("volume 2", "swap"), ("volume 3", "encrypted")}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sandbox") / "disk.img"
    build(path)
    return path


@pytest.fixture(scope="module")
def healthy(disk: Path) -> Outcome:
    return scan(disk)


def scan(disk: Path, job: Job = JOB, seconds: float = 60, listener: Listener | None = None) -> Outcome:
    with opened(disk) as disks:
        return run(disks, job, timeout_seconds=seconds, listener=listener)


def said(outcome: Outcome) -> list[tuple[str, bytes, str]]:
    return [(one.rule.id, one.where.path, one.subject) for one in outcome.findings]


def test_a_parser_that_behaves(disk: Path, healthy: Outcome, started: Started) -> None:
    outcome = scan(disk)
    started.assert_gone()
    assert len(started.pids) == 1
    assert set(reasons(outcome)) == SWAP_AND_LUKS
    assert sorted(said(outcome)) == sorted(said(healthy))
    assert outcome.sizes == [96 * MIB]
    assert all(volume.finished for volume in outcome.volumes.values() if volume.filesystem)
    assert outcome.guards
    assert outcome.rules


# act, where the gap is, its reason
DEATHS = [
    pytest.param("segfault", "crashed", id="segfault"),
    pytest.param("abort", "crashed", id="abort"),
    pytest.param("exit", "crashed", id="exit"),
    pytest.param("exit-0", "crashed", id="exit-as-if-all-was-well"),
    pytest.param("raise", "crashed", id="raise"),
    pytest.param("recurse", "crashed", id="recurse"),
    pytest.param("loop", "timeout", id="loop"),
    pytest.param("sleep", "timeout", id="sleep"),
    pytest.param("eat", "out_of_memory", id="eat-memory"),
    pytest.param("fork-and-exit", "crashed", id="fork-and-exit"),
    pytest.param("hang-up", "crashed", id="hang-up"),
    pytest.param("garbage", "crashed", id="garbage"),
    pytest.param("oversize", "crashed", id="oversize"),
    pytest.param("shape-not-json", "crashed", id="not-json"),
    pytest.param("wishes", "crashed", id="wishes-without-end"),
    pytest.param("own-disk", "crashed", id="wishes-that-are-granted"),
]


@pytest.mark.parametrize(("act", "reason"), DEATHS)
def test_misbehaves_while_reading_the_metadata_of_one_volume(
    disk: Path, healthy: Outcome, started: Started, act: str, reason: str
) -> None:
    started.misbehave("index", act)
    outcome = scan(disk, PATIENT if act == "eat" else JOB)
    started.assert_gone()
    assert set(reasons(outcome)) == SWAP_AND_LUKS | {("volume 0", reason)}
    # the other volume is looked at as if nothing had been
    assert outcome.volumes[1].finished
    assert outcome.volumes[1].files == healthy.volumes[1].files
    assert outcome.volumes[1].size == healthy.volumes[1].size
    assert not outcome.findings


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        pytest.param("segfault", "crashed", id="segfault"),
        pytest.param("abort", "crashed", id="abort"),
        pytest.param("exit", "crashed", id="exit"),
        pytest.param("exit-0", "crashed", id="exit-as-if-all-was-well"),
        pytest.param("raise", "detector_failed", id="raise"),
        pytest.param("recurse", "detector_failed", id="recurse"),
        pytest.param("loop", "timeout", id="loop"),
        pytest.param("sleep", "timeout", id="sleep"),
        pytest.param("eat", "out_of_memory", id="eat-memory"),
    ],
)
@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_misbehaves_on_one_file(
    disk: Path, healthy: Outcome, started: Started, act: str, reason: str, jobs: int
) -> None:
    started.misbehave("file", act)
    outcome = scan(disk, replace(PATIENT if act == "eat" else JOB, jobs=jobs))
    started.assert_gone()
    assert len(started.pids) == 1
    assert set(reasons(outcome)) == SWAP_AND_LUKS | {("volume 0: /etc/hostname", reason)}
    # all others are looked at, and nothing is told twice
    assert sorted(said(outcome)) == sorted(said(healthy))
    missing = healthy.volumes[0].files - outcome.volumes[0].files
    assert missing == (0 if reason in {"detector_failed", "out_of_memory"} else 1)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param("hang-up", id="hangs-up-the-socket-of-all"),
        pytest.param("garbage", id="speaks-over-the-coordinator"),
        pytest.param("fork-and-exit", id="leaves-forks"),
    ],
)
def test_a_worker_that_was_taken_over(disk: Path, started: Started, act: str) -> None:
    started.misbehave("file", act)
    outcome = scan(disk)
    started.assert_gone()
    found = set(reasons(outcome)) - SWAP_AND_LUKS
    assert found in ({("volume 0", "crashed")}, {("volume 0: /etc/hostname", "crashed")})
    assert outcome.volumes[1].finished


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        pytest.param("segfault", "crashed", id="segfault"),
        pytest.param("abort", "crashed", id="abort", marks=pytest.mark.slow),
        pytest.param("exit", "crashed", id="exit", marks=pytest.mark.slow),
        pytest.param("exit-0", "crashed", id="exit-as-if-all-was-well", marks=pytest.mark.slow),
        pytest.param("raise", "crashed", id="raise", marks=pytest.mark.slow),
        pytest.param("eat", "out_of_memory", id="eat-memory"),
        pytest.param("hang-up", "crashed", id="hang-up"),
        pytest.param("garbage", "crashed", id="garbage", marks=pytest.mark.slow),
        pytest.param("fork-and-exit", "crashed", id="fork-and-exit", marks=pytest.mark.slow),
    ],
)
def test_the_coordinator_misbehaves_at_work(disk: Path, started: Started, act: str, reason: str) -> None:
    started.misbehave("coordinate", act)
    outcome = scan(disk, PATIENT if act == "eat" else JOB)
    started.assert_gone()
    # it does so on each volume in turn; what is left is told for each, and swap and vault are not forgotten
    assert set(reasons(outcome)) == SWAP_AND_LUKS | {("volume 0", reason), ("volume 1", reason)}
    assert set(outcome.volumes) == {0, 1, 2, 3}


def test_a_parser_that_stops_early_and_says_that_it_is_done(disk: Path, started: Started) -> None:
    started.misbehave("coordinate", "early-done")
    outcome = scan(disk)
    started.assert_gone()
    assert {("volume 0", "crashed"), ("volume 1", "crashed")} <= set(reasons(outcome))


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        pytest.param("segfault", "crashed", id="segfault"),
        pytest.param("exit", "crashed", id="exit"),
        pytest.param("exit-0", "crashed", id="exit-as-if-all-was-well"),
        pytest.param("raise", "crashed", id="raise"),
        pytest.param("hang-up", "crashed", id="hang-up"),
        pytest.param("garbage", "crashed", id="garbage"),
        pytest.param("early-done", None, id="done-at-once"),
    ],
)
def test_misbehaves_before_it_is_ready(disk: Path, started: Started, act: str, reason: str | None) -> None:
    started.misbehave("start", act)
    outcome = scan(disk)
    started.assert_gone()
    assert len(started.pids) == 1
    assert reasons(outcome) == [("machine", reason or "crashed")]
    assert not outcome.volumes


def test_a_parser_that_never_gets_ready_is_ended_at_the_deadline(disk: Path, started: Started) -> None:
    started.misbehave("start", "sleep")
    begun = time.monotonic()
    outcome = scan(disk, seconds=1)
    assert time.monotonic() - begun < 10
    started.assert_gone()
    assert reasons(outcome) == [("machine", "timeout")]


@pytest.mark.parametrize("shape", [pytest.param(name, id=name) for name in SHAPES])
def test_messages_of_a_wrong_shape(disk: Path, shape: str) -> None:
    outcome = Outcome(sizes=[1])
    ours, theirs = socket.socketpair()
    with opened(disk) as disks, ours, theirs, pytest.raises(WireError):
        attempt = _Attempt(disks, JOB, outcome, Silent())
        attempt._told = True
        if shape.startswith(ANSWERS):
            attempt._take(piece_of(SHAPES[shape]))
        else:
            attempt._hear(ours, load(SHAPES[shape]))
    assert not outcome.volumes
    assert not outcome.findings


@pytest.mark.parametrize("shape", [pytest.param(name, id=name) for name in SHAPES])
def test_messages_of_a_wrong_shape_end_the_parser(disk: Path, started: Started, shape: str) -> None:
    started.misbehave("index", f"shape-{shape}")
    outcome = scan(disk)
    started.assert_gone()
    assert ("volume 0", "crashed") in reasons(outcome)
    assert outcome.volumes[1].finished


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in RAW_ANSWERS])
def test_answers_of_a_wrong_shape(disk: Path, name: str) -> None:
    """JSON, verdicts and rows of a manifest come together; each of them may be anything."""
    outcome = Outcome(sizes=[1], volumes={0: VolumeState(0, 0, "gpt", 0, 1, "ext4", "", "")})
    kept = Kept()
    support = Support(rows=kept, verdicts=lambda _: kept)
    with opened(disk) as disks, pytest.raises(WireError):
        attempt = _Attempt(disks, JOB, outcome, Silent(), support)
        attempt._verdicts = kept
        attempt._take(RAW_ANSWERS[name])
    assert not kept.said


class Kept:
    """Verdicts and rows that got through."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def lookup(self, keys: Sequence[bytes]) -> Sequence[None]:
        return [None for _ in keys]

    def record(self, key: bytes, findings: object) -> None:
        self.said.append(key)

    def add(self, volume: int, first: int, last: int, rows: int, block: bytes) -> None:
        self.said.append(block)


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in RAW_ANSWERS])
def test_answers_of_a_wrong_shape_end_the_parser(disk: Path, started: Started, name: str) -> None:
    started.misbehave("index", f"answer-{name}")
    with opened(disk) as disks:
        kept = Kept()
        outcome = run(disks, JOB, timeout_seconds=30, support=Support(rows=kept))
    started.assert_gone()
    assert outcome.suspect or "verdict" in name  # without a cache nobody reads the verdicts


@pytest.mark.parametrize(
    "act",
    [
        pytest.param("findings", id="findings"),
        pytest.param("big-findings", id="big-findings", marks=pytest.mark.slow),
        pytest.param("gaps", id="gaps", marks=pytest.mark.slow),
        pytest.param("big-gaps", id="big-gaps"),
        pytest.param("progress", id="progress", marks=pytest.mark.slow),
    ],
)
def test_what_never_ends_is_bounded_in_memory_and_time(disk: Path, started: Started, act: str) -> None:
    started.misbehave("index", act)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    outcome = scan(disk, replace(JOB, index_timeout_seconds=100), seconds=2)
    assert time.monotonic() - begun < 20
    started.assert_gone()
    assert ("machine", "timeout") in reasons(outcome)
    assert len(outcome.findings) <= MAX_FINDINGS
    assert len(list(outcome.gaps)) < 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000  # KiB


def test_the_worst_are_kept_of_too_many(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = list(scan(disk).findings)
    monkeypatch.setattr(sandbox, "MAX_FINDINGS", 1)
    outcome = scan(disk)
    (kept,) = outcome.findings
    assert len(everything) > 1
    assert kept.rule.severity.rank == max(one.rule.severity.rank for one in everything)
    assert ("machine", "limit") in reasons(outcome)


def test_the_time_for_all_is_used_up(disk: Path, started: Started) -> None:
    started.misbehave("file", "sleep")
    begun = time.monotonic()
    outcome = scan(disk, replace(JOB, file_timeout_seconds=100), seconds=1.5)
    assert time.monotonic() - begun < 15
    started.assert_gone()
    found = set(reasons(outcome))
    assert {("machine", "timeout"), ("volume 0", "timeout"), ("volume 1", "timeout")} <= found


def test_a_parser_that_asks_and_never_listens(disk: Path, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanner.sandbox._SEND_SECONDS", 1.0)
    monkeypatch.setattr("scanner.sandbox._WISHES_PER_DISK", 10_000_000)
    started.misbehave("index", "wishes")
    outcome = scan(disk, replace(JOB, index_timeout_seconds=100))
    started.assert_gone()
    assert ("volume 0", "crashed") in reasons(outcome)
    assert outcome.volumes[1].finished


def test_a_refusal_is_one_printable_line(disk: Path) -> None:
    rules = (("bad\x1b[2J\nname.yar", "rule broken {"),)
    with pytest.raises(ConfigError) as caught:
        scan(disk, replace(JOB, rules=rules))
    assert str(caught.value).isprintable()
    assert "bad" in str(caught.value)


class Written(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.bytes = b""
        self.rows: list[Message] = []
        self.figures: list[Progress] = []

    def data(self, chunk: bytes) -> None:
        self.bytes += chunk

    def row(self, row: Message) -> None:
        self.rows.append(row)

    def progress(self, progress: Progress) -> None:
        self.figures.append(progress)


def test_cat_gives_the_content(disk: Path, started: Started) -> None:
    listener = Written()
    listing = Written()
    scan(disk, Job(task=Task.LIST, jobs=1), listener=listing)
    deleted = next(row for row in listing.rows if row["deleted"])
    outcome = scan(disk, Job(task=Task.CAT, path=deleted["path"].encode()), listener=listener)
    assert listener.bytes == DELETED
    assert set(reasons(outcome)) == SWAP_AND_LUKS
    started.assert_gone()


@pytest.mark.parametrize("act", ["segfault", "eat"])
def test_cat_never_begins_again(tmp_path: Path, started: Started, act: str) -> None:
    path = write_ext4(tmp_path / "disk.img", [folder(b"/etc"), file(b"/etc/hostname", b"x" * 5000)])
    listener = Written()
    started.command = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "import os\nfrom tests.scanner import evil_parser\nfrom scanner import parser\n"
        "def chunks(stream):\n"
        "    yield stream.read(100)\n"
        f"    evil_parser.ACTS[{act!r}]()\n"
        "parser.chunks = chunks\n"
        "os._exit(parser.main())"
    )
    outcome = scan(path, Job(task=Task.CAT, path=b"/etc/hostname", memory_bytes=256 * MIB), listener=listener)
    started.assert_gone()
    assert listener.bytes == b"x" * 100
    assert len(started.pids) == 1
    assert [str(gap.where) for gap in outcome.gaps] == ["machine"]


def test_progress_is_told(disk: Path) -> None:
    listener = Written()
    outcome = scan(disk, listener=listener)
    assert listener.figures
    assert max(one.files for one in listener.figures) <= sum(one.files for one in outcome.volumes.values())


def test_a_file_with_too_much_to_say_is_a_gap_and_keeps_its_first_findings(tmp_path: Path) -> None:
    virus = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
    deep = b"/" + b"d" * 250 + b"/" + b"e" * 250
    nodes = [folder(b"/" + b"d" * 250), folder(deep), file(b"/other", virus)]
    nodes += [file(b"%s/%0200d" % (deep, number), virus, key="same") for number in range(30_000)]
    outcome = scan(write_ext4(tmp_path / "disk.img", nodes, 32 * MIB), replace(JOB, jobs=1, file_timeout_seconds=60))
    (gap,) = outcome.gaps
    assert gap.reason is GapReason.LIMIT
    assert gap.where.path.startswith(deep)  # type: ignore[union-attr]
    paths = {finding.where.path for finding in outcome.findings}
    assert b"/other" in paths
    assert len(paths) > 1000
    assert outcome.volumes[0].finished
    assert outcome.volumes[0].files == 30_000 + 4


def test_a_disk_that_is_cut_short_under_the_scan(tmp_path: Path, started: Started) -> None:
    path = tmp_path / "disk.img"
    build(path)
    # the guards would not let the parser do this itself
    started.command = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "import os\nfrom scanner import guards, parser\n"
        "real = parser.find_volumes\n"
        "def find_volumes(disks):\n"
        "    found = real(disks)\n"
        f"    os.truncate({str(path)!r}, 8 << 20)\n"
        "    return found\n"
        "guards.lock_down = lambda *a, **k: ()\n"
        "parser.find_volumes = find_volumes\n"
        "os._exit(parser.main())"
    )
    outcome = scan(path)
    started.assert_gone()
    assert ("volume 0", "unreadable") in reasons(outcome)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chain") / "base.img"
    return write_ext4(path, [folder(b"/etc"), file(b"/etc/hostname", b"demo\n")])


def test_a_backing_file_comes_through_the_socket(base: Path, started: Started) -> None:
    need_tool("qemu-img")
    over = base.with_name("over.qcow2")
    _qemu_img("create", "-q", "-f", "qcow2", "-b", base.name, "-F", "raw", str(over), folder=base.parent)
    listener = Written()
    outcome = scan(over, Job(task=Task.CAT, path=b"/etc/hostname"), listener=listener)
    started.assert_gone()
    assert reasons(outcome) == []
    assert listener.bytes == b"demo\n"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param("../base.img", None, id="parent-folder"),
        pytest.param("/etc/passwd", None, id="absolute"),
        pytest.param("link", "/etc/passwd", id="link-out"),
        pytest.param("sub/link", "../../base.img", id="link-in-a-subfolder"),
        pytest.param("sub", None, id="folder"),
        pytest.param("fifo", None, id="named-pipe"),
        pytest.param("zero", "/dev/zero", id="device"),
        pytest.param("missing.img", None, id="missing"),
        pytest.param('json:{"file.filename":"/etc/passwd"}', None, id="json"),
        pytest.param("nbd://127.0.0.1:1/x", None, id="network"),
    ],
)
def test_a_backing_file_elsewhere_is_refused_and_never_opened(
    tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch, name: str, target: str | None
) -> None:
    need_tool("qemu-img")
    place = tmp_path / "disks"
    (place / "sub").mkdir(parents=True)
    (tmp_path / "base.img").write_bytes(b"secret" * 1000)
    os.mkfifo(place / "fifo")
    if target is not None:
        (place / name).symlink_to(target)
    over = place / "over.qcow2"
    _qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", str(over), "16M", folder=place)
    touched: list[str] = []
    real = os.open

    def spy(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        touched.append(os.path.realpath(path))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", spy)
    outcome = scan(over)
    started.assert_gone()
    (gap,) = outcome.gaps
    assert (str(gap.where), gap.reason) == ("disk 0", GapReason.UNSUPPORTED_IMAGE)
    assert "backing file" in gap.detail
    assert not {"/etc/passwd", "/dev/zero", str(tmp_path / "base.img")} & set(touched)


def _qemu_img(*arguments: str, folder: Path) -> None:
    subprocess.run(["qemu-img", *arguments], cwd=folder, check=True)
