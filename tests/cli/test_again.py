"""`kumomori diff` and `kumomori cache`, and the options of `scan image` for scans that build on others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.cli.commands import KUMOMORI
from tests.scanner.sandboxed import file, write_ext4

pytestmark = pytest.mark.slow  # each test is several commands

DOCS = Path(__file__).resolve().parents[2] / "docs"
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR" + b"-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


def kumomori(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(KUMOMORI), *words], capture_output=True, text=True, timeout=120)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write_ext4(
        tmp_path / "old.img",
        [file(b"/same", b"1"), file(b"/gone\x1b[2J", b"2"), file(b"/edited", b"33"), file(b"/n", b"4")],
    )


@pytest.fixture
def new(tmp_path: Path) -> Path:
    nodes = [file(b"/same", b"1"), file(b"/edited", b"34", uid=7), file(b"/n", EICAR), file(b"/come", b"5")]
    return write_ext4(tmp_path / "new.img", nodes)


def test_diff_of_two_disks(old: Path, new: Path) -> None:
    done = kumomori("diff", str(old), str(new))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == ["+ /come", "* /edited", "- /gone\\x1b[2J", "* /n"]
    assert "content" in lines[1]
    assert "owner 0:0 -> 7:0" in lines[1]
    assert "size 1 -> 68" in lines[3]
    assert lines[-1] == "1 added, 1 removed, 2 changed."
    assert "\x1b" not in done.stdout


def test_diff_of_manifests_says_the_same(old: Path, new: Path, tmp_path: Path) -> None:
    for disk in (old, new):
        kumomori("scan", "image", str(disk), "--manifest", str(disk.with_suffix(".m")))
    manifests = [str(disk.with_suffix(".m")) for disk in (old, new)]
    assert kumomori("diff", *manifests).stdout == kumomori("diff", str(old), str(new)).stdout
    assert kumomori("diff", manifests[0], str(old)).stdout == "Nothing differs.\n"
    assert (old.with_suffix(".m").stat().st_mode & 0o777) == 0o600


@pytest.mark.parametrize("same", [True, False])
def test_diff_as_json(old: Path, new: Path, same: bool) -> None:
    done = kumomori("diff", str(old), str(old if same else new), "--format", "json")
    assert done.returncode == (0 if same else 1)
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads((DOCS / "diff.schema.json").read_text()))
    assert len(document["changes"]) == (0 if same else 4)


def test_diff_of_what_is_nothing(old: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(b"KUMOMANI" + bytes(9))
    done = kumomori("diff", str(old), str(tmp_path / "cut"))
    assert (done.returncode, done.stdout) == (3, "") or done.returncode == 2 or "gap" in done.stdout
    assert "Nothing differs." not in done.stdout
    done = kumomori("diff", str(old), str(tmp_path / "none"))
    assert done.returncode == 2
    assert "no such file" in done.stderr


def test_diff_of_two_machines(old: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    subprocess.run([sys.executable, "-m", "demo.disk", "--clean", str(other)], check=True, capture_output=True)
    done = kumomori("diff", str(old), str(other))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "two machines" in done.stderr


def test_diff_with_a_disk_that_is_not_understood(old: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.img"
    odd.write_bytes(b"no filesystem" * 1000)
    for pair in ((old, odd), (odd, old), (odd, odd)):
        done = kumomori("diff", *map(str, pair))
        assert done.returncode == 3
        assert "unrecognised" in done.stdout
        assert "crashed" not in done.stdout
        assert "Nothing differs in what could be read; " in done.stdout


def test_the_cache_commands(old: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    kumomori("scan", "image", str(old), "--cache", cache, "--machine", "web-1")
    shown = json.loads(kumomori("cache", "show", cache, "--format", "json").stdout)
    assert shown["verdicts"] == 4
    assert shown["machines"] == [{"machine": "web-1", "verdicts": 4}]
    assert "4  web-1" in kumomori("cache", "show", cache).stdout
    assert kumomori("cache", "revoke", cache, "--machine", "web-2").stdout == "0 verdicts revoked.\n"
    assert kumomori("cache", "revoke", cache, "--since", "2020-01-01").stdout == "4 verdicts revoked.\n"
    assert kumomori("cache", "trim", cache, "--most-bytes", "0").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["revoke", "CACHE"], "say whose", id="no-criterion"),
        pytest.param(["revoke", "CACHE", "--since", "yesterday"], "is no time", id="no-time"),
        pytest.param(["show", "NONE"], "holds no verdicts", id="no-cache"),
    ],
)
def test_cache_commands_that_are_refused(old: Path, tmp_path: Path, words: list[str], said: str) -> None:
    kumomori("scan", "image", str(old), "--cache", str(tmp_path / "CACHE"))
    done = kumomori("cache", *(str(tmp_path / word) if word.isupper() else word for word in words))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--changed", "EXTENTS"], "give its manifest with --base", id="changed-without-base"),
        pytest.param(["--full"], "give its manifest with --base", id="full-without-base"),
        pytest.param(["--base", "MANIFEST"], "either --changed or --base-image", id="base-alone"),
        pytest.param(
            ["--base", "MANIFEST", "--changed", "EXTENTS", "--base-image", "DISK"],
            "either --changed or --base-image",
            id="both",
        ),
        pytest.param(["--base", "NONE", "--changed", "EXTENTS"], "cannot be read", id="no-manifest"),
        pytest.param(["--base", "MANIFEST", "--changed", "MANIFEST"], "is not JSON", id="no-extents"),
        pytest.param(["--base", "DISK", "--changed", "EXTENTS"], "--full", id="a-disk-for-a-manifest"),
        pytest.param(["--manifest", "DISK"], "one of the files that are scanned", id="over-the-disk"),
        pytest.param(["--manifest", "NONE/x"], "folder does not exist", id="no-folder"),
        pytest.param(["--cache", "DISK"], "not a folder", id="cache-is-a-file"),
    ],
)
def test_scans_that_cannot_start(old: Path, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "EXTENTS").write_text("[]")
    (tmp_path / "DISK").write_bytes(old.read_bytes())
    kumomori("scan", "image", str(tmp_path / "DISK"), "--manifest", str(tmp_path / "MANIFEST"))
    before = (tmp_path / "DISK").read_bytes()
    given = [str(tmp_path / word) if word.split("/")[0].isupper() else word for word in words]
    done = kumomori("scan", "image", str(tmp_path / "DISK"), *given)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert (tmp_path / "DISK").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_table_says_what_was_done(old: Path, tmp_path: Path) -> None:
    (tmp_path / "extents").write_text("[]")
    base = str(tmp_path / "base")
    kumomori("scan", "image", str(old), "--manifest", base)
    done = kumomori("scan", "image", str(old), "--base", base, "--changed", str(tmp_path / "extents"))
    assert "files carried over, 0 gone" in " ".join(done.stdout.split())
    (tmp_path / "extents").write_text('[{"offset": 99999999999, "length": 1}]')
    done = kumomori("scan", "image", str(old), "--base", base, "--changed", str(tmp_path / "extents"), "--full")
    assert "not used: the changed extents end" in " ".join(done.stdout.split())
