"""What a scan with a base takes over, what it refuses, and what the verdict cache has to do with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.findings import GapReason
from demo.disk import build
from scanner.machine import ScanOptions, scan_machine
from scanner.manifest.file import FORMAT_VERSION
from tests.need import need_root, need_tool
from tests.scanner.filesystems.machine import Mounts, make_ext, run
from tests.scanner.incremental.compare import changed_extents, differences, facts_of, full, incremental, rows_of
from tests.scanner.sandboxed import MIB, Started, file, folder, write_ext4

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR" + b"-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
OPTIONS = ScanOptions(jobs=1)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    nodes = [file(b"/f%d" % number, b"content %d\n" % number * 3000) for number in range(20)]
    nodes += [file(b"/eicar.com", EICAR), file(b"/same", b"content 1\n" * 3000), file(b"/empty", b"")]
    return write_ext4(tmp_path / "disk.img", nodes)


def place_of(disk: Path, content: bytes) -> int:
    return disk.read_bytes().index(content)


def poke(disk: Path, at: int, data: bytes) -> None:
    with disk.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


def test_nothing_changed_says_the_same_without_reading(tmp_path: Path) -> None:
    """The demo disk: findings in files, findings by path, gaps of volumes, a deleted program."""
    demo = tmp_path / "demo.img"
    build(demo)
    expected = full(demo, tmp_path / "base", OPTIONS)
    found = incremental(demo, tmp_path / "base", tmp_path / "next", (), OPTIONS)
    assert not differences(expected, found, tmp_path / "base", tmp_path / "next")
    assert len(found.findings) > 8
    assert found.coverage.files_carried == found.stats.files == expected.stats.files
    assert found.coverage.files_hashed == found.coverage.files_scanned == 0
    assert found.coverage.blocks_read < expected.coverage.blocks_read


def test_an_overwritten_file_is_found_by_its_block(disk: Path, tmp_path: Path) -> None:
    full(disk, tmp_path / "base", OPTIONS)
    at = place_of(disk, b"content 7\n")
    poke(disk, at, EICAR + b" " * 10)
    found = incremental(disk, tmp_path / "base", tmp_path / "next", ((at, 1),), OPTIONS)
    expected = full(disk, tmp_path / "right", OPTIONS)
    assert not differences(expected, found, tmp_path / "right", tmp_path / "next")
    assert found.coverage.files_scanned == found.coverage.files_hashed == 1


def test_extents_in_any_order_and_overlapping(disk: Path, tmp_path: Path) -> None:
    full(disk, tmp_path / "base", OPTIONS)
    at = place_of(disk, b"content 7\n")
    poke(disk, at, b"changed")
    changes = ((at + 5, 100), (0, 0), (at, 50), (at, 50), (at - 1, 3))
    found = incremental(disk, tmp_path / "base", tmp_path / "next", changes, OPTIONS)
    expected = full(disk, tmp_path / "right", OPTIONS)
    assert not differences(expected, found, tmp_path / "right", tmp_path / "next")


def test_the_changes_found_by_comparing_with_the_old_disk(disk: Path, tmp_path: Path) -> None:
    old = Path(shutil.copy(disk, tmp_path / "old.img"))
    full(disk, tmp_path / "base", OPTIONS)
    poke(disk, place_of(disk, b"content 7\n"), EICAR)
    options = replace(OPTIONS, base=tmp_path / "base", base_disks=(old,), manifest=tmp_path / "next")
    found = scan_machine([disk], options)
    expected = full(disk, tmp_path / "right", OPTIONS)
    assert not differences(expected, found, tmp_path / "right", tmp_path / "next")
    assert found.coverage.mode == "incremental"


def test_a_record_that_changed_in_nothing_that_counts_is_taken_over_with_a_new_stamp(
    disk: Path, tmp_path: Path
) -> None:
    """As every file's that was read on the running machine: its time of access is another, and its checksum with it."""
    need_tool("debugfs")
    old = Path(shutil.copy(disk, tmp_path / "old.img"))
    full(disk, tmp_path / "base", OPTIONS)
    run("debugfs", "-w", "-R", "sif /f7 atime 20260101000000", disk)
    changes = changed_extents(old, disk, 4096)
    assert changes
    found = incremental(disk, tmp_path / "base", tmp_path / "next", changes, OPTIONS)
    expected = full(disk, tmp_path / "right", OPTIONS)
    assert not differences(expected, found, tmp_path / "right", tmp_path / "next")
    assert found.coverage.files_carried == expected.stats.files
    assert found.coverage.files_hashed == 0


