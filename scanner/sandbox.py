"""The parent's side of a parser process: start it, believe nothing it says, outlive it, and finish the report.

Whatever happens to the parser, the caller gets an `Outcome`: what was found until then, and a gap for what was not
looked at. After a crash in one volume a new parser goes on with the others.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import IO, Any, Final, Protocol

from core.errors import ConfigError, Unsupported
from core.findings import Gap, GapReason, InVolume, Location, Machine, Package
from core.text import printable
from scanner.disks import Disk, Identity, RemoteDisk, identity, open_backing
from scanner.fetch import Answering, Fetching
from scanner.gaps import GapLog
from scanner.guards import Guard
from scanner.job import Job, Task
from scanner.lookup import KEY_BYTES, Verdict, answer
from scanner.manifest.diff import change_in
from scanner.process import cause, end, has_ended
from scanner.wire import (
    BLOCK_HEAD,
    MAX_ROWS,
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
    package_in,
    row_in,
    text_in,
)
from scanner.workers import parts
from scanner.worst import Worst

_MOST_RULE_IDS: Final = 100_000  # what is not named was not looked for, as far as anybody knows
MAX_FINDINGS: Final = 100_000
MAX_PACKAGES: Final = 200_000
MAX_FINDING_BYTES: Final = 256 << 20  # all findings together, as JSON
_WISHES_PER_DISK: Final = 20  # backing files that a parser may ask for; chains of more than 16 are not read
_LOOK_SECONDS: Final = 0.5  # how often a silent parser is looked after
_SEND_SECONDS: Final = 30.0  # a parser that does not read what it asked for is broken
_MAX_RESTARTS: Final = 16
_MAX_REPLAYED: Final = 1 << 20  # stretches of a volume that its journal replaced
_FIGURES: Final = (
    *("carried", "hashed", "hashed_bytes", "scanned", "scanned_bytes", "known", "matched", "incomplete"),
)


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
    layout: str = ""
    replayed: list[tuple[int, int]] = field(default_factory=list)
    base_rows: int | None = None
    files: int = 0
    size: int = 0
    rows: int = 0
    last: int = -1
    incomplete: int = 0
    gaps: list[Gap] = field(default_factory=list)
    finished: bool = False


@dataclass(slots=True)
class Done:
    """What was done for the result. `files` are names, all else contents (or their bytes) or inodes.

    `carried` names were taken over from the base unread; contents were `hashed`, searched by the engine (`scanned`), or
    `known` by their verdict. `matched` inodes are in the base. `blocks` of 512 KiB were read, each counted once.
    """

    carried: int = 0
    hashed: int = 0
    hashed_bytes: int = 0
    scanned: int = 0
    scanned_bytes: int = 0
    known: int = 0
    matched: int = 0
    incomplete: int = 0
    blocks: int = 0


@dataclass(slots=True)
class Outcome:
    """What came of a task. `sizes` are the disks' sizes in bytes as their format gives them.

    `engine` is what the parser said of its engine before it read a disk: `engine`, `options` and `rules`. `suspect`: a
    parser or worker of it crashed, so nothing that it said may be used for other machines. `base_refused`: why the base
    was left aside. `stamp_key`: by which a manifest tells records apart.
    """

    volumes: dict[int, VolumeState] = field(default_factory=dict)
    findings: Worst = field(default_factory=lambda: Worst(MAX_FINDINGS, MAX_FINDING_BYTES))
    packages: list[Package] = field(default_factory=list)
    gaps: GapLog = field(default_factory=GapLog)
    guards: tuple[Guard, ...] = ()
    sizes: list[int] = field(default_factory=list)
    bytes_read: int = 0
    rules: int = 0
    rule_ids: tuple[str, ...] = ()
    engine: dict[str, Any] = field(default_factory=dict)
    done: Done = field(default_factory=Done)
    suspect: bool = False
    base_refused: str = ""
    stamp_key: str = ""
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
    def change(self, change: Message) -> None: ...
    def data(self, chunk: bytes) -> None: ...


class Silent:
    """Listens to nothing."""

    def progress(self, progress: Progress) -> None: ...
    def row(self, row: Message) -> None: ...
    def change(self, change: Message) -> None: ...
    def data(self, chunk: bytes) -> None: ...


class Verdicts(Protocol):
    """What is known of contents, and where new verdicts go. See `scanner.verdicts.Session`."""

    def lookup(self, keys: Sequence[bytes]) -> Sequence[Verdict | None]: ...
    def record(self, key: bytes, findings: Sequence[tuple[str, Message]]) -> None: ...


class Rows(Protocol):
    """Where blocks of a manifest go. See `scanner.manifest.file.Writer`."""

    def add(self, volume: int, first: int, last: int, rows: int, block: bytes) -> None: ...


@dataclass(frozen=True)
class Support:
    """What a task may build on. `scanner` names this version; `manifests` are descriptors of the base, or of two to compare.

    `old_disks` are the base's disks, if the changes are to be found by comparing. `verdicts` is called once, when the
    parser has said what engine it has.
    """

    scanner: str = ""
    manifests: Sequence[int] = ()
    old_disks: Sequence[Disk] = ()
    verdicts: Callable[[Outcome], Verdicts] | None = None
    rows: Rows | None = None


def run(
    disks: Sequence[Disk | RemoteDisk],
    job: Job,
    *,
    timeout_seconds: float,
    listener: Listener | None = None,
    support: Support = Support(),
) -> Outcome:
    """Do `job` on the disks of one machine in a parser process of its own.

    Raises `ConfigError` if the operator's settings cannot be carried out (a rule that does not compile, a file that is
    not there). Nothing is left running when this returns or raises.
    """
    if any(isinstance(disk, RemoteDisk) for disk in disks):
        with Fetching(disks, job.jobs + 1) as fetching:
            return _run(disks, job, timeout_seconds, listener or Silent(), support, fetching)
    return _run(disks, job, timeout_seconds, listener or Silent(), support, None)


def _run(
    disks: Sequence[Disk | RemoteDisk],
    job: Job,
    timeout_seconds: float,
    listener: Listener,
    support: Support,
    fetching: Fetching | None,
) -> Outcome:
    outcome = Outcome()
    deadline = time.monotonic() + timeout_seconds
    for _ in range(_MAX_RESTARTS):
        attempt = _Attempt(disks, job, outcome, listener, support, fetching)
        lost = attempt.run(deadline)
        outcome.suspect = outcome.suspect or (lost is not None and lost[1] is GapReason.CRASHED)
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


def _verdicts_in(raw: bytes) -> Iterator[tuple[bytes, list[tuple[str, Message]]]]:
    """(key, findings) as `scanner.pipeline` wrote them one after the other. Raises `WireError`."""
    at = 0
    while at < len(raw):
        key = raw[at : at + KEY_BYTES]
        at += KEY_BYTES + 4
        size = int.from_bytes(raw[at - 4 : at], "little")
        if at + size > len(raw):
            raise WireError("a verdict that is cut short")
        findings = []
        if size:
            for name, finding in load(raw[at : at + size])["findings"]:
                finding_in(finding | {"where": ["file", 0, "/"]})
                findings.append((text_in(name), finding))
        yield key, findings
        at += size


class _Gone(Exception):
    """The parser closed its end of the socket."""


class _Attempt:
    """One parser process, from start to end."""

    def __init__(
        self,
        disks: Sequence[Disk | RemoteDisk],
        job: Job,
        outcome: Outcome,
        listener: Listener,
        support: Support = Support(),
        fetching: Fetching | None = None,
    ) -> None:
        self._support = support
        self._fetching = fetching
        self._answering: Answering | None = None
        self._verdicts: Verdicts | None = None
        self._askers: list[socket.socket] = []
        self._changes: list[Message] = []
        self._working = self._told = False
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
        self._volume_gaps = GapLog()
        self.wrote = False

    def run(self, deadline: float) -> tuple[Location, GapReason, str] | None:
        """None if it came to its end, else where it was and what ended it."""
        ours, theirs = socket.socketpair()
        with ExitStack() as stack:
            stack.enter_context(ours)
            stderr = stack.enter_context(tempfile.TemporaryFile())
            remote = None
            if self._fetching is not None:
                remote, self._answering = stack.enter_context(self._fetching.parser())
            with theirs, ExitStack() as given:
                sockets = []
                if self._support.verdicts is not None:
                    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(self._job.jobs)]
                    for our, their in pairs:
                        our.setblocking(False)
                        self._askers.append(stack.enter_context(our))
                        sockets.append(given.enter_context(their).fileno())
                process = self._start(theirs, stderr, [*sockets, *(remote.fds if remote else ())])
            if self._answering is not None:
                self._answering.passed_on()
            broken: str | None = None
            timed_out = False
            try:
                ours.settimeout(_SEND_SECONDS)
                first = {
                    "job": self._job.to_message(),
                    "fds": [disk.fd if isinstance(disk, Disk) else None for disk in self._disks],
                    "remote": remote.told if remote else None,
                    "scanner": self._support.scanner,
                    "sockets": sockets,
                    "manifests": list(self._support.manifests),
                    "old_disks": [disk.fd for disk in self._support.old_disks],
                }
                _send(ours, first)
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

    def _start(self, theirs: socket.socket, stderr: IO[bytes], sockets: Sequence[int]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-X", "utf8", "-m", "scanner.parser", str(theirs.fileno()), str(os.getpid())]
        return subprocess.Popen(
            command,
            env={},  # no credential of ours, whatever we were started with
            cwd="/",
            pass_fds=[
                *(theirs.fileno(), *sockets, *self._support.manifests),
                *(disk.fd for disk in (*self._disks, *self._support.old_disks) if isinstance(disk, Disk)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,  # so that it and its workers can be ended as one group
        )

    def _listen(self, connection: socket.socket, pid: int, deadline: float) -> bool:
        """Until the parser is done or gone; False if the deadline came first."""
        while not self._done and self._refused is None and self._exhausted is None:
            if self._answering is not None and self._answering.broken:
                raise WireError(self._answering.broken)
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            readable = select.select([connection, *self._heard_askers()], [], [], min(left, _LOOK_SECONDS))[0]
            if not readable:
                if has_ended(pid):
                    return True  # something it forked holds the socket open
                continue
            for asker in readable:
                if asker is not connection and not self._answer_asker(asker):
                    self._askers.remove(asker)
            if connection not in readable:
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
                elif kind == b"A":
                    self._take(body)
                    self._tell()
                else:
                    self._hear(connection, load(body))
                    self._tell()
        return True

    def _heard_askers(self) -> list[socket.socket]:
        """Questions wait until it is known which engine asks: that comes over the other socket, perhaps read later."""
        return self._askers if self._told else []

    def _answer_asker(self, asker: socket.socket) -> bool:
        verdicts = self._verdicts
        return answer(asker, verdicts.lookup if verdicts else lambda keys: [None] * len(keys))

    def _take(self, body: bytes) -> None:
        """An answer of a worker."""
        said, verdicts, rows = parts(body)
        try:
            self._answer(load(said))
            if self._verdicts is not None:
                for key, findings in _verdicts_in(verdicts):
                    self._verdicts.record(key, findings)
            if self._support.rows is not None:
                self._rows_in(rows, self._support.rows)
        except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
            raise WireError("an answer that lacks what it must hold") from error

    def _rows_in(self, raw: bytes, rows: Rows) -> None:
        at = 0
        while at < len(raw):
            number, first, last, count, size = BLOCK_HEAD.unpack_from(raw, at)
            at += BLOCK_HEAD.size
            volume = self._outcome.volumes[number]
            if at + size > len(raw) or not volume.last < first <= last or not 0 < count <= MAX_ROWS:
                raise WireError("rows of a manifest that do not fit together")
            rows.add(number, first, last, count, raw[at : at + size])
            volume.last = last
            volume.rows += count
            at += size

    def _hear(self, connection: socket.socket, message: Message) -> None:
        outcome = self._outcome
        try:
            match message.get("kind"):
                case "progress":
                    figures = [int_in(message[key]) for key in ("files", "bytes", "done", "all")]
                    self._progress = Progress(*figures)
                case "gap":
                    gap = gap_in(message["gap"])
                    outcome.gaps.add(gap)
                    if isinstance(gap.where, InVolume):
                        self._volume_gaps.add(gap)
                case "death":
                    outcome.suspect = outcome.suspect or bool(message["crashed"])
                    outcome.volumes[int_in(message["volume"])].incomplete += 1
                case "base":
                    outcome.base_refused = printable(text_in(message["refused"], 1000))
                case "stamps":
                    outcome.stamp_key = bytes.fromhex(text_in(message["key"], 100)).hex()
                case "ready":
                    outcome.guards = tuple(
                        Guard(text_in(one["name"]), active=bool(one["active"]), detail=text_in(one["detail"]))
                        for one in message["guards"][:100]
                    )
                case "rules":
                    if self._told:
                        raise WireError("rules, told twice or too late")
                    self._told = True
                    outcome.rules = int_in(message["count"])
                    outcome.rule_ids = tuple(
                        sorted({printable(text_in(one, 1000)) for one in message["ids"][:_MOST_RULE_IDS]})
                    )
                    outcome.engine = {
                        "engine": text_in(message["engine"], 1000),
                        "options": text_in(message["options"], 100),
                        "rules": {text_in(name): text_in(digest, 64) for name, digest in message["rules"].items()},
                    }
                    if self._support.verdicts is not None and message["names_matter"] is False:
                        self._verdicts = self._support.verdicts(outcome)
                case "disks":
                    self._told = True
                    outcome.sizes = [int_in(size) for size in message["sizes"]][: len(self._disks)]
                case "indexing" | "working" as kind:
                    self._at = InVolume(int_in(message["volume"], MAX_VOLUMES))
                    self._working = self._working or kind == "working"
                case "volume":
                    self._volume(message)
                case "finished":
                    volume = outcome.volumes[int_in(message["volume"])]
                    volume.finished = True
                    volume.gaps = [gap for gap in self._volume_gaps if gap.where == InVolume(volume.index)]
                    self._at = Machine()
                case "open":
                    self._open(connection, int_in(message["disk"]), text_in(message["name"]), old=bool(message["old"]))
                case "refused":
                    # that a base does not fit shows only when the disks are open
                    late = self._working or (outcome.sizes and not self._support.manifests)
                    if self._job.task is not Task.CAT and late:
                        raise WireError("a refusal in the middle of the work")
                    self._refused = printable(text_in(message["message"]))
                case "exhausted":
                    self._exhausted = printable(text_in(message["message"]))
                case "done":
                    outcome.bytes_read += int_in(message["bytes_read"])
                    outcome.done.blocks += int_in(message["blocks"])
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
        changes, self._changes = self._changes, []
        for change in changes:
            self._listener.change(change)
        if self._progress is not None:
            self._listener.progress(self._progress)
            self._progress = None

    def _volume(self, message: Message) -> None:
        index = int_in(message["index"], MAX_VOLUMES)
        filesystem = message["filesystem"]
        replayed = message["replayed"]
        known = sum(len(volume.replayed) for volume in self._outcome.volumes.values())
        if len(replayed) > _MAX_REPLAYED or known + len(replayed) > 2 * _MAX_REPLAYED:
            raise WireError("more replayed blocks than journals hold")
        self._outcome.volumes[index] = VolumeState(
            index,
            int_in(message["disk"], len(self._disks) - 1),
            text_in(message["table"], 100),
            int_in(message["start"]),
            int_in(message["length"]),
            None if filesystem is None else text_in(filesystem, 100),
            text_in(message["label"], 4096),
            text_in(message["uuid"], 100),
            text_in(message["layout"], 4096),
            [(int_in(offset), int_in(length)) for offset, length in replayed],
            None if message["base_rows"] is None else int_in(message["base_rows"]),
        )

    def _answer(self, message: Message) -> None:
        outcome = self._outcome
        for found in message.get("findings", ()):
            finding = finding_in(found)
            if not outcome.findings.add(finding, len(dump(found))):
                detail = f"more than {MAX_FINDINGS} findings; the others, none of them worse, are not listed"
                outcome.gaps.add(Gap(Machine(), GapReason.LIMIT, detail))
        for found in message.get("packages", ()):
            package = package_in(found)
            if len(outcome.packages) < MAX_PACKAGES:
                outcome.packages.append(package)
            else:
                detail = f"more than {MAX_PACKAGES} packages; the others are not listed"
                outcome.gaps.add(Gap(Machine(), GapReason.LIMIT, detail))
        for row in message.get("rows", ()):
            self._rows.append(row_in(row))
        for gap in message.get("gaps", ()):
            known = gap_in(gap)
            outcome.gaps.add(known)
        for change in message.get("changes", ()):
            self._changes.append(change_in(change))
        for index, read, files, size, *done in message.get("counts", ()):
            volume = outcome.volumes[int_in(index)]
            volume.files += int_in(files)
            volume.size += int_in(size)
            outcome.bytes_read += int_in(read)
            for name, figure in zip(_FIGURES, done, strict=True):
                setattr(outcome.done, name, getattr(outcome.done, name) + int_in(figure))
            volume.incomplete += int_in(done[-1])

    def _open(self, connection: socket.socket, disk: int, name: str, *, old: bool) -> None:
        """The one wish that a parser may have."""
        self._wishes += 1
        disks: Sequence[Disk | RemoteDisk] = self._support.old_disks if old else self._disks
        if disk >= len(disks) or self._wishes > 2 * _WISHES_PER_DISK * len(self._disks):
            raise WireError("a wish for a disk that is not there, or too many wishes")
        beside = disks[disk]
        try:
            if isinstance(beside, RemoteDisk):
                raise Unsupported("nothing lies beside a disk in a cloud")  # noqa: TRY301  handled just below
            fd = open_backing(beside.path, name)
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
