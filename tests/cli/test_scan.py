from __future__ import annotations

import json
import os
import pty
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.findings import GapReason
from core.text import escape
from demo.disk import PLANTED
from tests.cli.commands import Kumomori, command
from tests.need import need_root, need_tool
from tests.scanner.sandboxed import MIB, ROOT, Started, file, folder, write_ext4

ZEROS = bytes(4 * MIB)


def test_a_clean_disk(kumomori: Kumomori, disks: Path) -> None:
    result = kumomori("scan", "image", disks / "clean.img")
    assert (result.code, result.err) == (0, b"")
    assert b"Clean" in result.out


def test_a_disk_with_problems(kumomori: Kumomori, disks: Path) -> None:
    result = kumomori("scan", "image", "--format", "json", disks / "bad.img")
    assert (result.code, result.err) == (1, b"")
    found = {finding["path"] for finding in result.report["findings"]}
    assert {path.decode() for path in PLANTED} <= found
    assert any(path.startswith("/$OrphanFiles/") for path in found)
    assert {gap["reason"] for gap in result.report["gaps"]} == {"swap", "encrypted"}


def test_two_disks_of_one_machine(kumomori: Kumomori, disks: Path) -> None:
    result = kumomori("scan", "image", "--format", "json", disks / "clean.img", disks / "bad.img")
    assert result.code == 1
    volumes = result.report["volumes"]
    assert [volume["disk"] for volume in volumes] == [0, 1, 1, 1, 1]
    assert [volume["index"] for volume in volumes] == [0, 1, 2, 3, 4]
    assert {finding["volume"] for finding in result.report["findings"]} == {1}


# What no scan can look at: never clean
UNREADABLE: list[Any] = [
    pytest.param(b"x", "unrecognised", id="one-byte"),
    pytest.param(b"just some text\n" * 10, "unrecognised", id="short-text"),
    pytest.param(b"just some text\n" * 10_000, "unrecognised", id="text"),
    pytest.param(bytes(1024), "empty", id="1-kilobyte"),
    pytest.param(ZEROS, "empty", id="zeros"),
    pytest.param(b"QFI\xfb" + bytes(4092), "", id="qcow2-magic-alone"),
    pytest.param(b"QFI\xfb\0\0\0\3" + b"\xff" * 4088, "", id="qcow2-of-ones"),
    pytest.param(bytes(1080) + b"\x53\xef" + bytes(10_000), "", id="ext-magic-alone"),
    pytest.param(bytes(510) + b"\x55\xaa" + bytes(10_000), "", id="mbr-without-partitions"),
    pytest.param(bytes(512) + b"EFI PART" + b"\xff" * 10_000, "", id="gpt-of-ones"),
    pytest.param(bytes(4086) + b"SWAPSPACE2" + bytes(4096), "swap", id="swap"),
    pytest.param(b"LUKS\xba\xbe\0\2" + bytes(10_000), "encrypted", id="luks"),
    pytest.param(b"KDMV" + bytes(10_000), "unsupported_image", id="vmdk"),
]


