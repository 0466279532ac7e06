"""A later scan must never say less than a full one: bases of other machines, other rules, lost gaps, moved tables."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.findings import GapReason
from scanner.machine import ScanOptions, scan_machine
from scanner.manifest.block import MAX_BLOCK_BYTES, Block, Row
from scanner.manifest.file import Writer
from scanner.manifest.rows import blocks_of
from scanner.wire import BLOCK_HEAD
from tests.need import need_tool
from tests.scanner.filesystems.machine import make_ext, run
from tests.scanner.incremental.compare import changed_extents, differences, facts_of, full, incremental, rows_of
from tests.scanner.incremental.test_incremental import EICAR, OPTIONS, poke
from tests.scanner.sandboxed import MIB, Started, file, folder, write_ext4

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return write_ext4(tmp_path / "disk.img", [file(b"/a", b"content\n" * 500), file(b"/eicar.com", EICAR)])


def same(disk: Path, base: Path, tmp_path: Path, options: ScanOptions = OPTIONS, changes: object = ()) -> list[str]:
    """What an incremental scan says otherwise than a full one."""
    expected = full(disk, tmp_path / "right", options)
    found = incremental(disk, base, tmp_path / "next", changes, options)  # type: ignore[arg-type]
    assert found.coverage.mode == "incremental"
    assert found.exit_code == expected.exit_code
    return differences(expected, found, tmp_path / "right", tmp_path / "next")


# which machine


def test_without_any_change_the_machine_is_still_checked(disk: Path, tmp_path: Path) -> None:
    """A disk of the same size and layout, and the platform says that nothing changed: the manifest was of another one."""
    other = write_ext4(tmp_path / "other.img", [file(b"/a", b"clean")])
    raw = bytearray(other.read_bytes())
    raw[1024 + 104] ^= 0xFF  # its UUID
    other.write_bytes(raw)
    full(other, tmp_path / "base", OPTIONS)
    with pytest.raises(ConfigError, match="another machine"):
        scan_machine([disk], replace(OPTIONS, base=tmp_path / "base", changes=((),)))
    report = scan_machine([disk], replace(OPTIONS, base=tmp_path / "base", changes=((),), full=True))
    assert report.coverage.mode == "full"
    assert len(report.findings) == 1


def test_disks_in_another_order(disk: Path, tmp_path: Path) -> None:
    other = write_ext4(tmp_path / "other.img", [file(b"/a", b"clean")])
    poke(other, 1024 + 104, b"\xff\xff")
    both = scan_machine([disk, other], replace(OPTIONS, manifest=tmp_path / "base"))
    assert [finding.where.volume for finding in both.findings] == [0]
    with pytest.raises(ConfigError, match="another machine"):
        scan_machine([other, disk], replace(OPTIONS, base=tmp_path / "base", changes=((), ())))


@pytest.mark.parametrize("kind", ["itself", "a-link"])
def test_a_disk_is_not_compared_with_itself(disk: Path, tmp_path: Path, kind: str) -> None:
    full(disk, tmp_path / "base", OPTIONS)
    old = disk
    if kind == "a-link":
        old = tmp_path / "old"
        old.hardlink_to(disk)
    with pytest.raises(ConfigError, match="as the base saw it"):
        scan_machine([disk], replace(OPTIONS, base=tmp_path / "base", base_disks=(old,)))


# what was not said with the rows


def test_a_gap_of_an_inode_without_a_row_is_said_again(disk: Path, tmp_path: Path) -> None:
    """A name that refers to an inode which is not in use: there is no file of which a row could tell."""
    need_tool("debugfs")
    run("debugfs", "-w", "-R", "clri /a", disk)
    first = full(disk, tmp_path / "base", OPTIONS)
    assert any("not in use" in gap.detail for gap in first.gaps)
    assert not same(disk, tmp_path / "base", tmp_path)


def test_all_kinds_of_gaps_of_a_volume_are_said_again(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a thousand of one kind do not push out the one of another kind."""
    started = Started(monkeypatch)
    started.misbehave("index", "volume-gaps")
    first = full(disk, tmp_path / "base", OPTIONS)
    started.command = None
    again = incremental(disk, tmp_path / "base", tmp_path / "next", (), OPTIONS)
    assert {gap.reason for gap in first.gaps} == {GapReason.CORRUPT, GapReason.ENCRYPTED}
    assert {gap.reason for gap in again.gaps} == {GapReason.CORRUPT, GapReason.ENCRYPTED}


