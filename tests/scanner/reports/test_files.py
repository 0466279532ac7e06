from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

import pytest

from core.errors import ConfigError
from scanner.reports import files
from scanner.reports.files import check_target, write_atomically

WRITER = """
import sys, time
from pathlib import Path
from scanner.reports.files import write_atomically
def half(stream):
    stream.write("new" * 100000)
    stream.flush()
    print("half", flush=True)
    time.sleep(60)
write_atomically(Path(sys.argv[1]), half)
"""


@pytest.fixture(params=["unnamed", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to make the temporary file, on any filesystem."""
    if request.param == "named":
        monkeypatch.setattr(files, "_OPEN_FDS", "/nonexistent")
    return str(request.param)


def _new(stream: TextIO) -> None:
    stream.write("new 日\n")


def _fail(stream: TextIO) -> None:
    stream.write("half")
    stream.flush()
    raise RuntimeError("no more")


@pytest.mark.parametrize("old", [pytest.param(None, id="new-file"), pytest.param("old", id="replaces")])
def test_writes(tmp_path: Path, way: str, old: str | None) -> None:
    target = tmp_path / "report.json"
    if old is not None:
        target.write_text(old)
    previous = os.umask(0o027)
    try:
        write_atomically(target, _new)
    finally:
        os.umask(previous)
    assert target.read_text(encoding="utf-8") == "new 日\n"
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["report.json"]


@pytest.mark.parametrize("old", [pytest.param(None, id="new-file"), pytest.param("old", id="old-stays")])
def test_a_failure_leaves_nothing(tmp_path: Path, way: str, old: str | None) -> None:
    target = tmp_path / "report.json"
    if old is not None:
        target.write_text(old)
    with pytest.raises(RuntimeError, match="no more"):
        write_atomically(target, _fail)
    assert os.listdir(tmp_path) == ([] if old is None else ["report.json"])
    if old is not None:
        assert target.read_text() == old


def test_a_failed_rename_leaves_nothing(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ConfigError, match="No space left"):
        write_atomically(tmp_path / "report.json", _new)
    assert os.listdir(tmp_path) == []


def test_a_filesystem_without_unnamed_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def without(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", without)
    write_atomically(tmp_path / "report.json", _new)
    assert os.listdir(tmp_path) == ["report.json"]


def test_killed_half_way(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".kumomori-")] == ["report.json"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param(".", "it is a folder", id="folder"),
        pytest.param("missing/report.json", "its folder does not exist", id="no-folder"),
        pytest.param("file/report.json", "its folder does not exist", id="folder-is-a-file"),
        pytest.param("x" * 300, "File name too long", id="long-name"),
    ],
)
def test_refuses(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=words):
        write_atomically(tmp_path / name, _new)
    assert os.listdir(tmp_path) == ["file"]


def test_a_symbolic_link_to_itself_is_replaced(tmp_path: Path, way: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    write_atomically(tmp_path / "loop", _new)
    assert (tmp_path / "loop").read_text(encoding="utf-8") == "new 日\n"
    assert os.listdir(tmp_path) == ["loop"]


def test_check_target_says_it_early(tmp_path: Path) -> None:
    check_target(Path("-"))
    check_target(tmp_path / "report.json")
    check_target(Path("/dev/null"))
    with pytest.raises(ConfigError, match="folder"):
        check_target(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_control_character_in_the_name_is_not_printed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_target(tmp_path / "\x1b[2J\n" / "report.json")
    assert str(caught.value).isprintable()


def test_a_longest_name(tmp_path: Path, way: str) -> None:
    write_atomically(tmp_path / ("x" * 255), _new)
    assert os.listdir(tmp_path) == ["x" * 255]


def test_a_symbolic_link_stays(tmp_path: Path, way: str) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", _new)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text(encoding="utf-8") == "new 日\n"


def test_devices_stay_devices() -> None:
    write_atomically(Path("/dev/null"), _new)
    assert Path("/dev/null").is_char_device()
    with pytest.raises(ConfigError, match="No space left"):
        write_atomically(Path("/dev/full"), _new)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, _new)
    reader.join(timeout=30)
    assert got == ["new 日\n".encode()]
    assert pipe.is_fifo()


def test_an_open_pipe_by_its_number() -> None:
    read_end, write_end = os.pipe()
    try:
        write_atomically(Path(f"/dev/fd/{write_end}"), _new)
        assert os.read(read_end, 100) == "new 日\n".encode()
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_standard_output(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_atomically(Path(name), _new)
    assert capsys.readouterr().out == "new 日\n"


def test_standard_output_that_knows_ascii_only() -> None:
    program = "from pathlib import Path; from scanner.reports.files import write_atomically as w; w(Path('-'), lambda s: s.write('日'))"
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, check=True)
    assert done.stdout == b"\\u65e5"