@pytest.mark.parametrize(("content", "reason"), UNREADABLE)
def test_what_cannot_be_looked_at_is_never_clean(
    kumomori: Kumomori, tmp_path: Path, content: bytes, reason: str
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    result = kumomori("scan", "image", "--format", "json", disk)
    assert (result.code, result.err) == (3, b"")
    gaps = result.report["gaps"]
    assert gaps
    if reason:
        assert reason in {gap["reason"] for gap in gaps}
    kinds = [word for gap in gaps for word in ("--accept-gap", gap["reason"])]
    assert kumomori("scan", "image", *kinds, disk).code == 0


@pytest.fixture
def all_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk whose scan gives one gap of every kind."""
    gaps = [
        {"where": ["volume", 0], "reason": reason.value, "detail": "made for this test", "count": 1}
        for reason in GapReason
    ]
    Started(monkeypatch).command = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n"
        "import os\nfrom scanner import parser\n"
        "real = parser.Parser._process\n"
        "def process(self, one):\n"
        f"    for gap in {gaps!r}:\n"
        "        self._send({'kind': 'gap', 'gap': gap})\n"
        "    real(self, one)\n"
        "parser.Parser._process = process\n"
        "os._exit(parser.main())"
    )
    return write_ext4(tmp_path / "disk.img", [file(b"/a", b"a")])


@pytest.mark.parametrize("reason", [pytest.param(reason, id=reason.value) for reason in GapReason])
def test_every_kind_of_gap_counts_until_it_is_accepted(kumomori: Kumomori, all_gaps: Path, reason: GapReason) -> None:
    others = [word for one in GapReason if one is not reason for word in ("--accept-gap", one.value)]
    result = kumomori("scan", "image", "--format", "json", *others, all_gaps)
    assert result.code == 3
    assert [gap["reason"] for gap in result.report["gaps"] if not gap["accepted"]] == [reason.value]


@pytest.mark.parametrize("form", ["json", "table"])
def test_accepted_gaps_are_still_printed(kumomori: Kumomori, all_gaps: Path, form: str) -> None:
    words = [word for one in GapReason for word in ("--accept-gap", one.value)]
    result = kumomori("scan", "image", "--format", form, *words, all_gaps)
    assert result.code == 0
    assert b"accepted" in result.out
    for reason in GapReason:
        assert reason.value.encode() in result.out


def _missing(place: Path) -> Path:
    return place / "missing.img"


def _empty(place: Path) -> Path:
    (place / "empty.img").touch()
    return place / "empty.img"


def _fifo(place: Path) -> Path:
    os.mkfifo(place / "fifo")
    return place / "fifo"


def _socket(place: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place / "socket"))
    return place / "socket"


def _loop(place: Path) -> Path:
    (place / "loop").symlink_to("loop")
    return place / "loop"


def _long(place: Path) -> Path:
    return place / ("n" * 300)


def _odd_name(place: Path) -> Path:
    return place / "a\nkumomori: all is well\x1b[2J\u202e.img"


BAD_DISKS: list[Any] = [
    pytest.param(_missing, "no such file", id="missing"),
    pytest.param(lambda place: place, "directory", id="directory"),
    pytest.param(_empty, "empty", id="empty"),
    pytest.param(_fifo, "neither a file nor a block device", id="named-pipe"),
    pytest.param(_socket, "cannot be opened", id="socket"),
    pytest.param(_loop, "cannot be opened", id="link-loop"),
    pytest.param(_long, "cannot be opened", id="name-too-long"),
    pytest.param(_odd_name, "no such file", id="odd-name"),
    pytest.param(lambda place: Path("/dev/null"), "neither a file nor a block device", id="dev-null"),
    pytest.param(lambda place: Path("/dev/zero"), "neither a file nor a block device", id="dev-zero"),
]


@pytest.mark.parametrize(("make", "words"), BAD_DISKS)
@pytest.mark.parametrize("what", [("scan", "image"), ("ls",), ("cat",)], ids=["scan", "ls", "cat"])
def test_a_disk_that_cannot_be_opened(
    kumomori: Kumomori, tmp_path: Path, make: Callable[[Path], Path], words: str, what: tuple[str, ...]
) -> None:
    disk = make(tmp_path)
    line = kumomori(*what, disk, *(["/etc/passwd"] if what == ("cat",) else [])).refused()
    assert words in line
    assert "; " in line  # what to do about it


def test_no_good_disk_makes_up_for_a_bad_one(kumomori: Kumomori, disks: Path, tmp_path: Path) -> None:
    assert "no such file" in kumomori("scan", "image", disks / "clean.img", tmp_path / "x").refused()


def test_a_disk_that_may_not_be_read(kumomori: Kumomori, tmp_path: Path, disks: Path) -> None:
    need_root()  # to become somebody else
    disk = tmp_path / "disk.img"
    shutil.copy(disks / "clean.img", disk)
    disk.chmod(0o600)
    os.seteuid(65534)
    try:
        result = kumomori("scan", "image", disk)
    finally:
        os.seteuid(0)
    assert "no permission to read it; run as a user who may" in result.refused()


def _rules(text: bytes) -> Callable[[Path], Path]:
    def make(place: Path) -> Path:
        (place / "mine.yar").write_bytes(text)
        return place / "mine.yar"

    return make


def _folder_without(place: Path) -> Path:
    (place / "rules").mkdir()
    (place / "rules" / "readme.txt").write_text("rule a { condition: true }")
    return place / "rules"


BAD_RULES: list[Any] = [
    pytest.param(_rules(b"rule broken {"), "mine.yar", id="does-not-compile"),
    pytest.param(_rules(b'import "nosuch"\nrule a { condition: true }'), "nosuch", id="unknown-module"),
    pytest.param(_rules(b"rule a { condition: unheard_of == 1 }"), "unheard_of", id="undefined-variable"),
    pytest.param(_rules(b'include "/etc/passwd"\nrule a { condition: true }'), "include", id="include"),
    pytest.param(_rules(b"YARA\x04\0\0\xff\xfe binary"), "UTF-8", id="binary"),
    pytest.param(_rules(b"rule a { condition: true }\0"), "NUL", id="nul"),
    pytest.param(lambda place: place / "missing.yar", "no such rule file", id="missing"),
    pytest.param(_folder_without, "no .yar or .yara file", id="folder-without-rules"),
    pytest.param(lambda place: Path("/dev/zero"), "larger than", id="endless"),
]


@pytest.mark.parametrize(("make", "words"), BAD_RULES)
def test_rules_that_cannot_be_used(
    kumomori: Kumomori, disks: Path, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    output = tmp_path / "report.json"
    output.write_text("yesterday's")
    place = tmp_path / "rules\nof mine"
    place.mkdir()
    line = kumomori("scan", "image", "--rules", make(place), "--output", output, disks / "clean.img").refused()
    assert words in line
    assert output.read_text() == "yesterday's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "rules\nof mine"]


def test_own_rules_are_used(kumomori: Kumomori, tmp_path: Path) -> None:
    disk = write_ext4(tmp_path / "disk.img", [file(b"/a", b"needle")])
    place = tmp_path / "rules"
    place.mkdir()
    (place / "one.yar").write_text('rule one { strings: $a = "needle" condition: $a }')
    (place / "two.yara").write_text('rule two { strings: $a = "needle" condition: $a }')
    result = kumomori("scan", "image", "--format", "json", "--rules", place, disk)
    assert result.code == 1
    assert {finding["rule"] for finding in result.report["findings"]} == {"yara/one", "yara/two"}


BAD_WORDS: list[Any] = [
    pytest.param(["--accept-gap", "everything"], "everything", id="unknown-gap"),
    pytest.param(["--accept-gap", "SWAP"], "SWAP", id="gap-in-capitals"),
    pytest.param(["--format", "xml"], "xml", id="unknown-format"),
    pytest.param(["--jobs", "0"], "--jobs", id="no-jobs"),
    pytest.param(["--jobs", "-1"], "--jobs", id="negative-jobs"),
    pytest.param(["--timeout-seconds", "0"], "--timeout-seconds", id="no-time"),
    pytest.param(["--timeout-seconds", "nan"], "--timeout-seconds", id="time-nan"),
    pytest.param(["--timeout-seconds", "inf"], "--timeout-seconds", id="time-infinite"),
    pytest.param(["--timeout-seconds", "1e300"], "--timeout-seconds", id="time-huge"),
    pytest.param(["--file-timeout-seconds", "inf"], "--file-timeout-seconds", id="file-time-infinite"),
    pytest.param(["--max-memory-bytes", "1000"], "--max-memory-bytes", id="no-memory"),
    pytest.param(["--max-memory-bytes", "9" * 30], "--max-memory-bytes", id="too-much-memory"),
    pytest.param(["--max-file-bytes", "0"], "--max-file-bytes", id="no-file-bytes"),
    pytest.param(["--nonsense"], "--nonsense", id="unknown-option"),
]


@pytest.mark.parametrize(("words", "named"), BAD_WORDS)
def test_options_that_make_no_sense(
    kumomori: Kumomori, disks: Path, tmp_path: Path, words: list[str], named: str
) -> None:
    output = tmp_path / "report"
    result = kumomori("scan", "image", *words, "--output", output, disks / "clean.img")
    assert (result.code, result.out) == (2, b"")
    assert named in result.err.decode()
    assert b"Traceback" not in result.err
    assert not output.exists()


@pytest.mark.parametrize("size", ["--max-file-bytes", "--file-timeout-seconds", "--timeout-seconds"])
def test_the_largest_numbers_that_are_taken(kumomori: Kumomori, disks: Path, size: str) -> None:
    assert kumomori("scan", "image", size, "31536000", disks / "clean.img").code == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda place: place / "no" / "report", "folder does not exist", id="no-folder"),
        pytest.param(lambda place: place, "is a folder", id="folder"),
        pytest.param(lambda place: Path("/proc/report"), "cannot write", id="proc"),
        pytest.param(lambda place: Path("/dev/full"), "No space left", id="full"),
    ],
)
def test_a_report_that_cannot_be_written(
    kumomori: Kumomori, disks: Path, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    line = kumomori("scan", "image", "--output", make(tmp_path), disks / "clean.img").refused()
    assert words in line
    assert not list(tmp_path.iterdir())


def test_a_report_replaces_the_old_one(kumomori: Kumomori, disks: Path, tmp_path: Path) -> None:
    output = tmp_path / "a report\n.json"
    output.write_text("yesterday's")
    result = kumomori("scan", "image", "--format", "json", "--output", output, disks / "bad.img")
    assert (result.code, result.out, result.err) == (1, b"", b"")
    assert json.loads(output.read_text())["findings"]
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


@pytest.mark.parametrize("form", ["table", "json", "sarif", "ocsf"])
def test_every_format(kumomori: Kumomori, disks: Path, form: str) -> None:
    result = kumomori("scan", "image", "--format", form, disks / "bad.img")
    assert (result.code, result.err) == (1, b"")
    assert b"/etc/ld.so.preload" in result.out
    if form in {"json", "sarif"}:
        json.loads(result.out)


HOSTILE_NAMES = [
    b"plain with spaces",
    b"line\nbreak",
    b"tab\tand\rreturn",
    b"escape \x1b[2J\x1b]0;owned\x07",
    b"latin \xe9\xff",
    b"back\\slash",
    b"looks \\x41 escaped",
    b"bidi \xe2\x80\xae exe.txt",
    b"lone \xed\xa0\x80 surrogate",
    b"'quote\" <b>&amp;",
    b"[red]markup[red]",
    b"\x7f\x01\xc2\x9b",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk whose own name is odd, too."""
    virus = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
    path = tmp_path_factory.mktemp("odd") / os.fsdecode(b"di\xffsk \n\x1b[2J.img")
    return write_ext4(path, [folder(b"/odd"), *(file(b"/odd/" + name, virus) for name in HOSTILE_NAMES)])


@pytest.mark.parametrize("form", ["table", "json", "sarif", "ocsf"])
def test_hostile_names(kumomori: Kumomori, hostile: Path, form: str) -> None:
    result = kumomori("scan", "image", "--format", form, hostile)
    assert (result.code, result.err) == (1, b"")
    text = result.out.decode("utf-8")
    assert all(char.isprintable() or char == "\n" for char in text)
    if form == "json":
        found = {finding["path"] for finding in result.report["findings"]}
        assert found == {escape(b"/odd/" + name) for name in HOSTILE_NAMES}
    if form == "table":
        assert text.count("malware/eicar") == len(HOSTILE_NAMES) + 1  # and once under "What to do"


@pytest.mark.parametrize("form", ["table", "jsonl"])
def test_hostile_names_in_a_listing(kumomori: Kumomori, hostile: Path, form: str) -> None:
    result = kumomori("ls", "--format", form, hostile)
    assert result.code == 0
    assert all(char.isprintable() or char == "\n" for char in result.out.decode("utf-8"))
    assert len(result.out.splitlines()) == len(HOSTILE_NAMES) + 2  # lost+found and the folder


@pytest.mark.parametrize("arguments", [[], ["-c"]], ids=["plain", "compressed"])
def test_qcow2_gives_the_same_report_as_raw(
    kumomori: Kumomori, disks: Path, tmp_path: Path, arguments: list[str]
) -> None:
    need_tool("qemu-img")
    other = tmp_path / "bad.qcow2"
    raw = disks / "bad.img"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *arguments, raw, other], check=True)
    reports = []
    for disk in (raw, other):
        report = kumomori("scan", "image", "--format", "json", disk).report
        for varies in ("target", "stats", "started", "ended", "scan"):
            report.pop(varies, None)
        reports.append(report)
    assert reports[0]["findings"]
    assert reports[0] == reports[1]


