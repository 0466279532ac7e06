"""The parser process: reads hostile bytes, holds no key, no network and no file but the disks it was handed.

Started by `scanner.sandbox` as `python -I -m scanner.parser SOCKET PARENT`. Everything it needs is imported before it locks
itself in. It says what it finds over the socket and asks there for backing files; the parent decides.
"""

from __future__ import annotations

import codecs
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from core.blocks import BlockSource, Bytes, Counted, Extent
from core.errors import ConfigError, Error, LimitExceeded, Unreadable, Unsupported
from core.files import FileEntry
from core.findings import Detector, Finding, Gap, GapReason, InFile, InVolume, Machine, OnDisk
from core.text import escape, printable
from definitions import builtin_rules
from scanner import guards
from scanner.detectors import DetectorOptions, make_detectors
from scanner.detectors.malware import compile_rules, depends_on_names
from scanner.filesystems import FILESYSTEMS, Filesystem
from scanner.gaps import reason_of
from scanner.images import DiskFile, FileSource, open_image
from scanner.job import Job, Task
from scanner.scan import chunks, list_inode, scan_inode
from scanner.volumes import Volume, by_type, find_volumes, recognise
from scanner.wire import MAX_JOB_BYTES, FrameReader, Message, dump, finding_out, frame, gap_out, load, receive, text_in
from scanner.workers import Board, Death, Pool, Position

_ENCODINGS: Final = (
    "ascii",
    "utf-8",
    "latin-1",
    "utf-16-le",
    "utf-16-be",
)  # modules that Python would load when first used
_PROGRESS_SECONDS: Final = 0.2
_GRACE_SECONDS: Final = 5.0  # a detector may end by its own deadline first, which tells more
_MAX_INODE_BYTES: Final = 16 << 20  # what may be said of one inode, by all its names: it must fit into a frame
_BATCH: Final = {Task.SCAN: 64, Task.LIST: 256}


@dataclass(slots=True)
class Indexed:
    """A volume whose metadata has been read; `inodes` is what `Filesystem.index` returned."""

    volume: Volume
    filesystem: Filesystem
    inodes: int