def test_a_content_in_a_changed_block_is_hashed_and_not_searched_if_it_is_the_same(disk: Path, tmp_path: Path) -> None:
    expected = full(disk, tmp_path / "base", OPTIONS)
    at = place_of(disk, b"content 7\n")
    found = incremental(disk, tmp_path / "base", tmp_path / "next", ((at, 1),), OPTIONS)
    assert not differences(expected, found, tmp_path / "base", tmp_path / "next")
    done = found.coverage
    assert (done.files_hashed, done.bytes_hashed, done.files_scanned, done.verdicts_known) == (1, 30_000, 0, 1)
    assert done.files_carried == expected.stats.files - 1


def test_a_file_overwritten_with_its_record_set_back_byte_by_byte_is_found(disk: Path, tmp_path: Path) -> None:
    """Record and times as they were, all blocks of 512 KiB changed: only the content tells."""
    rule = tmp_path / "mark.yar"
    rule.write_text('rule mark { strings: $a = "a mark that was set" condition: $a }')
    options = replace(OPTIONS, rules=(rule,))
    full(disk, tmp_path / "base", options)
    poke(disk, place_of(disk, b"content 7\n") + 20_000, b"a mark that was set")
    poke(disk, place_of(disk, b"content 9\n"), b"a mark that was set")
    found = incremental(disk, tmp_path / "base", tmp_path / "next", ((0, 16 * MIB),), options)
    expected = full(disk, tmp_path / "right", options)
    assert not differences(expected, found, tmp_path / "right", tmp_path / "next")
    assert [one.where.path for one in found.findings if "mark" in one.subject] == [b"/f7", b"/f9"]
    assert found.coverage.files_scanned == 2


def test_contents_that_lie_in_pieces_are_searched_if_they_are_unknown(tmp_path: Path) -> None:
    """With verdicts of earlier scans such contents are hashed first, and read again only to be searched."""
    need_tool("mke2fs")
    need_root()
    parts = [b"%08d" % number * 512 for number in range(40)]
    whole = b"".join(parts[::2])
    disk = make_ext(tmp_path / "disk.img", 16 * MIB, ["-t", "ext4"])
    with Mounts(tmp_path) as mounts:
        root = mounts.mount(disk)
        streams = [(root / "even").open("wb", buffering=0), (root / "odd").open("wb", buffering=0)]
        for number, part in enumerate(parts):
            streams[number % 2].write(part)
            os.fsync(streams[number % 2].fileno())  # so that the two lie in turns
        streams[1].write(EICAR)
        for stream in streams:
            stream.close()
    other = write_ext4(tmp_path / "other.img", [file(b"/a", b"b"), file(b"/same", whole)])
    rule = tmp_path / "pieces.yar"
    rule.write_text('rule pieces { strings: $a = "00000039" condition: #a == 512 and filesize > 80000 }')
    options = replace(OPTIONS, cache=tmp_path / "cache", rules=(rule,))
    scan_machine([other], options)
    found = scan_machine([disk], options)
    assert [(one.where.path, one.subject) for one in found.findings] == [(b"/odd", "pieces.yar:pieces")]
    assert (found.coverage.verdicts_known, found.coverage.files_scanned) == (1, 1)


# what does not fit


def refused(disk: Path, base: Path, changes: tuple[tuple[int, int], ...] = ()) -> str:
    with pytest.raises(ConfigError, match="--full") as error:
        scan_machine([disk], replace(OPTIONS, base=base, changes=(changes,)))
    report = scan_machine([disk], replace(OPTIONS, base=base, changes=(changes,), full=True))
    assert report.coverage.mode == "full"
    assert report.coverage.base_refused in str(error.value)
    assert not report.coverage.files_carried
    assert len(report.findings) == 1
    return str(error.value)