def test_jobs_do_not_change_the_report(kumomori: Kumomori, disks: Path) -> None:
    reports = []
    for jobs in ("1", "4"):
        report = kumomori("scan", "image", "--format", "json", "--jobs", jobs, disks / "bad.img").report
        reports.append({key: report[key] for key in ("findings", "gaps", "volumes")})
    assert reports[0] == reports[1]


def test_the_time_for_the_machine(kumomori: Kumomori, disks: Path) -> None:
    result = kumomori(
        "scan", "image", "--format", "json", "--timeout-seconds", "2", "--rules", disks / "slow.yar", disks / "slow.img"
    )
    assert (result.code, result.err) == (3, b"")
    assert {gap["reason"] for gap in result.report["gaps"]} == {"timeout"}
    assert len(result.report["volumes"]) == 1


def test_the_time_for_one_file(kumomori: Kumomori, disks: Path) -> None:
    rules: list[str | Path] = ["--rules", disks / "slow.yar", "--file-timeout-seconds", "1"]
    result = kumomori("scan", "image", "--format", "json", *rules, disks / "slow.img")
    assert (result.code, result.err) == (3, b"")
    (gap,) = result.report["gaps"]
    assert (gap["where"]["path"], gap["reason"]) == ("/slow", "timeout")
    assert result.report["volumes"][0]["files"] == 3


