from __future__ import annotations

import hashlib
import stat
import subprocess
from pathlib import Path

import pytest

from core.text import escape
from demo.disk import DELETED
from demo.ext4 import Node
from tests.cli.commands import KUMOMORI, Kumomori
from tests.scanner.sandboxed import MIB, file, folder, write_ext4

TIME_NS = 1_700_000_000_123_456_789
CONTENT = {
    b"/plain": b"plain\n",
    b"/empty": b"",
    b"/r\xe9sum\xe9": b"latin",
    b"/back\\slash": b"backslash",
    b"/looks \\x41 escaped": b"looks escaped",
    b"/\xe9\x9c\xa7": b"mist",
    b"/two\nlines": b"two lines",
    b"/dir/deep": b"d" * 10_000,
    b"/sparse": b"start" + bytes(3 * MIB) + b"end",
    b"/-dash": b"not an option",
}
NODES = [
    folder(b"/dir"),
    *(file(path, content, uid=7, gid=8, mtime_ns=TIME_NS) for path, content in CONTENT.items()),
    file(b"/one", b"shared", key="k"),
    file(b"/two", b"shared", key="k"),
    file(b"/open", b"deleted but open", deleted=True),
    file(b"/marked", b"m", xattrs={b"user.a": b"\0\xff", b"user.\xe9": b""}),
    Node(b"/link", stat.S_IFLNK | 0o777, target=b"di\xffr/\\x41"),
    Node(b"/pipe", stat.S_IFIFO | 0o600),
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ext4(tmp_path_factory.mktemp("listing") / "disk.img", NODES)


def test_every_file_as_it_was_put_there(kumomori: Kumomori, disk: Path) -> None:
    result = kumomori("ls", "--format", "jsonl", "--hash", "--extents", "--xattrs", disk)
    assert (result.code, result.err) == (0, b"")
    rows = {row["path"]: row for row in result.rows}
    assert len(rows) == len(result.rows)
    deleted = [row for row in result.rows if row["deleted"]]
    assert [row["sha256"] for row in deleted] == [hashlib.sha256(b"deleted but open").hexdigest()]
    named = {row["path"] for row in result.rows if not row["deleted"]}
    assert named == {escape(node.path) for node in NODES if not node.deleted} | {"/lost+found"}
    raw = disk.read_bytes()
    for path, content in CONTENT.items():
        row = rows[escape(path)]
        assert row["type"] == "file"
        assert row["size"] == len(content)
        assert (row["uid"], row["gid"], row["mode"], row["mtime_ns"]) == (7, 8, 0o100644, TIME_NS)
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert row["xattrs"] == {}
        stored = bytearray(len(content))
        for extent in row["extents"]:
            at, length, offset = extent["logical"], extent["length"], extent["offset"]
            stored[at : at + length] = raw[offset : offset + length]
        assert bytes(stored) == content
    assert rows["/one"]["inode"] == rows["/two"]["inode"]
    assert rows["/one"]["nlink"] == 2
    assert rows["/marked"]["xattrs"] == {"user.a": "00ff", "user.\\xe9": ""}
    assert rows["/link"]["target"] == "di\\xffr/\\x5cx41"
    assert rows["/pipe"]["type"] == "fifo"
    assert "sha256" not in rows["/link"]


def test_extents_are_places_on_the_whole_disk(kumomori: Kumomori, disks: Path) -> None:
    result = kumomori("ls", "--format", "jsonl", "--extents", disks / "clean.img", disks / "bad.img")
    table = next(row for row in result.rows if row["path"] == "/export/README")
    (extent,) = table["extents"]
    assert extent["disk"] == 1
    with (disks / "bad.img").open("rb") as image:
        image.seek(extent["offset"])
        assert image.read(extent["length"]) == b"Squares, for the report.\n"


def test_gaps_are_lines_and_exit_3(kumomori: Kumomori, disks: Path) -> None:
    result = kumomori("ls", "--format", "jsonl", disks / "bad.img")
    assert result.code == 3
    gaps = [row for row in result.rows if row["type"] == "gap"]
    assert [(gap["volume"], gap["reason"]) for gap in gaps] == [(2, "swap"), (3, "encrypted")]
    table = kumomori("ls", disks / "bad.img")
    assert table.code == 3
    assert [line for line in table.out.splitlines() if line.startswith(b"gap ")] == [
        b"gap  volume 2: swap: swap space",
        b"gap  volume 3: encrypted: LUKS2 encrypted volume; its key is not here",
    ]


@pytest.mark.parametrize("form", ["table", "jsonl"])
def test_the_order_is_always_the_same(kumomori: Kumomori, disks: Path, form: str) -> None:
    words: list[str | Path] = ["ls", "--hash", "--format", form, disks / "bad.img", "--jobs"]
    once = kumomori(*words, "1").out
    assert once
    assert kumomori(*words, "4").out == once


def test_a_file_that_is_cut_off_is_a_line_and_a_gap(kumomori: Kumomori, disk: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.img"
    rows = kumomori("ls", "--format", "jsonl", "--extents", disk).rows
    deep = next(row for row in rows if row["path"] == "/dir/deep")
    last = max(row["extents"][-1]["offset"] for row in rows if row.get("extents"))
    assert deep["extents"][0]["offset"] < last
    cut.write_bytes(disk.read_bytes()[:last])
    result = kumomori("ls", "--format", "jsonl", "--hash", cut)
    assert result.code == 3
    assert {escape(path) for path in CONTENT} <= {row["path"] for row in result.rows if row["type"] != "gap"}
    unread = {row["path"] for row in result.rows if row["type"] == "file" and row["sha256"] is None}
    assert unread
    assert unread <= {row["path"] for row in result.rows if row["type"] == "gap"}


@pytest.mark.parametrize("path", [pytest.param(path, id=escape(path)) for path in CONTENT if path != b"/-dash"])
def test_cat(kumomori: Kumomori, disk: Path, path: bytes) -> None:
    result = kumomori("cat", disk, escape(path))
    assert (result.code, result.out, result.err) == (0, CONTENT[path], b"")


@pytest.mark.slow
def test_cat_of_what_ls_printed(kumomori: Kumomori, disk: Path) -> None:
    for row in kumomori("ls", "--format", "jsonl", "--hash", disk).rows:
        if row["type"] == "file":
            content = kumomori("cat", disk, row["path"]).out
            assert hashlib.sha256(content).hexdigest() == row["sha256"]


def test_cat_of_a_deleted_file(kumomori: Kumomori, disks: Path) -> None:
    rows = kumomori("ls", "--format", "jsonl", disks / "bad.img").rows
    (deleted,) = [row["path"] for row in rows if row.get("deleted")]
    result = kumomori("cat", disks / "bad.img", deleted)
    assert (result.code, result.out) == (0, DELETED)


def test_cat_of_a_symlink_gives_its_target(kumomori: Kumomori, disk: Path) -> None:
    assert kumomori("cat", disk, "/link").out == b"di\xffr/\\x41"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/missing", id="missing"),
        pytest.param("plain", id="not-absolute"),
        pytest.param("", id="nothing"),
        pytest.param("/plain/", id="slash-behind"),
        pytest.param("/dir/../plain", id="dots"),
        pytest.param("/r\\xe8sum\\xe8", id="other-bytes"),
        pytest.param("/" + "x" * 5000, id="very-long"),
    ],
)
def test_cat_of_what_is_not_there(kumomori: Kumomori, disk: Path, path: str) -> None:
    assert "kumomori ls" in kumomori("cat", disk, path).refused()


