"""The parent's side of a parser process: start it, believe nothing it says, outlive it, and finish the report.

Whatever happens to the parser, the caller gets an `Outcome`: what was found until then, and a gap for what was not
looked at. After a crash in one volume a new parser goes on with the others.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Final, Protocol

from core.errors import ConfigError, Unsupported
from core.findings import Finding, Gap, GapReason, InVolume, Location, Machine
from core.text import printable
from scanner.disks import Disk, Identity, identity, open_backing
from scanner.gaps import GapLog
from scanner.guards import Guard
from scanner.job import Job, Task
from scanner.process import cause, end, has_ended
from scanner.wire import (
    MAX_VOLUMES,
    FrameReader,
    Message,
    WireError,
    dump,
    finding_in,
    frame,
    gap_in,
    int_in,
    load,
    row_in,
    text_in,
)

MAX_FINDINGS: Final = 100_000
MAX_FINDING_BYTES: Final = 256 << 20  # all findings together, as JSON
_WISHES_PER_DISK: Final = 20  # backing files that a parser may ask for; chains of more than 16 are not read
_LOOK_SECONDS: Final = 0.5  # how often a silent parser is looked after
_SEND_SECONDS: Final = 30.0  # a parser that does not read what it asked for is broken
_MAX_RESTARTS: Final = 16


@dataclass(slots=True)
class VolumeState:
    """A volume as far as it was looked at. `files` are names, `size` the bytes of their distinct files."""

    index: int
    disk: int
    table: str
    start: int
    length: int
    filesystem: str | None
    label: str
    uuid: str
    files: int = 0
    size: int = 0
    finished: bool = False


@dataclass(slots=True)
class Outcome:
    """What came of a task. `sizes` are the disks' sizes in bytes as their format gives them."""

    volumes: dict[int, VolumeState] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    gaps: GapLog = field(default_factory=GapLog)
    finding_bytes: int = 0
    guards: tuple[Guard, ...] = ()
    sizes: list[int] = field(default_factory=list)
    bytes_read: int = 0
    rules: int = 0
    inputs: set[Identity] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `all` inodes; `files` names and `size` bytes so far."""

    files: int
    size: int
    done: int
    all: int


class Listener(Protocol):
    """Who is told while it happens."""

    def progress(self, progress: Progress) -> None: ...
    def row(self, row: Message) -> None: ...
    def data(self, chunk: bytes) -> None: ...


class Silent:
    """Listens to nothing."""

    def progress(self, progress: Progress) -> None: ...
    def row(self, row: Message) -> None: ...
    def data(self, chunk: bytes) -> None: ...


def run(disks: Sequence[Disk], job: Job, *, timeout_seconds: float, listener: Listener | None = None) -> Outcome:
    """Do `job` on the disks of one machine in a parser process of its own.

    Raises `ConfigError` if the operator's settings cannot be carried out (a rule that does not compile, a file that is
    not there). Nothing is left running when this returns or raises.
    """
    outcome = Outcome()
    deadline = time.monotonic() + timeout_seconds
    for _ in range(_MAX_RESTARTS):
        attempt = _Attempt(disks, job, outcome, listener or Silent())
        lost = attempt.run(deadline)
        if lost is None:
            if job.task is not Task.CAT:
                _unfinished(outcome, job.skip, GapReason.CRASHED)
            return outcome
        where, reason, detail = lost
        if attempt.wrote:
            where = Machine()  # begun again, the output would have its start twice
        outcome.gaps.add(Gap(where, reason, detail))
        if not isinstance(where, InVolume) or time.monotonic() >= deadline:
            if job.task is not Task.CAT:
                _unfinished(outcome, job.skip, reason)
            return outcome
        finished = {volume.index for volume in outcome.volumes.values() if volume.finished}
        job = replace(job, skip=job.skip | finished | {where.volume})
    outcome.gaps.add(
        Gap(Machine(), GapReason.CRASHED, f"the parser died {_MAX_RESTARTS} times; it was not started again")
    )
    return outcome


def _unfinished(outcome: Outcome, known: frozenset[int], reason: GapReason) -> None:
    """A gap for each volume that was begun and not done, but for those already `known`."""
    for volume in outcome.volumes.values():
        if volume.filesystem and not volume.finished and volume.index not in known:
            outcome.gaps.add(Gap(InVolume(volume.index), reason, "not all of it was looked at"))


class _Gone(Exception):
    """The parser closed its end of the socket."""


class _Attempt:
    """One parser process, from start to end."""

    def __init__(self, disks: Sequence[Disk], job: Job, outcome: Outcome, listener: Listener) -> None:
        self._disks = disks
        self._job = job
        self._outcome = outcome
        self._listener = listener
        self._reader = FrameReader()
        self._at: Location = Machine()
        self._done = False
        self._refused: str | None = None
        self._exhausted: str | None = None
        self._wishes = 0
        self._rows: list[Message] = []
        self._progress: Progress | None = None
        self.wrote = False

    def run(self, deadline: float) -> tuple[Location, GapReason, str] | None:
        """None if it came to its end, else where it was and what ended it."""
        ours, theirs = socket.socketpair()
        with ours, tempfile.TemporaryFile() as stderr:
            with theirs:
                process = self._start(theirs, stderr)
            broken: str | None = None
            timed_out = False
            try:
                ours.settimeout(_SEND_SECONDS)
                _send(ours, {"job": self._job.to_message(), "fds": [disk.fd for disk in self._disks]})
                timed_out = not self._listen(ours, process.pid, deadline)
            except WireError as error:
                broken = str(error)
            except _Gone:
                pass
            finally:
                status = end(process, kill=not self._done)
            if self._refused is not None:
                raise ConfigError(self._refused)
            if timed_out:
                return Machine(), GapReason.TIMEOUT, "the time for the whole scan was used up"
            if broken:
                return self._at, GapReason.CRASHED, f"the parser broke the protocol ({broken}) and was ended"
            if self._exhausted is not None:
                return self._at, GapReason.OUT_OF_MEMORY, self._exhausted
            if status is None:
                return self._at, GapReason.CRASHED, "the parser closed its connection and was ended"
            if self._done:
                return None
            return self._at, *cause(status, stderr)

    def _start(self, theirs: socket.socket, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-X", "utf8", "-m", "scanner.parser", str(theirs.fileno()), str(os.getpid())]
        return subprocess.Popen(
            command,
            env={},  # no credential of ours, whatever we were started with
            cwd="/",
            pass_fds=[theirs.fileno(), *(disk.fd for disk in self._disks)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,  # so that it and its workers can be ended as one group
        )

    def _listen(self, connection: socket.socket, pid: int, deadline: float) -> bool:
        """Until the parser is done or gone; False if the deadline came first."""
        while not self._done and self._refused is None and self._exhausted is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if not select.select([connection], [], [], min(left, _LOOK_SECONDS))[0]:
                if has_ended(pid):
                    return True  # something it forked holds the socket open
                continue
            try:
                data = connection.recv(1 << 20)
            except OSError as error:
                raise _Gone from error
            if not data:
                return True
            self._reader.feed(data)
            while (found := self._reader.next()) is not None:
                kind, body = found
                if kind == b"D":
                    self.wrote = True
                    self._listener.data(body)
                else:
                    self._hear(connection, load(body))
                    self._tell()
        return True

    def _hear(self, connection: socket.socket, message: Message) -> None:
        outcome = self._outcome
        try:
            match message.get("kind"):
                case None:
                    self._answer(message)
                case "progress":
                    figures = [int_in(message[key]) for key in ("files", "bytes", "done", "all")]
                    self._progress = Progress(*figures)
                case "gap":
                    outcome.gaps.add(gap_in(message["gap"]))
                case "ready":
                    outcome.guards = tuple(
                        Guard(text_in(one["name"]), active=bool(one["active"]), detail=text_in(one["detail"]))
                        for one in message["guards"][:100]
                    )
                case "rules":
                    outcome.rules = int_in(message["count"])
                case "disks":
                    outcome.sizes = [int_in(size) for size in message["sizes"]][: len(self._disks)]
                case "indexing" | "working":
                    self._at = InVolume(int_in(message["volume"], MAX_VOLUMES))
                case "volume":
                    self._volume(message)
                case "finished":
                    outcome.volumes[int_in(message["volume"])].finished = True
                    self._at = Machine()
                case "open":
                    self._open(connection, int_in(message["disk"]), text_in(message["name"]))
                case "refused":
                    if self._job.task is not Task.CAT and outcome.sizes:
                        raise WireError("a refusal in the middle of the work")
                    self._refused = printable(text_in(message["message"]))
                case "exhausted":
                    self._exhausted = printable(text_in(message["message"]))
                case "done":
                    outcome.bytes_read += int_in(message["bytes_read"])
                    self._done = True
                case _:
                    raise WireError("a message of an unknown kind")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WireError("a message that lacks what it must hold") from error

    def _tell(self) -> None:
        """What was heard goes on to the listener. What that raises is not the parser's fault."""
        rows, self._rows = self._rows, []
        for row in rows:
            self._listener.row(row)
        if self._progress is not None:
            self._listener.progress(self._progress)
            self._progress = None

    def _volume(self, message: Message) -> None:
        index = int_in(message["index"], MAX_VOLUMES)
        filesystem = message["filesystem"]
        self._outcome.volumes[index] = VolumeState(
            index,
            int_in(message["disk"], len(self._disks) - 1),
            text_in(message["table"], 100),
            int_in(message["start"]),
            int_in(message["length"]),
            None if filesystem is None else text_in(filesystem, 100),
            text_in(message["label"], 4096),
            text_in(message["uuid"], 100),
        )

    def _answer(self, message: Message) -> None:
        outcome = self._outcome
        for found in message.get("findings", ()):
            finding = finding_in(found)
            outcome.finding_bytes += len(dump(found))
            if len(outcome.findings) < MAX_FINDINGS and outcome.finding_bytes <= MAX_FINDING_BYTES:
                outcome.findings.append(finding)
            else:
                outcome.gaps.add(
                    Gap(Machine(), GapReason.LIMIT, f"more than {MAX_FINDINGS} findings; the others are not listed")
                )
        for row in message.get("rows", ()):
            self._rows.append(row_in(row))
        for gap in message.get("gaps", ()):
            known = gap_in(gap)
            outcome.gaps.add(known)
        for index, files, size, read in message.get("counts", ()):
            volume = outcome.volumes[int_in(index)]
            volume.files += int_in(files)
            volume.size += int_in(size)
            outcome.bytes_read += int_in(read)

    def _open(self, connection: socket.socket, disk: int, name: str) -> None:
        """The one wish that a parser may have."""
        self._wishes += 1
        if disk >= len(self._disks) or self._wishes > _WISHES_PER_DISK * len(self._disks):
            raise WireError("a wish for a disk that is not there, or too many wishes")
        try:
            fd = open_backing(self._disks[disk].path, name)
        except Unsupported as error:
            _send(connection, {"refused": str(error)})
            return
        self._outcome.inputs.add(identity(fd))
        try:
            socket.send_fds(connection, [frame(b"J", dump({}))], [fd])
        except OSError as error:
            raise _Gone from error
        finally:
            os.close(fd)


def _send(connection: socket.socket, message: Message) -> None:
    try:
        connection.sendall(frame(b"J", dump(message)))
    except TimeoutError as error:
        raise WireError("it does not read what it asked for") from error
    except OSError as error:
        raise _Gone from error