def test_findings_stay_with_their_volume_when_it_gets_another_number(tmp_path: Path) -> None:
    first = write_ext4(tmp_path / "first.img", [folder(b"/etc"), file(b"/etc/passwd", b"evil:x:0:0::/:/bin/sh\n")])
    other = write_ext4(tmp_path / "other.img", [file(b"/x", b"x")])
    poke(other, 1024 + 104, b"\xff\xff")
    disk = tmp_path / "disk.img"

    def build(*places: int) -> None:
        """An MBR with partitions of 16 MiB that begin at these MiB."""
        table = bytearray(512)
        table[510:] = b"\x55\xaa"
        for number, at in enumerate(places):
            entry = b"\0\0\0\0\x83\0\0\0" + (at * 2048).to_bytes(4, "little") + (16 * 2048).to_bytes(4, "little")
            table[446 + 16 * number : 462 + 16 * number] = entry
        raw = bytearray(40 * MIB)
        raw[:512] = table
        raw[1 * MIB : 17 * MIB] = first.read_bytes()
        if len(places) > 1:
            raw[20 * MIB : 36 * MIB] = other.read_bytes()
        disk.write_bytes(raw)

    build(1)
    before = full(disk, tmp_path / "base", OPTIONS)
    assert [finding.where.volume for finding in before.findings] == [0]
    old = Path(shutil.copy(disk, tmp_path / "old.img"))
    build(20, 1)
    changes = changed_extents(old, disk, 4096)
    found = incremental(disk, tmp_path / "base", tmp_path / "next", changes, OPTIONS)
    expected = full(disk, tmp_path / "right", OPTIONS)
    assert [finding.where.volume for finding in expected.findings] == [1]
    assert found.findings == expected.findings
    assert found.coverage.files_carried


# what the engine did not do


def test_findings_by_rules_that_asked_for_names_are_no_verdict(disk: Path, tmp_path: Path) -> None:
    """Such a scan judges nothing by content: its manifest must not say that contents are clean."""
    rule = tmp_path / "name.yar"
    rule.write_text('rule named { condition: filename == "f3" }')
    full(disk, tmp_path / "base", replace(OPTIONS, rules=(rule,)))
    assert not same(disk, tmp_path / "base", tmp_path)


def test_a_large_file_stays_a_gap_when_a_rule_goes(tmp_path: Path) -> None:
    big = write_ext4(tmp_path / "big.img", [file(b"/big", b"x" * 50_000 + EICAR)])
    rules = (tmp_path / "a.yar", tmp_path / "b.yar")
    for rule in rules:
        rule.write_text(f'rule {rule.stem} {{ strings: $a = "STANDARD-ANTIVIRUS" condition: $a }}')
    options = replace(OPTIONS, max_file_bytes=1000, ends_bytes=100, rules=rules)
    full(big, tmp_path / "base", options)
    assert not same(big, tmp_path / "base", tmp_path, replace(options, rules=rules[:1]))