def test_cat_of_what_has_no_content(kumomori: Kumomori, disk: Path) -> None:
    assert "is a directory" in kumomori("cat", disk, "/dir").refused()
    result = kumomori("cat", disk, "/pipe")
    assert (result.code, result.out, result.err) == (0, b"", b"")


def test_cat_of_a_disk_that_cannot_be_read(kumomori: Kumomori, tmp_path: Path) -> None:
    """It does not claim that there is no such file."""
    disk = tmp_path / "disk.vmdk"
    disk.write_bytes(b"KDMV" + bytes(100_000))
    result = kumomori("cat", disk, "/etc/passwd")
    assert (result.code, result.out) == (3, b"")
    assert b"VMDK" in result.err
    assert b"/etc/passwd was not found" in result.err


@pytest.mark.parametrize("option", ["--extents", "--xattrs"])
def test_a_table_has_no_room_for(kumomori: Kumomori, disk: Path, option: str) -> None:
    assert "jsonl" in kumomori("ls", disk, option).refused()


def test_a_full_disk_behind_the_output(disk: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([KUMOMORI, "ls", disk], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 2
    assert done.stderr.decode() == "kumomori: cannot write the standard output: No space left on device\n"


def test_cat_chooses_among_volumes(kumomori: Kumomori, disks: Path) -> None:
    line = kumomori("cat", disks / "bad.img", "/lost+found").refused()
    assert "--volume" in line
    assert "0, 1" in line
    result = kumomori("cat", "--volume", "1", disks / "bad.img", "/export/README")
    assert (result.code, result.out) == (0, b"Squares, for the report.\n")
    assert kumomori("cat", "--volume", "0", disks / "bad.img", "/export/README").code == 2
    assert kumomori("cat", "--volume", "99", disks / "bad.img", "/export/README").code == 2


def test_cat_of_a_large_file(kumomori: Kumomori, tmp_path: Path) -> None:
    content = bytes(range(256)) * (66 * MIB // 256) + b"end"
    disk = write_ext4(tmp_path / "disk.img", [file(b"/large", content)], 96 * MIB)
    result = kumomori("cat", disk, "/large")
    assert result.code == 0
    assert hashlib.sha256(result.out).digest() == hashlib.sha256(content).digest()


def test_cat_of_a_file_that_is_cut_off(kumomori: Kumomori, tmp_path: Path) -> None:
    content = b"x" * (8 * MIB)
    disk = write_ext4(tmp_path / "disk.img", [file(b"/large", content)])
    (row,) = [one for one in kumomori("ls", "--format", "jsonl", "--extents", disk).rows if one["path"] == "/large"]
    with disk.open("r+b") as image:
        image.truncate(row["extents"][0]["offset"] + 3 * MIB)
    result = kumomori("cat", disk, "/large")
    assert result.code == 3
    assert content.startswith(result.out)
    assert b"unreadable" in result.err
