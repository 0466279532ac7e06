"""`kumomori diff` must not say that nothing differs if it did not look, and no input may break the process that prints."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import pytest

from scanner.manifest.block import Row, encode
from scanner.manifest.file import Writer
from tests.cli.test_again import kumomori
from tests.need import need_tool
from tests.scanner.filesystems.machine import make_ext
from tests.scanner.sandboxed import MIB, file, write_ext4

pytestmark = pytest.mark.slow

FACTS = {
    "index": 0,
    "disk": 0,
    "start": 0,
    "length": MIB,
    "filesystem": "ext4",
    "uuid": "a",
    "finished": True,
    "gaps": [],
}


def row(inode: int, path: bytes, **others: object) -> Row:
    values = (inode, (path,), 0o100644, 0, 0, 5, 0, 1, False, bytes(32), b"", ((4096, 5),), (), True, b"", b"")
    return Row(**dict(zip(Row.__slots__, values, strict=True)) | others)  # type: ignore[arg-type]


def manifest(path: Path, rows: dict[int, list[Row]], volumes: list[dict[str, object]], **facts: object) -> str:
    stream = io.BytesIO()
    writer = Writer(stream)
    for volume, group in rows.items():
        writer.add(volume, group[0].inode, group[-1].inode, len(group), encode(group))
    writer.finish({"volumes": volumes, "disks": [MIB]} | facts)
    path.write_bytes(stream.getvalue())
    return str(path)


def test_a_volume_that_appeared_or_disappeared(tmp_path: Path) -> None:
    one = manifest(tmp_path / "1", {0: [row(5, b"/a")]}, [FACTS])
    second = FACTS | {"index": 1, "start": MIB, "uuid": "b"}
    two = manifest(tmp_path / "2", {0: [row(5, b"/a")], 1: [row(5, b"/evil")]}, [FACTS, second])
    for words, sign in (((one, two), "+"), ((two, one), "-")):
        done = kumomori("diff", *words)
        assert done.returncode == 1
        assert done.stdout.startswith(f"{sign} /evil  ")


@pytest.mark.parametrize(
    ("facts", "more"),
    [
        pytest.param(FACTS | {"finished": False}, {}, id="not-finished"),
        pytest.param(
            FACTS | {"gaps": [{"where": ["volume", 0], "reason": "corrupt", "detail": "d", "count": 1}]},
            {},
            id="volume",
        ),
        pytest.param(
            FACTS, {"gaps": [{"where": ["disk", 0], "reason": "corrupt", "detail": "d", "count": 1}]}, id="disk"
        ),
    ],
)
def test_what_a_scan_did_not_see_is_a_gap(tmp_path: Path, facts: dict[str, object], more: dict[str, object]) -> None:
    good = manifest(tmp_path / "good", {0: [row(5, b"/a")]}, [FACTS])
    bad = manifest(tmp_path / "bad", {0: [row(5, b"/a")]}, [facts], **more)
    for words in ((good, bad), (bad, good), (bad, bad)):
        done = kumomori("diff", *words)
        assert done.returncode == 3, done.stdout
        assert "not all could be compared" in done.stdout
    assert kumomori("diff", good, good).returncode == 0


def test_gaps_of_a_disk_are_told_once(tmp_path: Path) -> None:
    disk = write_ext4(tmp_path / "disk.img", [file(b"/a", b"1")])
    with disk.open("r+b") as stream:
        stream.seek(1024 + 104)
        stream.write(b"\xff")  # the superblock's checksum is wrong now
    done = kumomori("diff", str(disk), str(disk))
    assert done.returncode == 3
    lines = [line for line in done.stdout.splitlines() if line.startswith("gap")]
    assert len(lines) == len(set(lines))
    assert len([line for line in lines if "the superblock has a wrong checksum" in line]) == 2


def test_a_link_that_leads_elsewhere_now(tmp_path: Path) -> None:
    """Of the same length, with its time set back."""
    need_tool("mke2fs")
    disks = []
    for name, target, long in (("old", "/bin/good", "g"), ("new", "/bin/evil", "e")):
        tree = tmp_path / name
        tree.mkdir()
        for link, leads in (("short", target), ("long", long * 100), ("same", "/x")):
            (tree / link).symlink_to(leads)
            os.utime(tree / link, (1, 1), follow_symlinks=False)
        os.utime(tree, (1, 1))
        disks.append(str(make_ext(tmp_path / f"{name}.img", 4 * MIB, ["-t", "ext4"], tree)))
    done = kumomori("diff", *disks)
    assert done.returncode == 1
    changed = [line for line in done.stdout.splitlines() if line.startswith("* ") and "content" in line]
    assert [line.split()[1] for line in changed] == ["/long", "/short"]


LIES: list[dict[str, object]] = [
    {"mode": 1 << 40},
    {"mode": (1 << 64) - 1},
    {"mtime_ns": -(1 << 62) * 1_000_000_000},
    {"mtime_ns": ((1 << 63) - 1) * 1_000_000_000},
    {"size": (1 << 64) - 1, "nlink": (1 << 64) - 1, "uid": (1 << 64) - 1},
    {"paths": (b"/\x1b[2J\xe2\x80\xae\r\n",)},
    {"paths": (b"x" * 100_000,)},
    {"results": b"{"},
    {"mode": stat.S_IFLNK | 0o777, "sha256": b""},
]


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
@pytest.mark.parametrize("output", ["table", "json"])
def test_a_manifest_that_lies_breaks_nothing(tmp_path: Path, lie: dict[str, object], output: str) -> None:
    good = manifest(tmp_path / "good", {0: [row(5, b"/a"), row(6, b"/b")]}, [FACTS])
    bad = manifest(tmp_path / "bad", {0: [row(5, b"/a", **lie), row(6, b"/b", size=9)]}, [FACTS])
    for words in ((good, bad), (bad, good)):
        done = kumomori("diff", *words, "--format", output)
        assert done.returncode in {1, 2, 3}, done.stderr
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert "\u202e" not in done.stdout + done.stderr or output == "json"
        if output == "json" and done.stdout:
            json.loads(done.stdout)


def test_manifest_and_report_in_one_file(tmp_path: Path) -> None:
    disk = write_ext4(tmp_path / "disk.img", [file(b"/a", b"1")])
    (tmp_path / "link").symlink_to(tmp_path / "out")
    done = kumomori("scan", "image", str(disk), "--manifest", str(tmp_path / "out"), "--output", str(tmp_path / "link"))
    assert done.returncode == 2
    assert "same file" in done.stderr