def test_a_manifest_that_is_none(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"not a manifest at all, but long enough to be one")
    assert "no manifest" in refused(disk, tmp_path / "base")


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_manifest_cut_short(disk: Path, tmp_path: Path, part: float) -> None:
    full(disk, tmp_path / "base", OPTIONS)
    raw = (tmp_path / "base").read_bytes()
    (tmp_path / "base").write_bytes(raw[: int(len(raw) * part)])
    assert "cut short" in refused(disk, tmp_path / "base")


def test_a_manifest_of_another_version(disk: Path, tmp_path: Path) -> None:
    full(disk, tmp_path / "base", OPTIONS)
    poke(tmp_path / "base", 8, b"\x07")
    assert f"version 7, and this program reads version {FORMAT_VERSION}" in refused(disk, tmp_path / "base")


def test_a_manifest_of_a_disk_of_another_size(disk: Path, tmp_path: Path) -> None:
    other = write_ext4(tmp_path / "other.img", [file(b"/a", b"b")], size=32 * MIB)
    full(other, tmp_path / "base", OPTIONS)
    assert "another disk" in refused(disk, tmp_path / "base")


def test_a_manifest_of_another_filesystem(disk: Path, tmp_path: Path) -> None:
    other = write_ext4(tmp_path / "other.img", [file(b"/a", b"b")])
    raw = bytearray(other.read_bytes())
    raw[1024 + 104] ^= 0xFF  # its UUID
    other.write_bytes(raw)
    full(other, tmp_path / "base", OPTIONS)
    assert "another machine" in refused(disk, tmp_path / "base", ((0, 4096),))


def test_changes_beyond_the_disk(disk: Path, tmp_path: Path) -> None:
    full(disk, tmp_path / "base", OPTIONS)
    assert "end at byte" in refused(disk, tmp_path / "base", ((16 * MIB - 1, 2),))


def test_as_many_lists_of_changes_as_disks(disk: Path, tmp_path: Path) -> None:
    full(disk, tmp_path / "base", OPTIONS)
    with pytest.raises(ConfigError, match="lists of changes"):
        scan_machine([disk], replace(OPTIONS, base=tmp_path / "base", changes=((), ())))
    with pytest.raises(ConfigError, match="once for each disk"):
        scan_machine([disk], replace(OPTIONS, base=tmp_path / "base"))


# rules, options, versions


def test_new_rules_are_searched_for_in_files_that_did_not_change(disk: Path, tmp_path: Path) -> None:
    full(disk, tmp_path / "base", OPTIONS)
    rule = tmp_path / "new.yar"
    rule.write_text('rule seven { strings: $a = "content 7\\n" condition: $a }')
    options = replace(OPTIONS, rules=(rule,))
    found = incremental(disk, tmp_path / "base", tmp_path / "next", (), options)
    expected = full(disk, tmp_path / "right", options)
    assert not differences(expected, found, tmp_path / "right", tmp_path / "next")
    assert {finding.subject for finding in found.findings} == {"eicar_test_file", "new.yar:seven"}
    assert found.coverage.files_hashed == 0, "their hashes are known"
    rule.write_text("rule seven { condition: false }")
    again = incremental(disk, tmp_path / "next", tmp_path / "again", (), options)
    assert {finding.subject for finding in again.findings} == {"eicar_test_file"}


def test_rules_that_ask_for_names_see_a_renamed_file(disk: Path, tmp_path: Path) -> None:
    rule = tmp_path / "name.yar"
    rule.write_text('rule named { condition: filename == "f3" }')
    options = replace(OPTIONS, rules=(rule,))
    expected = full(disk, tmp_path / "base", options)
    found = incremental(disk, tmp_path / "base", tmp_path / "next", (), options)
    assert not differences(expected, found, tmp_path / "base", tmp_path / "next")
    assert len(found.findings) == 2


def test_other_limits_take_nothing_for_granted(disk: Path, tmp_path: Path) -> None:
    full(disk, tmp_path / "base", OPTIONS)
    options = replace(OPTIONS, max_file_bytes=100)
    found = incremental(disk, tmp_path / "base", tmp_path / "next", (), options)
    expected = full(disk, tmp_path / "right", options)
    assert not differences(expected, found, tmp_path / "right", tmp_path / "next")
    assert any(gap.reason is GapReason.FILE_TOO_LARGE for gap in found.gaps)


