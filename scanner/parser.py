"""The parser process: reads hostile bytes, holds no key, no network and no file but the disks it was handed.

Started by `scanner.sandbox` as `python -I -m scanner.parser SOCKET PARENT`. Everything it needs is imported before it locks
itself in. It says what it finds over the socket and asks there for backing files; the parent decides.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import signal
import socket
import stat
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

from core.blocks import BlockSource, Bytes, Extent, prefetch
from core.errors import ConfigError, Error, LimitExceeded, Unreadable, Unsupported
from core.files import FileEntry
from core.findings import Detector, Gap, GapReason, InFile, InVolume, Machine, OnDisk
from core.text import escape, printable
from definitions import builtin_rules
from scanner import guards
from scanner.base import Base, BaseVolume, gaps_of, same_volumes
from scanner.changes import Changes, differences
from scanner.detectors import DetectorOptions, make_detectors, rule_ids
from scanner.detectors.malware import compile_rules
from scanner.filesystems import FILESYSTEMS, Filesystem
from scanner.gaps import reason_of
from scanner.images import DiskFile, FileSource, open_image
from scanner.job import Job, Task
from scanner.lookup import Client
from scanner.manifest.diff import diff
from scanner.manifest.file import Reader
from scanner.manifest.hashes import hashes_in
from scanner.pipeline import HELD_BYTES, Pipeline, Settings
from scanner.remote import Channels, RemotePart, RemoteSource
from scanner.said import Work, dump_counts, repeat
from scanner.scan import ToDisk, chunks, list_inode
from scanner.shared import Blocks, Seen, Touched
from scanner.volumes import Volume, by_type, find_volumes, recognise
from scanner.wire import BLOCK_HEAD, MAX_JOB_BYTES, FrameReader, Message, dump, frame, gap_out, load, receive, text_in
from scanner.workers import Board, Death, Piece, Pool, Position, piece
from scanner.workers import Work as PoolWork

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
_PIECE_BYTES: Final = 4 << 20
_BATCH: Final = {Task.SCAN: 128, Task.LIST: 256, Task.INVENTORY: 512}
_BATCH_REMOTE: Final = 512  # each begins with a wait for what comes first
_STRETCH_BYTES: Final = 32 << 20  # of contents that are looked at together: kept in memory, they are fetched once
_HELD_REMOTE_BYTES: Final = 64 << 20
_BATCH_ROWS: Final = 512  # when there is a manifest to write: its columns compress the better, the longer they are


@dataclass(slots=True)
class Indexed:
    """A volume whose metadata has been read; `inodes` is what `Filesystem.index` returned."""

    volume: Volume
    filesystem: Filesystem
    inodes: int
    base: BaseVolume | None = None


@dataclass(frozen=True)
class Shared:
    """What is made before the guards, or comes from the parent: shared memory and descriptors."""

    board: Board
    seen: Seen
    blocks: Blocks
    builtin: Mapping[str, str]
    scanner: str
    sockets: Sequence[int] = ()
    manifests: Sequence[int] = ()
    old_disks: Sequence[int] = ()
    remote: Mapping[int, RemotePart] = field(default_factory=dict)
    channels: Channels | None = None


class Parser:
    """One machine, one task."""

    def __init__(self, connection: socket.socket, reader: FrameReader, job: Job, shared: Shared) -> None:
        self._connection = connection
        self._reader = reader
        self._job = job
        self._shared = shared
        self._board = shared.board
        self._clients = [Client(socket.socket(fileno=fd)) for fd in shared.sockets]
        self._base: Base | None = None
        self._stamp_key = bytes.fromhex(job.stamp_key)
        self._fitting = 0
        self._disks: list[Touched] = []
        self._detectors: Sequence[Detector] = ()
        self._reported = 0.0
        self._done = 0
        self._gaps = 0
        self._all = 0

    def run(self, fds: Sequence[int | None]) -> None:
        if self._job.task in {Task.DIFF, Task.HASHES}:
            self._diff() if self._job.task is Task.DIFF else self._hashes()
            return
        engine: dict[str, Any] = {}
        if self._job.task is Task.SCAN:
            little = self._job.warm or bool(self._shared.manifests)
            rules = compile_rules(self._shared.builtin, self._job.rules, little=little)
            engine = {
                "engine": rules.VERSION,
                "rules": rules.digests,
                "options": options_digest(self._job, names_matter=rules.names_matter),
            }
            told = {"count": rules.rule_count, "names_matter": rules.names_matter, "ids": sorted(rule_ids(rules))}
            self._send({"kind": "rules", **told, **engine})
            self._detectors = make_detectors(
                DetectorOptions(
                    rules=rules,
                    max_file_bytes=self._job.max_file_bytes,
                    file_timeout_seconds=max(1, int(self._job.file_timeout_seconds)),
                )
            )
        self._open_disks(fds)
        if self._shared.manifests:
            self._open_base(engine)
        if self._base is not None:
            self._stamp_key = self._base.stamp_key
        if self._job.rows:
            self._send({"kind": "stamps", "key": self._stamp_key.hex()})
        indexed = list(self._indexed())
        if self._base is not None and not self._fitting and indexed and not self._job.skip:
            self._refuse_base("none of its volumes is on these disks: it is of another machine")
        if self._job.task is Task.CAT:
            self._cat(indexed)
        else:
            self._all = sum(one.inodes for one in indexed)
            for one in indexed:
                self._process(one)
        self._send({"kind": "done", "bytes_read": self._bytes_read(), "blocks": self._shared.blocks.count()})

    # the base

    def _open_base(self, engine: Mapping[str, Any]) -> None:
        try:
            reader = Reader(FileSource(self._shared.manifests[0]))
            sizes = [disk.size for disk in self._disks]
            self._base = Base(reader, self._changes(), scanner=self._shared.scanner, **engine)
            self._base.check_disks(sizes)
            self._base.check_target(self._job.since)
        except Error as error:
            self._refuse_base(str(error))

    def _changes(self) -> list[Changes]:
        if self._job.changes is not None:
            if len(self._job.changes) != len(self._disks):
                raise ConfigError(
                    f"{len(self._disks)} disks need as many lists of changes; {len(self._job.changes)} were given"
                )
            return [Changes(stretches) for stretches in self._job.changes]
        if len(self._shared.old_disks) != len(self._disks):
            raise ConfigError("give --base-image once for each disk, in the same order")
        found = []
        for number, fd in enumerate(self._shared.old_disks):
            old = open_image(FileSource(fd), partial(self._open_backing, number, old=True))
            # not through the counters: what is compared is not read for its content
            found.append(Changes(differences(old, self._plain[number])))
        return found

    def _refuse_base(self, reason: str) -> None:
        """Raises `ConfigError` unless a full scan was asked for in that case."""
        if not self._job.full:
            raise ConfigError(f"the base cannot be used: {reason}; scan everything with --full, or give the right one")
        self._base = None
        self._send({"kind": "base", "refused": reason[:1000]})

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

    def _open_backing(self, disk: int, name: str, *, old: bool = False) -> DiskFile:
        """Ask the parent for a file beside the disk (or the base's). Raises `Unsupported` with the parent's reason."""
        self._send({"kind": "open", "disk": disk, "name": name, "old": old})
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

    def _open_disks(self, fds: Sequence[int | None]) -> None:
        self._plain = [self._open_disk(number, fd) for number, fd in enumerate(fds)]
        self._disks = [self._shared.blocks.watch(source) for source in self._plain]

    def _indexed(self) -> Iterator[Indexed]:
        self._send({"kind": "disks", "sizes": [disk.size for disk in self._disks]})
        volumes, gaps = find_volumes(self._disks)
        for gap in gaps:
            if not isinstance(gap.where, OnDisk) or self._disks[gap.where.disk].size:
                self._gap(gap)
        for volume in volumes:
            if volume.index not in self._job.skip and self._job.volume in {None, volume.index}:
                yield from self._index(volume)

    def _take_over(self, volume: Volume, facts: Message) -> None:
        """A volume of which no byte changed: all that was said of it is said again."""
        assert self._base is not None
        self._fitting += 1
        self._send(_said_of(volume, facts))
        self._send({"kind": "working", "volume": volume.index})
        for value in facts["gaps"]:
            self._send({"kind": "gap", "gap": value | {"where": ["volume", volume.index]}})
        try:
            self._repeat(volume, self._base.plain(facts["index"], Changes()))
        except Error as error:
            detail = f"the base cannot be read: {error}; scan without it"
            self._gap(Gap(InVolume(volume.index), GapReason.CORRUPT, detail))
            return
        self._send({"kind": "finished", "volume": volume.index})

    def _repeat(self, volume: Volume, known: BaseVolume) -> None:
        for base in known.blocks():
            block = base.block
            count = Work()
            told: dict[str, list[bytes]] = {}
            for number in range(len(block)):
                paths = block.paths(number)
                count.files += len(paths)
                if stat.S_ISREG(block.mode(number)):
                    count.size += block.size(number)
                results = block.results(number)
                for kind, raw in repeat(results, volume.index, paths) if results else ():
                    told.setdefault(kind, []).append(raw)
            count.carried, count.matched = count.files, len(block)
            told["counts"] = [dump_counts(volume.index, count, 0)]
            rows = BLOCK_HEAD.pack(volume.index, base.first, base.last, len(block), len(base.raw)) + base.raw
            self._connection.sendall(frame(b"A", piece(0, told, b"", rows if self._job.rows else b"").body))

    def _open_disk(self, number: int, fd: int | None) -> BlockSource:
        if fd is None:
            assert self._shared.channels is not None
            return RemoteSource(self._shared.remote[number], self._shared.channels)
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
        untouched: Message | None = None
        where = InVolume(volume.index)
        try:
            filesystem = self._open_filesystem(volume)
            # that no byte changed says nothing if the base is of another machine: the filesystem tells
            untouched = self._base.untouched(volume, filesystem) if self._base and filesystem else None
            inodes = filesystem.index() if filesystem and not untouched else 0
        except Error as error:
            self._gap(Gap(where, reason_of(error), str(error)))
        except MemoryError:
            filesystem = None
            self._gap(Gap(where, GapReason.OUT_OF_MEMORY, "not enough memory for the metadata of this volume"))
        except Exception as error:  # noqa: BLE001  hostile bytes may raise anything: this is the border
            self._gap(Gap(where, GapReason.CRASHED, f"the reader failed: {error!r}"[:500]))
        signal.setitimer(signal.ITIMER_REAL, 0)
        if untouched:
            self._take_over(volume, untouched)
            return
        base: BaseVolume | None = None
        if filesystem and self._base:
            try:
                base = self._base.volume(volume, filesystem)
            except Error as error:
                self._refuse_base(str(error))
            self._fitting += base is not None
        self._send(_describe(volume, filesystem, base))
        if filesystem:
            for gap in filesystem.gaps:
                self._gap(gap)
            yield Indexed(volume, filesystem, inodes, base)

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
        work = self._listing(one) if self._job.task is Task.LIST else self._scanning(one)
        batch = _BATCH_ROWS if self._job.rows else _BATCH[self._job.task]
        if one.volume.disk in self._shared.remote:
            batch = max(batch, _BATCH_REMOTE)
        pool = Pool(
            self._in_worker(one, work),
            one.inodes,
            workers=self._job.jobs,
            batch=max(1, min(batch, one.inodes // (self._job.jobs * 4))),
            borders=_borders(one),
            board=self._board,
            seconds=self._job.file_timeout_seconds + _GRACE_SECONDS,
            tick=lambda: self._tick(pool.done),
        )
        for answer in pool.run():
            if isinstance(answer, Death):
                self._send({"kind": "death", "volume": one.volume.index, "crashed": answer.reason is GapReason.CRASHED})
                self._gap(self._epitaph(one, answer))
            else:
                self._connection.sendall(frame(b"A", answer))
        self._done += one.inodes
        self._send({"kind": "finished", "volume": one.volume.index})

    def _in_worker(self, one: Indexed, work: PoolWork) -> PoolWork:
        """Each worker asks for blocks over its own socket, for no more at once than it can keep."""
        channels = self._shared.channels
        if channels is None:
            return work

        def ours(start: int, stop: int, position: Position) -> Iterator[Piece]:
            channels.use(position.worker)
            if one.base is not None or one.volume.disk not in self._shared.remote:
                yield from work(start, stop, position)
                return
            for begin, end in _stretches(one.filesystem, start, stop):
                yield from work(begin, end, position)

        return ours

    def _prefetch_of(self, one: Indexed) -> Callable[[Sequence[Extent]], None] | None:
        return partial(prefetch, one.volume.source) if one.volume.disk in self._shared.remote else None

    def _scanning(self, one: Indexed) -> Callable[[int, int, Position], Iterator[Piece]]:
        return Pipeline(
            one.volume.index,
            one.filesystem,
            self._detectors,
            Settings(
                max_file_bytes=self._job.max_file_bytes,
                file_timeout_seconds=self._job.file_timeout_seconds,
                ends_bytes=self._job.ends_bytes,
                rows=self._job.rows,
                stamp_key=self._stamp_key,
                warm=self._job.warm,
                held_bytes=_HELD_REMOTE_BYTES if one.volume.disk in self._shared.remote else HELD_BYTES,
            ),
            seen=self._shared.seen,
            clients=self._clients,
            base=one.base,
            bytes_read=self._bytes_read,
            prefetch=self._prefetch_of(one),
        ).work

    def _epitaph(self, one: Indexed, death: Death) -> Gap:
        names = (item for item in one.filesystem.files(death.at, death.at + 1) if not isinstance(item, Gap))
        first = next(names, None)
        return Gap(InFile.of(first) if first else InVolume(one.volume.index), death.reason, death.detail)

    def _listing(self, one: Indexed) -> Callable[[int, int, Position], Iterator[Piece]]:
        def to_disk(extent: Extent) -> Message:
            moved = one.volume.to_disk(extent)
            return {"disk": one.volume.disk, "offset": moved.offset, "length": moved.length, "logical": moved.logical}

        ahead = self._prefetch_of(one)

        def work(start: int, stop: int, position: Position) -> Iterator[Piece]:
            told: dict[str, list[bytes]] = {}
            size = 0
            before = self._bytes_read()
            count = Work()
            if ahead is not None and self._job.hash:
                ahead(_contents(one.filesystem, start, stop))
            for at in range(start, stop):
                position.enter(at)
                items = list(one.filesystem.files(at, at + 1))
                for kind, raw in self._lines(one, items, to_disk if self._job.extents else None):
                    told.setdefault(kind, []).append(raw)
                    size += len(raw)
                files = [item for item in items if not isinstance(item, Gap)]
                length = files[0].size if files and stat.S_ISREG(files[0].mode) else 0
                position.done(len(files), length)
                count.files += len(files)
                count.size += length
                if size >= _PIECE_BYTES or at + 1 == stop:
                    read = self._bytes_read()
                    told["counts"] = [dump_counts(one.volume.index, count, read - before)]
                    yield piece(at + 1, told)
                    told, size, before, count = {}, 0, read, Work()

        return work

    def _lines(self, one: Indexed, items: list[FileEntry | Gap], to_disk: ToDisk | None) -> Iterator[tuple[str, bytes]]:
        room = _MAX_INODE_BYTES
        for line in list_inode(items, hashed=self._job.hash, to_disk=to_disk, xattrs=self._job.xattrs):
            kind, raw = ("gaps", dump(gap_out(line))) if isinstance(line, Gap) else ("rows", dump(line))
            room -= len(raw)
            if room < 0:
                first = next((item for item in items if not isinstance(item, Gap)), None)
                where = InFile.of(first) if first else InVolume(one.volume.index)
                detail = f"there is more to say of it and its {len(items)} names than fits into a report"
                yield "gaps", dump(gap_out(Gap(where, GapReason.LIMIT, detail)))
                return
            yield kind, raw

    def _diff(self) -> None:
        """What differs between two manifests."""
        old, new = (Reader(FileSource(fd)) for fd in self._shared.manifests)
        pairs = same_volumes(old, new)  # may refuse, so before anything is said
        self._send({"kind": "working", "volume": 0})
        for name, reader in (("old", old), ("new", new)):
            for gap in gaps_of(reader):
                self._gap(replace(gap, detail=f"{name}: {gap.detail}"))
        changes: list[bytes] = []
        size = 0
        for change in diff(old, new, pairs):
            changes.append(dump(change.to_message()))
            size += len(changes[-1])
            if size >= _PIECE_BYTES:
                self._connection.sendall(frame(b"A", piece(0, {"changes": changes}).body))
                changes, size = [], 0
        self._connection.sendall(frame(b"A", piece(0, {"changes": changes}).body))
        self._send({"kind": "done", "bytes_read": 0, "blocks": 0})

    def _hashes(self) -> None:
        """Data frames: the number of a manifest (a byte), then hashes of its files, 32 bytes each."""
        self._send({"kind": "working", "volume": 0})
        for number, fd in enumerate(self._shared.manifests):
            reader = Reader(FileSource(fd))
            for volume in reader.volumes():
                for chunk in reader.chunks(volume):
                    found = b"".join(hashes_in(raw) for raw in reader.read(chunk))
                    if found:
                        self._connection.sendall(frame(b"D", bytes([number]) + found))
        self._send({"kind": "done", "bytes_read": 0, "blocks": 0})

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
        home = next(one for one in indexed if one.volume.index == found[0].volume)
        try:
            prefetch(home.volume.source, found[0].extents())
            with found[0].open() as stream:
                for chunk in chunks(stream):
                    self._connection.sendall(frame(b"D", bytes(chunk)))
        except Error as error:
            self._gap(Gap(InFile.of(found[0]), reason_of(error), str(error)))


def _stretches(filesystem: Filesystem, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """A batch in parts, none with more than some MiB of contents but where one file has more."""
    begin, size = start, 0
    for at in range(start, stop):
        first = next((item for item in filesystem.files(at, at + 1) if not isinstance(item, Gap)), None)
        more = first.size if first is not None and stat.S_ISREG(first.mode) else 0
        if begin < at and size + more > _STRETCH_BYTES:
            yield begin, at
            begin, size = at, 0
        size += more
    yield begin, stop


def _contents(filesystem: Filesystem, start: int, stop: int) -> list[Extent]:
    """Where the regular files of a batch are, each once."""
    found: list[Extent] = []
    inode = None
    for item in filesystem.files(start, stop):
        if isinstance(item, Gap) or item.inode == inode or not stat.S_ISREG(item.mode):
            continue
        inode = item.inode
        try:
            found += item.extents()
        except Error:
            pass  # whoever reads the file says why
    return found


class Nothing:
    """A disk that could not be opened; it has no bytes."""

    size = 0

    def read(self, offset: int, length: int) -> Bytes:  # noqa: ARG002
        return b""


def _borders(one: Indexed) -> list[int]:
    """Positions behind the last inode of each chunk of the base."""
    if one.base is None:
        return []
    return [
        bisect_right(range(one.inodes), last, key=lambda at: one.filesystem.names(at)[0]) for last in one.base.borders()
    ] + [one.inodes]


def _describe(volume: Volume, filesystem: Filesystem | None, base: BaseVolume | None) -> Message:
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
        "layout": filesystem.layout if filesystem else "",
        "replayed": list(filesystem.replayed) if filesystem else [],
        "base_rows": base.rows if base else None,
    }


def _said_of(volume: Volume, facts: Message) -> Message:
    """As `_describe`, of a volume that is taken over unread."""
    known = ("filesystem", "label", "uuid", "layout", "replayed")
    return {
        "kind": "volume",
        "index": volume.index,
        "disk": volume.disk,
        "table": volume.kind,
        "start": volume.start,
        "length": volume.length,
        "base_rows": facts["rows"],
    } | {name: facts[name] for name in known}


def options_digest(job: Job, *, names_matter: bool) -> str:
    """What besides the content and the rules decides about a verdict; by rules that ask for names nothing is judged by content."""
    text = f"max_file_bytes={job.max_file_bytes} ends_bytes={job.ends_bytes} names_matter={names_matter}"
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> int:
    """Exit 0: all was said; 1: refused by the operator's settings; any other end is a crash."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    parent = int(sys.argv[2])
    reader = FrameReader(MAX_JOB_BYTES)
    first = load(receive(connection, reader)[1])
    job = Job.from_message(first["job"])
    told = first["remote"] or {"disks": ()}
    remote = {part.disk: part for part in (RemotePart(**one) for one in told["disks"])}
    shared = Shared(
        board=Board(job.jobs),
        seen=Seen(),
        blocks=Blocks(
            sum(os.lseek(fd, 0, os.SEEK_END) for fd in first["fds"] if fd is not None)
            + sum(part.size for part in remote.values())
        ),
        builtin=builtin_rules(),  # they are files, too: behind the guards there are none
        scanner=first["scanner"],
        sockets=first["sockets"],
        manifests=first["manifests"],
        old_disks=first["old_disks"],
        remote=remote,
        channels=Channels([socket.socket(fileno=fd) for fd in told["sockets"]]) if remote else None,
    )
    for encoding in _ENCODINGS:
        codecs.lookup(encoding)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    active = guards.lock_down(
        guards.Limits(memory_bytes=job.memory_bytes, cpu_seconds=job.cpu_seconds, processes=job.jobs + 8),
        parent_pid=parent,
    )
    parser = Parser(connection, reader, job, shared)
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
