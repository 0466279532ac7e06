"""What stays beside a file that was being written when its writer was killed: nothing, from the next run on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import ConfigError
from scanner.images import FileSource
from scanner.machine import ManifestFile
from scanner.manifest.file import Reader
from scanner.reports import files
from scanner.reports.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]

# Stops itself at the moment it is told, so that it can be killed there: a call of `os` or of the file, counted.
WRITER = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from scanner.reports import files
from scanner.machine import ManifestFile
target, way, moment = Path(sys.argv[2]), sys.argv[3], sys.argv[4]
if way == "named":
    files._OPEN_FDS = "/nonexistent"
def stop(*_, **__):
    print("there", flush=True)
    signal.pause()
real = getattr(os, moment, None) if moment in ("fsync", "link") else None
if moment == "link" and way == "unnamed":
    def link(*words, **named):
        real(*words, **named)
        stop()
    os.link = link
elif moment == "fsync":
    os.fsync = stop
elif moment == "replace":
    Path.replace = stop
with ManifestFile(target, set()) as manifest:
    manifest.add(0, 1, 2, 2, bytes(3000))
    if moment == "writing":
        stop()
    manifest.finish({"scan": "new"})
print("done", flush=True)
"""


def start(target: Path, way: str, moment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(ROOT), str(target), way, moment], stdout=subprocess.PIPE, text=True
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("way", "moment"),
    [
        *(("unnamed", moment) for moment in ("writing", "fsync", "link", "replace")),
        *(("named", moment) for moment in ("writing", "fsync", "replace")),  # a file with a name is not linked
    ],
)
def test_killed_at_each_moment(tmp_path: Path, way: str, moment: str) -> None:
    target = tmp_path / "manifest"
    with ManifestFile(target, set()) as manifest:
        manifest.finish({"scan": "old"})
    process = start(target, way, moment)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    while_written = names(tmp_path)
    write_atomically(tmp_path / "report", lambda stream: stream.writelines("x"))
    assert names(tmp_path) == while_written | {"report"}, "a file is not removed as long as its writer lives"
    process.kill()
    process.wait()
    process.stdout.close()
    if way == "unnamed" and moment in {"writing", "fsync"}:
        assert names(tmp_path) == {"manifest", "report"}
    with FileSource.open(target) as source:
        assert Reader(source).facts == {"scan": "old"}
    with ManifestFile(target, set()) as manifest:
        assert len(names(tmp_path) - {"manifest", "report"}) <= 1
    assert names(tmp_path) == {"manifest", "report"}
    assert (target.stat().st_mode & 0o777) == 0o600


@pytest.mark.parametrize("way", ["unnamed", "named"])
def test_killed_at_any_moment(tmp_path: Path, way: str) -> None:
    target = tmp_path / "manifest"
    for turn in range(6):
        process = start(target, way, "none")
        time.sleep(0.02 + turn * 0.04)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if target.exists():
            with FileSource.open(target) as source:
                assert Reader(source).facts == {"scan": "new"}
    with ManifestFile(target, set()):
        pass
    assert names(tmp_path) <= {"manifest"}


def test_only_what_is_ours_is_removed(tmp_path: Path) -> None:
    kept = [tmp_path / ".kumomori-0123456789abcdef.tmp.txt", tmp_path / ".kumomori-x.tmp", tmp_path / "other"]
    for path in kept:
        path.write_text("")
    (tmp_path / ".kumomori-0123456789abcdef.tmp").mkdir()
    os.mkfifo(tmp_path / ".kumomori-0123456789abcde0.tmp")
    (tmp_path / ".kumomori-0123456789abcde1.tmp").symlink_to(tmp_path / "other")
    (tmp_path / ".kumomori-0123456789abcde2.tmp").write_text("left")
    before = names(tmp_path)
    files.remove_abandoned(tmp_path)
    assert before - names(tmp_path) == {".kumomori-0123456789abcde2.tmp"}


@pytest.mark.parametrize("kind", ["fifo", "folder", "-", "/dev/stdout", "/dev/null"])
def test_a_manifest_takes_the_place_of_nothing_but_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind if not kind.startswith(("-", "/")) else Path(kind)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(ConfigError, match="give a file"):
        ManifestFile(path, set())
    assert kind == "-" or not path.is_file() or path.samefile("/dev/stdout")


def test_a_manifest_behind_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "manifest")
    with ManifestFile(tmp_path / "link", set()) as manifest:
        manifest.finish({"scan": "new"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "manifest").is_file()