def test_a_file_larger_than_the_memory(kumomori: Kumomori, tmp_path: Path) -> None:
    # in two pieces, so that it cannot be lent from the disk but must be put together
    big = b"a" * 4096 + bytes(200 * MIB) + b"z"
    disk = write_ext4(tmp_path / "disk.img", [file(b"/big", big), file(b"/small", b"s")], 16 * MIB)
    result = kumomori("scan", "image", "--format", "json", "--max-memory-bytes", str(128 * MIB), disk)
    assert (result.code, result.err) == (3, b"")
    (gap,) = result.report["gaps"]
    assert (gap["where"]["path"], gap["reason"]) == ("/big", "out_of_memory")
    assert result.report["volumes"][0]["files"] == 3


def test_progress_is_silent_on_a_pipe_and_drawn_on_a_terminal(disks: Path) -> None:
    words: list[str | Path] = ["--rules", disks / "slow.yar", "--file-timeout-seconds", "1", disks / "slow.img"]
    assert command("scan", "image", *words).err == b""
    ours, theirs = pty.openpty()
    try:
        environment = os.environ | {"TERM": "xterm"}
        done = subprocess.run(
            [Path(sys.executable).parent / "kumomori", "scan", "image", *words],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment,
        )
        drawn = os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 3
    assert b"Scanning" in drawn
    assert b"files" in drawn
    assert b"Scanning" not in done.stdout