def test_what_took_too_long_is_no_verdict_though_something_was_found(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old finding by the cache, and the new rule file ran out of time: the next scan has to run it."""
    options = replace(OPTIONS, cache=tmp_path / "cache")
    scan_machine([disk], options)
    rule = tmp_path / "new.yar"
    rule.write_text('rule new { strings: $a = "STANDARD-ANTIVIRUS" condition: $a }')
    options = replace(options, rules=(rule,))
    started = Started(monkeypatch)
    started.misbehave("judge", "timeout")
    first = scan_machine([disk], replace(options, manifest=tmp_path / "base"))
    assert {gap.reason for gap in first.gaps} == {GapReason.TIMEOUT}
    assert {finding.subject for finding in first.findings} == {"eicar_test_file"}
    started.command = None
    found = incremental(disk, tmp_path / "base", tmp_path / "next", (), replace(options, cache=None))
    assert {finding.subject for finding in found.findings} == {"eicar_test_file", "new.yar:new"}


def test_a_check_that_failed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of settings, not of content: its failure is kept with the file, too."""
    disk = write_ext4(tmp_path / "disk.img", [folder(b"/etc"), file(b"/etc/hostname", b"a")])
    started = Started(monkeypatch)
    started.misbehave("file", "raise")
    first = full(disk, tmp_path / "base", OPTIONS)
    assert {gap.reason for gap in first.gaps} == {GapReason.DETECTOR_FAILED}
    started.command = None
    found = incremental(disk, tmp_path / "base", tmp_path / "next", (), OPTIONS)
    assert not list(found.gaps)


# metadata that says where metadata is


def test_an_inode_table_that_was_moved(tmp_path: Path) -> None:
    """Every block it leads to is unchanged: it was there, unused, when the base was made."""
    need_tool("mke2fs", "debugfs")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "innocent").write_bytes(b"content\n" * 1000)
    disk = make_ext(
        tmp_path / "disk.img",
        16 * MIB,
        ["-t", "ext4", "-b", "4096", "-N", "64", "-O", "^metadata_csum,^uninit_bg"],
        tree,
    )
    raw = disk.read_bytes()
    table = int.from_bytes(raw[4096 + 8 : 4096 + 12], "little")
    size = 64 * 256
    free = 3000  # a block that nothing uses
    copy_of_table = bytearray(raw[table * 4096 : table * 4096 + size])
    inode = int(run("debugfs", "-R", "stat /innocent", disk).split()[1])
    where = (inode - 1) * 256
    block = 3500
    extents = copy_of_table[where + 40 : where + 100]
    extents[12 + 8 : 12 + 12] = block.to_bytes(4, "little")
    copy_of_table[where + 40 : where + 100] = extents
    poke(disk, free * 4096, bytes(copy_of_table))
    poke(disk, block * 4096, (EICAR + b"\n").ljust(8000, b" "))
    full(disk, tmp_path / "base", OPTIONS)
    old = Path(shutil.copy(disk, tmp_path / "old.img"))
    poke(disk, 4096 + 8, free.to_bytes(4, "little"))
    expected = full(disk, tmp_path / "right", OPTIONS)
    assert rows_of(tmp_path / "right") != rows_of(tmp_path / "base")
    options = replace(OPTIONS, base=tmp_path / "base", full=True, manifest=tmp_path / "next")
    found = scan_machine([disk], replace(options, changes=(changed_extents(old, disk, 4096),)))
    assert not differences(expected, found, tmp_path / "right", tmp_path / "next")


def test_a_file_that_became_encrypted(disk: Path, tmp_path: Path) -> None:
    need_tool("debugfs")
    full(disk, tmp_path / "base", OPTIONS)
    old = Path(shutil.copy(disk, tmp_path / "old.img"))
    run("debugfs", "-w", "-R", "sif /a flags 0x80800", disk)
    expected = full(disk, tmp_path / "right", OPTIONS)
    assert {gap.reason for gap in expected.gaps} >= {GapReason.ENCRYPTED}
    assert not same(disk, tmp_path / "base", tmp_path, changes=changed_extents(old, disk, 4096))


