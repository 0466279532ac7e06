"""Runs the `kumomori` command: in this process, which is fast, or as a process of its own, which is the real thing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import main

KUMOMORI = Path(sys.executable).parent / "kumomori"
# YARA gives up only at its own deadline; it is asked for one file alone, of this size
SLOW_BYTES = 4321
SLOW_RULE = f"rule slow {{ condition: filesize == {SLOW_BYTES} and for all i in (1..1000000000000) : (i > 0) }}"


@dataclass(frozen=True)
class Result:
    """What a command left: `lines` are those of stderr."""

    code: int
    out: bytes
    err: bytes

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def refused(self) -> str:
        """The one line of a command that could not start."""
        assert self.code == 2, self
        assert self.out == b""
        lines = self.err.decode().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("kumomori: ")
        assert lines[0].isprintable()
        return lines[0]


class Kumomori:
    """Calls the command's entry point with the streams of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes]) -> None:
        self._monkeypatch = monkeypatch
        self._capture = capture

    def __call__(self, *arguments: str | Path) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["kumomori", *map(str, arguments)])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        out, err = self._capture.readouterr()
        assert isinstance(code, int)
        return Result(code, out, err)


def command(*arguments: str | Path | bytes, timeout: float = 60, **others: Any) -> Result:
    """As a process of its own."""
    done = subprocess.run([KUMOMORI, *arguments], capture_output=True, timeout=timeout, **others)
    return Result(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(*arguments: str | Path, **others: Any) -> Iterator[subprocess.Popen[bytes]]:
    """As a process that is still running; it is dead afterwards."""
    as_from_a_terminal = ("env", "--default-signal=INT,HUP")  # whatever runs the tests may have had them ignored
    with subprocess.Popen([*as_from_a_terminal, KUMOMORI, *arguments], **others) as process:
        try:
            yield process
        finally:
            process.kill()