class Parser:
    """One machine, one task."""

    def __init__(
        self, connection: socket.socket, reader: FrameReader, job: Job, board: Board, builtin: Mapping[str, str]
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._job = job
        self._board = board
        self._builtin = builtin
        self._disks: list[Counted] = []
        self._detectors: Sequence[Detector] = ()
        self._reported = 0.0
        self._done = 0
        self._gaps = 0
        self._all = 0

    def run(self, fds: Sequence[int]) -> None:
        if self._job.task is Task.SCAN:
            rules = compile_rules(self._builtin, self._job.rules)
            self._send({"kind": "rules", "count": sum(1 for _ in rules) - depends_on_names(rules)})
            self._detectors = make_detectors(
                DetectorOptions(
                    rules=rules,
                    max_file_bytes=self._job.max_file_bytes,
                    file_timeout_seconds=max(1, int(self._job.file_timeout_seconds)),
                )
            )
        indexed = list(self._indexed(fds))
        if self._job.task is Task.CAT:
            self._cat(indexed)
        else:
            self._all = sum(one.inodes for one in indexed)
            for one in indexed:
                self._process(one)
        self._send({"kind": "done", "bytes_read": self._bytes_read()})

    # talking

    def _send(self, message: Message) -> None:
        self._connection.sendall(frame(b"J", dump(message)))

    def _gap(self, gap: Gap) -> None:
        self._gaps += 1
        self._send({"kind": "gap", "gap": gap_out(gap)})

    def _bytes_read(self) -> int:
        return sum(disk.bytes_read for disk in self._disks)

    def _tick(self, done: int) -> None:
        now = time.monotonic()
        if now - self._reported >= _PROGRESS_SECONDS:
            self._reported = now
            files, size = self._board.totals()
            self._send({"kind": "progress", "files": files, "bytes": size, "done": self._done + done, "all": self._all})

    def _open_backing(self, disk: int, name: str) -> DiskFile:
        """Ask the parent for a file beside the disk. Raises `Unsupported` with the parent's reason."""
        self._send({"kind": "open", "disk": disk, "name": name})
        while True:
            # the answer and its descriptor come together; nothing else is under way on this socket
            data, fds, _flags, _address = socket.recv_fds(self._connection, 1 << 16, 1)
            self._reader.feed(data)
            if not data:
                raise Unreadable("the scan was ended")
            found = self._reader.next()
            if found is not None:
                break
        answer = load(found[1])
        if not fds:
            raise Unsupported(text_in(answer.get("refused")))
        return FileSource(fds[0])

    # reading metadata

    def _indexed(self, fds: Sequence[int]) -> Iterator[Indexed]:
        sources: list[BlockSource] = []
        for number, fd in enumerate(fds):
            sources.append(self._open_disk(number, fd))
        self._disks = [Counted(source) for source in sources]
        self._send({"kind": "disks", "sizes": [disk.size for disk in self._disks]})
        volumes, gaps = find_volumes(self._disks)
        for gap in gaps:
            if not isinstance(gap.where, OnDisk) or self._disks[gap.where.disk].size:
                self._gap(gap)
        for volume in volumes:
            if volume.index not in self._job.skip and self._job.volume in {None, volume.index}:
                yield from self._index(volume)

    def _open_disk(self, number: int, fd: int) -> BlockSource:
        try:
            return open_image(FileSource(fd), lambda name: self._open_backing(number, name))
        except Unsupported as error:
            self._gap(Gap(OnDisk(number), GapReason.UNSUPPORTED_IMAGE, str(error)))
        except Error as error:
            self._gap(Gap(OnDisk(number), reason_of(error), str(error)))
        return Nothing()

    def _index(self, volume: Volume) -> Iterator[Indexed]:
        self._send({"kind": "indexing", "volume": volume.index})
        # without a handler of ours: should a reader hang, the kernel ends this process and the parent skips the volume
        signal.setitimer(signal.ITIMER_REAL, self._job.index_timeout_seconds)
        filesystem: Filesystem | None = None
        inodes = 0
        where = InVolume(volume.index)
        try:
            filesystem = self._open_filesystem(volume)
            inodes = filesystem.index() if filesystem else 0
        except Error as error:
            self._gap(Gap(where, reason_of(error), str(error)))
        except MemoryError:
            filesystem = None
            self._gap(Gap(where, GapReason.OUT_OF_MEMORY, "not enough memory for the metadata of this volume"))
        except Exception as error:  # noqa: BLE001  hostile bytes may raise anything: this is the border
            self._gap(Gap(where, GapReason.CRASHED, f"the reader failed: {error!r}"[:500]))
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._send(_describe(volume, filesystem))
        if filesystem:
            for gap in filesystem.gaps:
                self._gap(gap)
            yield Indexed(volume, filesystem, inodes)

    def _open_filesystem(self, volume: Volume) -> Filesystem | None:
        for reader in FILESYSTEMS:
            if reader.probe(volume.source):
                return reader.open(volume.source, volume.index)
        unknown = (GapReason.UNRECOGNISED, "its content is of no known kind")
        reason, detail = recognise(volume.source) or by_type(volume) or unknown
        self._gap(Gap(InVolume(volume.index), reason, detail))
        return None

    # reading files

    def _process(self, one: Indexed) -> None:
        self._send({"kind": "working", "volume": one.volume.index})
        pool = Pool(
            lambda at, position: self._inode(one, at, position),
            one.inodes,
            workers=self._job.jobs,
            batch=max(1, min(_BATCH[self._job.task], one.inodes // (self._job.jobs * 4))),
            board=self._board,
            seconds=self._job.file_timeout_seconds + _GRACE_SECONDS,
            tick=lambda: self._tick(pool.done),
        )
        for answer in pool.run():
            if isinstance(answer, Death):
                self._gap(self._epitaph(one, answer))
            else:
                self._connection.sendall(frame(b"J", answer))
        self._done += one.inodes
        self._send({"kind": "finished", "volume": one.volume.index})

    def _epitaph(self, one: Indexed, death: Death) -> Gap:
        names = (item for item in one.filesystem.files(death.at, death.at + 1) if not isinstance(item, Gap))
        first = next(names, None)
        return Gap(InFile.of(first) if first else InVolume(one.volume.index), death.reason, death.detail)

    def _inode(self, one: Indexed, at: int, position: Position) -> Iterator[tuple[str, bytes]]:
        """All that is to be said of one inode, in a worker: kind and JSON."""
        before = self._bytes_read()
        items = list(one.filesystem.files(at, at + 1))
        files = [item for item in items if not isinstance(item, Gap)]
        room = _MAX_INODE_BYTES
        for result in self._results(one, items):
            kind, value = _said(result)
            raw = dump(value)
            room -= len(raw)
            if room < 0:
                where = InFile.of(files[0]) if files else InVolume(one.volume.index)
                detail = f"there is more to say of it and its {len(items)} names than fits into a report"
                yield "gaps", dump(gap_out(Gap(where, GapReason.LIMIT, detail)))
                break
            yield kind, raw
        size = files[0].size if files and files[0].mode & 0o170000 == 0o100000 else 0
        position.done(len(files), size)
        yield "counts", b"[%d,%d,%d,%d]" % (one.volume.index, len(files), size, self._bytes_read() - before)

    def _results(self, one: Indexed, items: list[FileEntry | Gap]) -> Iterator[Finding | Gap | Message]:
        if self._job.task is Task.SCAN:
            return scan_inode(items, self._detectors)

        def to_disk(extent: Extent) -> Message:
            moved = one.volume.to_disk(extent)
            return {"disk": one.volume.disk, "offset": moved.offset, "length": moved.length, "logical": moved.logical}

        return list_inode(
            items,
            hashed=self._job.hash,
            to_disk=to_disk if self._job.extents else None,
            xattrs=self._job.xattrs,
        )

    def _cat(self, indexed: Sequence[Indexed]) -> None:
        found = [
            item
            for one in indexed
            for item in one.filesystem.files(0, one.inodes)
            if not isinstance(item, Gap) and item.path == self._job.path
        ]
        shown = printable(escape(self._job.path)[:300])
        if not found and self._gaps:
            self._gap(Gap(Machine(), GapReason.UNREADABLE, f"{shown} was not found, but not everything could be read"))
            return
        if not found:
            raise ConfigError(f"{shown}: no file of that name; `kumomori ls DISK` lists them all")
        if len({item.volume for item in found}) > 1:
            volumes = ", ".join(str(item.volume) for item in found)
            raise ConfigError(f"several volumes have that file ({volumes}): choose one with --volume")
        if stat.S_ISDIR(found[0].mode):
            raise ConfigError(f"{shown}: is a directory; `kumomori ls DISK` lists what is in it")
        self._send({"kind": "working", "volume": found[0].volume})
        try:
            with found[0].open() as stream:
                for chunk in chunks(stream):
                    self._connection.sendall(frame(b"D", bytes(chunk)))
        except Error as error:
            self._gap(Gap(InFile.of(found[0]), reason_of(error), str(error)))


class Nothing:
    """A disk that could not be opened; it has no bytes."""

    size = 0

    def read(self, offset: int, length: int) -> Bytes:  # noqa: ARG002
        return b""


def _said(result: Finding | Gap | Message) -> tuple[str, Message]:
    match result:
        case Gap():
            return "gaps", gap_out(result)
        case Finding():
            return "findings", finding_out(result)
        case _:
            return "rows", result


def _describe(volume: Volume, filesystem: Filesystem | None) -> Message:
    return {
        "kind": "volume",
        "index": volume.index,
        "disk": volume.disk,
        "table": volume.kind,
        "start": volume.start,
        "length": volume.length,
        "filesystem": filesystem.kind if filesystem else None,
        "label": filesystem.label if filesystem else "",
        "uuid": filesystem.uuid if filesystem else "",
    }


def main() -> int:
    """Exit 0: all was said; 1: refused by the operator's settings; any other end is a crash."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    parent = int(sys.argv[2])
    reader = FrameReader(MAX_JOB_BYTES)
    first = load(receive(connection, reader)[1])
    job = Job.from_message(first["job"])
    board = Board(job.jobs)
    for encoding in _ENCODINGS:
        codecs.lookup(encoding)
    builtin = builtin_rules()  # they are files, too: behind the guards there are none
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    active = guards.lock_down(
        guards.Limits(memory_bytes=job.memory_bytes, cpu_seconds=job.cpu_seconds, processes=job.jobs + 8),
        parent_pid=parent,
    )
    parser = Parser(connection, reader, job, board, builtin)
    connection.sendall(frame(b"J", dump({"kind": "ready", "guards": [asdict(guard) for guard in active]})))
    try:
        parser.run(first["fds"])
    except ConfigError as error:
        connection.sendall(frame(b"J", dump({"kind": "refused", "message": str(error)})))
        return 1
    except (LimitExceeded, MemoryError) as error:
        connection.sendall(frame(b"J", dump({"kind": "exhausted", "message": str(error) or "out of memory"})))
        return 0
    return 0


if __name__ == "__main__":
    os._exit(main())