def test_rules_that_ask_for_the_name(kumomori: Kumomori, disks: Path, tmp_path: Path) -> None:
    rules = tmp_path / "names.yar"
    rules.write_text(
        'rule by_name { condition: filename == "passwd" and filepath == "/etc/passwd" }'
        ' rule by_owner { condition: extension == ".php" and owner == "33" }'
        ' rule never { condition: filename == "" }'
    )
    result = kumomori("scan", "image", "--format", "json", "--rules", rules, disks / "bad.img")
    found = {(finding["rule"], finding["path"]) for finding in result.report["findings"]}
    assert ("yara/by_name", "/etc/passwd") in found
    assert ("yara/by_owner", "/var/www/html/uploads/cache.php") in found
    assert "yara/never" not in {rule for rule, _ in found}


def test_a_rule_file_given_twice_counts_once(kumomori: Kumomori, disks: Path, tmp_path: Path) -> None:
    (tmp_path / "all.yar").write_text("rule sized { condition: filesize == 68 }")
    both = ("--rules", tmp_path, "--rules", tmp_path / "all.yar")
    result = kumomori("scan", "image", "--format", "json", disks / "bad.img", *both)
    found = [finding["path"] for finding in result.report["findings"] if finding["rule"] == "yara/sized"]
    assert "/home/ci/eicar.com" in found
    assert len(found) == len(set(found))