def test_large_files_are_hashed_and_their_ends_searched_if_told(disk: Path, tmp_path: Path) -> None:
    big = write_ext4(
        tmp_path / "big.img", [file(b"/big", b"x" * 50_000 + EICAR), file(b"/start", EICAR + b"y" * 50_000)]
    )
    rule = tmp_path / "r.yar"
    rule.write_text('rule part { strings: $a = "STANDARD-ANTIVIRUS" condition: $a }')
    options = replace(OPTIONS, max_file_bytes=1000, rules=(rule,))
    without = full(big, tmp_path / "m", options)
    assert not without.findings
    assert all(row.sha256 for row in rows_of(tmp_path / "m").values() if row.mode >> 12 == 8)
    ends = scan_machine([big], replace(options, ends_bytes=100))
    assert {finding.where.path for finding in ends.findings} == {b"/big", b"/start"}
    assert [gap.reason for gap in ends.gaps] == [GapReason.FILE_TOO_LARGE] * 2


# the cache


def test_the_second_scan_searches_nothing(disk: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, cache=tmp_path / "cache")
    first = scan_machine([disk], options)
    second = scan_machine([disk], options)
    assert second.findings == first.findings
    assert (first.coverage.files_scanned, second.coverage.files_scanned) == (21, 0)
    assert second.coverage.verdicts_known == 22


def test_one_content_is_searched_once(disk: Path) -> None:
    report = scan_machine([disk], OPTIONS)
    assert (report.coverage.files_hashed, report.coverage.files_scanned) == (22, 21)


def test_a_new_rule_file_runs_alone_on_known_contents(disk: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, cache=tmp_path / "cache")
    scan_machine([disk], options)
    rule = tmp_path / "new.yar"
    rule.write_text('rule seven { strings: $a = "content 7\\n" condition: $a }')
    found = scan_machine([disk], replace(options, rules=(rule,)))
    assert {finding.subject for finding in found.findings} == {"eicar_test_file", "new.yar:seven"}
    assert found.coverage.files_scanned == 21
    again = scan_machine([disk], replace(options, rules=(rule,)))
    assert again.findings == found.findings
    assert again.coverage.files_scanned == 0


@pytest.mark.parametrize("act", ["segfault", "exit", "loop"])
def test_what_a_parser_that_crashed_said_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """A file that takes over a worker could whitewash others; one that is only slow could not."""
    nodes = [file(b"/etc/hostname", b"a"), file(b"/other", b"content\n" * 500)]
    disk = write_ext4(tmp_path / "disk.img", [folder(b"/etc"), *nodes])
    started = Started(monkeypatch)
    started.misbehave("file", act)
    options = replace(OPTIONS, cache=tmp_path / "cache", file_timeout_seconds=1)
    scan_machine([disk], options)
    started.command = None
    second = scan_machine([disk], options)
    assert second.coverage.files_scanned == (1 if act == "loop" else 2)


# killed


def test_killed_at_any_moment_nothing_is_left_behind(tmp_path: Path) -> None:
    """The manifest is the old one or a whole one, no temporary file stays but for the one being written, the cache works."""
    disk = write_ext4(
        tmp_path / "disk.img",
        [file(b"/f%d" % number, b"content %d\n" % number * 500) for number in range(800)],
        64 * MIB,
    )
    work = tmp_path / "work"
    work.mkdir()
    options = replace(OPTIONS, cache=tmp_path / "cache")
    expected = full(disk, work / "manifest", options)
    code = "import sys; from cli.main import main; main()"
    command = [sys.executable, "-c", code, "scan", "image", str(disk), "--cache", str(tmp_path / "cache")]
    command += ["--manifest", str(work / "manifest"), "--format", "json", "--output", str(work / "report")]
    for turn in range(12):
        process = subprocess.Popen(command, cwd=ROOT)
        time.sleep(0.1 + turn * 0.1)
        process.kill()
        process.wait()
        assert facts_of(work / "manifest")["volumes"]
        if (work / "report").exists():
            json.loads((work / "report").read_text())
    left = [path.name for path in work.iterdir() if path.name not in {"manifest", "report"}]
    assert len(left) <= 12
    again = full(disk, work / "manifest", options)
    assert again.findings == expected.findings
    assert again.coverage.files_scanned == 0
    assert os.listdir(tmp_path / "cache")
