"""What the tests of parser processes share: disks, an evil parser in place of the real one, and who is left behind."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import UUID

import pytest

from demo.ext4 import Node, Options, write
from scanner import sandbox
from scanner.disks import Disk, open_disk
from scanner.sandbox import Outcome

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def file(path: bytes, content: bytes = b"", **others: object) -> Node:
    return Node(path, stat.S_IFREG | 0o644, content=content, **others)  # type: ignore[arg-type]


def folder(path: bytes) -> Node:
    return Node(path, stat.S_IFDIR | 0o755)


def write_ext4(path: Path, nodes: list[Node], size: int = 16 * MIB) -> Path:
    """An ext4 filesystem that fills the file `path`."""
    with path.open("wb") as out:
        out.truncate(size)
        write(out, nodes, Options(size, UUID(int=1), 1_767_225_600))
    return path


@contextmanager
def opened(*paths: Path) -> Iterator[list[Disk]]:
    disks = [open_disk(path) for path in paths]
    try:
        yield disks
    finally:
        for disk in disks:
            os.close(disk.fd)


class Started:
    """The parsers that were started while it watches; `command` replaces what they run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pids: list[int] = []
        self.command: str | None = None
        popen = subprocess.Popen

        def start(
            attempt: sandbox._Attempt, theirs: socket.socket, stderr: IO[bytes], sockets: Sequence[int]
        ) -> subprocess.Popen[bytes]:
            what = ["-m", "scanner.parser"] if self.command is None else ["-c", self.command]
            process = popen(
                [sys.executable, "-I", "-X", "utf8", *what, str(theirs.fileno()), str(os.getpid())],
                env={},
                cwd="/",
                pass_fds=[
                    *(theirs.fileno(), *sockets, *attempt._support.manifests),
                    *(disk.fd for disk in (*attempt._disks, *attempt._support.old_disks) if isinstance(disk, Disk)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
            self.pids.append(process.pid)
            return process

        monkeypatch.setattr(sandbox._Attempt, "_start", start)

    def misbehave(self, where: str, act: str) -> None:
        """From now on the parser does `act` at `where`: see `evil_parser`."""
        self.command = (
            f"import sys; sys.path[:0] = [{str(ROOT)!r}]; from tests.scanner import evil_parser; "
            f"evil_parser.main({where!r}, {act!r})"
        )

    def assert_gone(self) -> None:
        assert self.pids
        assert not wait_gone(self.pids, 5)  # they are killed by now, but the kernel takes its time


def session(leader: int) -> list[int]:
    """The living processes of the session that `leader` began, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def wait_gone(leaders: list[int], seconds: float) -> list[int]:
    """Who is still there after `seconds`; returns early if nobody is."""
    deadline = time.monotonic() + seconds
    while (left := [pid for leader in leaders for pid in session(leader)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def reasons(outcome: Outcome) -> list[tuple[str, str]]:
    """Where and why of every gap."""
    return [(str(gap.where), gap.reason.value) for gap in outcome.gaps]