def test_rules_in_a_folder_that_cannot_be_searched(kumomori: Kumomori, disks: Path) -> None:
    assert "/proc" in kumomori("scan", "image", disks / "clean.img", "--rules", "/proc").refused()


def _image_itself(disk: Path, _rules: Path) -> Path:
    return disk


def _link_to_the_image(disk: Path, _rules: Path) -> Path:
    link = disk.with_name("link")
    link.symlink_to(disk)
    return link


def _second_name_of_the_image(disk: Path, _rules: Path) -> Path:
    name = disk.with_name("name")
    name.hardlink_to(disk)
    return name


def _rule_file(_disk: Path, rules: Path) -> Path:
    return rules


@pytest.mark.parametrize("target", [_image_itself, _link_to_the_image, _second_name_of_the_image, _rule_file])
def test_no_report_replaces_what_is_scanned(
    kumomori: Kumomori, disks: Path, tmp_path: Path, target: Callable[[Path, Path], Path]
) -> None:
    disk = shutil.copyfile(disks / "clean.img", tmp_path / "disk.img")
    rules = tmp_path / "own.yar"
    rules.write_text("rule own { condition: false }")
    line = kumomori("scan", "image", disk, "--rules", rules, "--output", target(disk, rules)).refused()
    assert "files that are scanned" in line
    assert disk.read_bytes() == (disks / "clean.img").read_bytes()
    assert rules.read_text() == "rule own { condition: false }"


def test_no_report_replaces_a_backing_file(kumomori: Kumomori, disks: Path, tmp_path: Path) -> None:
    need_tool("qemu-img")
    base = shutil.copyfile(disks / "clean.img", tmp_path / "base.img")
    overlay = tmp_path / "overlay.qcow2"
    options = ["-q", "-f", "qcow2", "-F", "raw", "-b", "base.img", str(overlay)]
    subprocess.run(["qemu-img", "create", *options], check=True, timeout=60)
    assert "files that are scanned" in kumomori("scan", "image", overlay, "--output", base).refused()
    assert base.read_bytes() == (disks / "clean.img").read_bytes()