def test_a_base_that_fits_is_not_refused_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second parser sees only what is left, and that is not in the base."""
    disk = write_ext4(tmp_path / "disk.img", [folder(b"/etc"), file(b"/etc/hostname", b"a")])
    other = write_ext4(tmp_path / "other.img", [file(b"/eicar.com", EICAR)])
    poke(other, 1024 + 104, b"\xff\xff")
    third = write_ext4(tmp_path / "third.img", [file(b"/x", b"x")])
    poke(third, 1024 + 104, b"\xee\xee")
    scan_machine([disk, third], replace(OPTIONS, manifest=tmp_path / "base"))
    started = Started(monkeypatch)
    started.misbehave("index", "exit")
    report = scan_machine([disk, other], replace(OPTIONS, base=tmp_path / "base", changes=(((0, 4096),), ((0, 4096),))))
    assert [finding.where.volume for finding in report.findings] == [1]
    assert {gap.reason for gap in report.gaps} == {GapReason.CRASHED, GapReason.CORRUPT}


@pytest.mark.parametrize("place", [0, 1])
def test_a_disk_that_cannot_be_written_while_the_manifest_is(
    disk: Path, tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says so, and no trace of a manifest."""
    real = Writer._write

    def full_disk(writer: Writer, data: bytes) -> None:
        if writer._at >= (12 if place else 0):
            raise OSError(28, "No space left on device")
        real(writer, data)

    monkeypatch.setattr(Writer, "_write", full_disk)
    with pytest.raises(ConfigError, match="the manifest cannot be written"):
        full(disk, tmp_path / "base", OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["disk.img"]


@pytest.mark.parametrize("changes", [(), ((0, 16 * MIB),), ((0, 4096),)], ids=["none", "all", "some"])
def test_a_base_with_a_right_checksum_and_blocks_that_are_none(
    disk: Path, tmp_path: Path, changes: tuple[tuple[int, int], ...]
) -> None:
    """What it would have told is looked at again, or a gap; no worker dies of it."""
    full(disk, tmp_path / "good", OPTIONS)
    with (tmp_path / "base").open("wb") as stream:
        writer = Writer(stream)
        writer.add(0, 2, 100, 12, bytes(500))
        writer.finish(facts_of(tmp_path / "good"))
    found = incremental(disk, tmp_path / "base", tmp_path / "next", changes, OPTIONS)
    gaps = {gap.reason for gap in found.gaps}
    assert gaps == (set() if changes else {GapReason.CORRUPT, GapReason.CRASHED})
    assert len(found.findings) == (1 if changes else 0)
    assert found.exit_code == (1 if changes else 3)


def _heavy(number: int, **others: object) -> Row:
    values = (number, (b"/f%d" % number,), 0o100644, 0, 0, 5, 0, 1, False, bytes(32), b"", (), (), True, b"", b"")
    return Row(**dict(zip(Row.__slots__, values, strict=True)) | others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({"extents": tuple((4096 * at, 4096) for at in range(0, 1 << 17, 2))}, id="fragmented"),
        pytest.param({"paths": tuple(b"/pool/%05d" % at for at in range(65_000))}, id="hard-links"),
        pytest.param({"paths": tuple(b"/%d" % (at % 2) + b"/x" * 150 + b"%d" % at for at in range(30_000))}, id="long"),
        pytest.param({"results": b" " * (4 << 20)}, id="much-to-say"),
    ],
)
def test_files_of_which_there_is_much_to_tell(others: dict[str, object]) -> None:
    """Such as the pool of a backup server: twenty of them do not fit into a block, nor can it be read again."""
    raw = blocks_of(0, [_heavy(number, **others) for number in range(1, 21)])
    found = at = 0
    while at < len(raw):
        _, _, _, _count, size = BLOCK_HEAD.unpack_from(raw, at)
        at += BLOCK_HEAD.size + size
        found += len(Block(raw[at - size : at]))
        assert size < MAX_BLOCK_BYTES
    assert found == 20


def test_more_findings_than_a_report_holds_of_one_file(tmp_path: Path) -> None:
    """By all its names: what a full scan cuts off with a gap is cut off in a later one."""
    need_tool("mke2fs")
    meta = f'description = "{"x" * 190}" remedy = "{"y" * 190}"'
    rules = (f"rule rule_{number} {{ meta: {meta} condition: filesize > 0 }}" for number in range(100))
    (tmp_path / "r.yar").write_text("\n".join(rules))
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "f").write_bytes(b"content")
    for number in range(400):
        (tree / f"f{number}").hardlink_to(tree / "f")
    disk = make_ext(tmp_path / "disk.img", 16 * MIB, ["-t", "ext4"], tree)
    options = replace(OPTIONS, rules=(tmp_path / "r.yar",))
    first = full(disk, tmp_path / "base", options)
    assert {gap.reason for gap in first.gaps} == {GapReason.LIMIT}
    found = incremental(disk, tmp_path / "base", tmp_path / "next", (), options)
    assert list(found.gaps) == list(first.gaps)
    assert found.findings == first.findings
