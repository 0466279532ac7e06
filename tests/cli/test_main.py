from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.commands import KUMOMORI, Kumomori, command, started
from tests.scanner.sandboxed import file, session, wait_gone, write_ext4


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["scan", "image", "--help"], id="scan-image"),
        pytest.param(["ls", "--help"], id="ls"),
        pytest.param(["cat", "--help"], id="cat"),
        pytest.param(["scan", "--help"], id="scan"),
        pytest.param(["--help"], id="kumomori"),
    ],
)
def test_help(kumomori: Kumomori, words: list[str]) -> None:
    result = kumomori(*words)
    assert (result.code, result.err) == (0, b"")
    if words[:-1] not in ([], ["scan"]):
        assert b"Exits 0" in result.out
    assert "xit" in result.out.decode()


def test_version(kumomori: Kumomori) -> None:
    result = kumomori("--version")
    assert (result.code, result.err) == (0, b"")
    assert result.out.startswith(b"kumomori ")
    assert result.out[9:10].isdigit()


@pytest.mark.parametrize("words", [[], ["scan"], ["scan", "image"], ["ls"], ["cat", "x"], ["nonsense"]])
def test_too_few_words_exit_2(kumomori: Kumomori, words: list[str]) -> None:
    assert kumomori(*words).code == 2


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _parser_at_work(pid: int) -> int:
    """The parser of the command `pid`, once it has a worker."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in _children(pid):
            if len(session(child)) > 1 and (Path(f"/proc/{child}/status").read_text().count("Seccomp:\t2")):
                return child
        time.sleep(0.02)
    raise AssertionError("no worker was started")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, id="term"),
        pytest.param(signal.SIGINT, 130, id="ctrl-c"),
        pytest.param(signal.SIGKILL, -9, id="kill"),
        pytest.param(signal.SIGHUP, -1, id="terminal-closed"),
    ],
)
def test_ended_in_the_middle_of_a_scan(disks: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    output = tmp_path / "report"
    output.write_text("yesterday's")
    words: list[str | Path] = ["--rules", disks / "slow.yar", "--output", output, disks / "slow.img"]
    with started("scan", "image", *words, stderr=subprocess.PIPE) as process:
        parser = _parser_at_work(process.pid)
        process.send_signal(number)
        assert process.wait(timeout=20) == code
        assert wait_gone([parser], 5) == []
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert output.read_text() == "yesterday's"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("words", [["ls", "--format", "jsonl"], ["ls"], ["cat"], ["scan", "image", "--format", "json"]])
@pytest.mark.slow
def test_a_reader_that_has_seen_enough(tmp_path: Path, words: list[str]) -> None:
    virus = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
    nodes = [file(b"/%0200d" % number, virus, key="same") for number in range(2000)]
    disk = write_ext4(tmp_path / "disk.img", [*nodes, file(b"/big", b"x" * (4 << 20))])
    tail = ["/big"] if words == ["cat"] else []
    with started(*words, disk, *tail, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 141


@pytest.mark.parametrize(
    "closed", [pytest.param(0, id="stdin"), pytest.param(1, id="stdout"), pytest.param(2, id="stderr")]
)
def test_closed_standard_streams(disks: Path, closed: int) -> None:
    def close() -> None:
        os.close(closed)

    streams = {0: subprocess.DEVNULL, 1: subprocess.PIPE, 2: subprocess.PIPE}
    done = subprocess.run(
        [KUMOMORI, "scan", "image", disks / "clean.img"],
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        preexec_fn=close,
    )
    # the disk must not get a number that the parser's own streams take over
    assert done.returncode == (0 if closed == 0 else 2)
    assert b"Traceback" not in done.stderr


def test_an_ascii_terminal(disks: Path) -> None:
    result = command(
        "scan", "image", disks / "clean.img", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    )
    assert (result.code, result.err) == (0, b"")
    listing = command("ls", disks / "clean.img", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert (listing.code, listing.err) == (0, b"")


def test_the_environment_does_not_reach_the_parser(disks: Path) -> None:
    environment = os.environ | {"SECRET_KEY": "hunter2", "PYTHONSTARTUP": "/nonexistent", "LD_BIND_NOW": "1"}
    words: list[str | Path] = ["--rules", disks / "slow.yar", disks / "slow.img"]
    with started("scan", "image", *words, env=environment, stdout=subprocess.DEVNULL) as process:
        parser = _parser_at_work(process.pid)
        seen = Path(f"/proc/{parser}/environ").read_bytes()
        assert b"hunter2" not in seen
        assert seen == b""


def test_the_sdk_of_a_cloud_is_loaded_only_by_commands_that_enter_it() -> None:
    """It takes as long as all the rest of the start."""
    words = "import sys, cli.main, scanner.parser; print(sorted({'boto3', 'botocore', 'urllib3'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, check=True)
    assert done.stdout == b"[]\n"
