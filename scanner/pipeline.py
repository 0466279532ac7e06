"""What a worker does with a batch of inodes: carry over what did not change, hash what may have, scan what is unknown.

In three steps, so that the parent is asked for verdicts once for many files: (1) records are compared with the base, and
contents hashed while their bytes are in hand; (2) one question for all hashes; (3) what is unknown goes to the engine, and
everything is said in the order of the inodes.
"""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from core.errors import Error
from core.files import FileEntry
from core.findings import Detector, Finding, Gap, GapReason, InFile, InVolume
from scanner.base import BaseVolume, Found
from scanner.detectors.content import Content, read_content, read_ends
from scanner.detectors.malware import Malware
from scanner.filesystems import Filesystem
from scanner.gaps import reason_of
from scanner.lookup import CLEAN, Client, FoundMessage, Verdict, key_of
from scanner.manifest.block import Row, encode
from scanner.scan import chunks, scan_inode
from scanner.shared import Seen
from scanner.wire import BLOCK_HEAD, Message, dump, finding_out, gap_out, load, path_out
from scanner.workers import Piece, Position, piece

HOLE: Final = (1 << 64) - 1  # in a manifest, the offset of a part of a file that is not stored
_MAX_INODE_BYTES: Final = 16 << 20  # what may be said of one inode, by all its names: it must fit into a frame
_PIECE_BYTES: Final = 4 << 20  # an answer of more than this is sent at once, not when its batch is done
_HELD_BYTES: Final = 8 << 20  # contents that are kept between hashing and scanning, besides views of the disk
_MAX_HOLES_BYTES: Final = 4 << 30  # of a file with longer holes only what it stores is looked at, without a hash
_BLOCK_ROWS: Final = 1024
_MAX_EXTENTS: Final = 1 << 16  # of one file in a manifest; a file in more pieces is looked at again each time
_EMPTY: Final = hashlib.sha256(b"").digest()
_AGAIN: Final = frozenset(
    {
        *(GapReason.TIMEOUT, GapReason.OUT_OF_MEMORY, GapReason.CRASHED, GapReason.DETECTOR_FAILED),
        *(GapReason.UNREADABLE, GapReason.CORRUPT),
    }
)  # a later scan has to look again, whatever the blocks say


@dataclass(frozen=True)
class Settings:
    """What of a `Job` matters here. `rows`: a manifest is wanted. `ends_bytes`: of larger files, scan that much of each end."""

    max_file_bytes: int
    file_timeout_seconds: float
    ends_bytes: int = 0
    rows: bool = False


@dataclass(slots=True)
class Work:
    """What was done, in the order of a `counts` message."""

    files: int = 0
    size: int = 0
    carried: int = 0
    hashed: int = 0
    hashed_bytes: int = 0
    scanned: int = 0
    scanned_bytes: int = 0
    known: int = 0
    matched: int = 0
    incomplete: int = 0


@dataclass(slots=True)
class _Plan:
    """One inode on its way through the three steps."""

    at: int
    number: int
    items: Sequence[FileEntry | Gap] = ()
    carried: Found | None = None  # taken over as it stands in the base
    row: Row | None = None
    before: Found | None = None
    content: Content | None = None
    digest: bytes = b""
    judged: bool = False  # its content is to be judged by the engine
    verdict: Verdict | None = None
    gaps: list[Gap] = field(default_factory=list)
    ends: bool = False

    @property
    def first(self) -> FileEntry | None:
        return next((item for item in self.items if not isinstance(item, Gap)), None)


class Pipeline:
    """`work` is for `scanner.workers.Pool`. Runs in a forked worker; keeps nothing from one batch to the next."""

    def __init__(
        self,
        volume: int,
        filesystem: Filesystem,
        detectors: Sequence[Detector],
        settings: Settings,
        *,
        seen: Seen,
        clients: Sequence[Client],
        base: BaseVolume | None,
        bytes_read: Callable[[], int],
    ) -> None:
        self._volume = volume
        self._filesystem = filesystem
        self._settings = settings
        self._seen = seen
        self._clients = clients
        self._base = base
        self._bytes_read = bytes_read
        # rules that ask for names cannot be judged by content: they run like the checks of settings do
        self._malware = next((one for one in detectors if isinstance(one, Malware) and one.content_only), None)
        self._others = [one for one in detectors if one is not self._malware]
        self._rows = settings.rows or base is not None

    def work(self, start: int, stop: int, position: Position) -> Iterator[Piece]:
        before = self._bytes_read()
        count = Work()
        plans = []
        held = 0
        for at in range(start, stop):
            position.enter(at)
            plan = self._plan(at, count)
            held = self._hash(plan, held, count)
            plans.append(plan)
        position.rest()
        self._ask(plans, position.worker, count)
        told: dict[str, list[bytes]] = {}
        rows: list[Row | Found] = []
        keys: list[bytes] = []
        size = 0
        for plan in plans:
            position.enter(plan.at)
            files_before, size_before = count.files, count.size
            for kind, raw in self._said(plan, count, keys):
                told.setdefault(kind, []).append(raw)
                size += len(raw)
            if self._settings.rows:
                if plan.carried is not None:
                    rows.append(plan.carried)
                elif plan.row is not None:
                    rows.append(plan.row)
            position.done(count.files - files_before, count.size - size_before)
            if size >= _PIECE_BYTES or plan.at + 1 == stop:
                position.rest()
                read = self._bytes_read()
                told["counts"] = [dump_counts(self._volume, count, read - before)]
                yield piece(plan.at + 1, told, b"".join(keys), self._blocks(rows))
                told, rows, keys, size, before, count = {}, [], [], 0, read, Work()

    # the first step

    def _plan(self, at: int, count: Work) -> _Plan:
        filesystem, base = self._filesystem, self._base
        number, paths = filesystem.names(at)
        if not paths:
            return _Plan(at, number)
        found = base.find(number) if base else None
        count.matched += found is not None
        if (
            base
            and found
            and base.whole(found)
            and found.paths == tuple(paths)
            and not self._touched(base, number, found)
        ):
            if base.is_current:
                return _Plan(at, number, carried=found)
            plan = _Plan(at, number, list(filesystem.files(at, at + 1)), before=found)
            self._describe(plan, found.row)
            return plan
        plan = _Plan(at, number, list(filesystem.files(at, at + 1)), before=found)
        if not self._rows:
            return plan
        if base and found and base.whole(found) and base.is_current and self._is_same(plan, base, found):
            return _Plan(at, number, carried=found)
        self._describe(plan, None)
        if base and found and base.whole(found) and plan.row is not None:
            self._compare(plan, base, found)
        return plan

    def _is_same(self, plan: _Plan, base: BaseVolume, found: Found) -> bool:
        """The record was read again, since its block changed: is all as it was, and the content untouched?"""
        file = plan.first
        if file is None or any(isinstance(item, Gap) for item in plan.items):
            return False
        paths = tuple(item.path for item in plan.items if not isinstance(item, Gap))
        if file.size != found.size or file.mode != found.mode or paths != found.paths:
            return False
        touch = base.changes.touch
        places = found.places
        if any(touch(offset, length) for offset, length in places if offset != HOLE):
            return False
        then = found.row
        now = (file.mtime_ns, file.uid, file.gid, file.nlink, file.deleted)
        if now != (then.mtime_ns, then.uid, then.gid, then.nlink, then.deleted):
            return False
        try:
            extents = _with_holes(file)
            if extents != then.extents or (not extents and file.size and not stat.S_ISDIR(file.mode)):
                return False
            metadata = tuple((one.offset, one.length) for one in self._filesystem.metadata(file))
            return metadata == then.meta and _digest_of(file) == then.xattrs
        except Error:
            return False

    def _touched(self, base: BaseVolume, number: int, found: Found) -> bool:
        """Whether a block that decides about this inode is among the changed ones."""
        touch = base.changes.touch
        try:
            record = self._filesystem.record(number)
        except Error:
            return True
        if touch(record.offset, record.length):
            return True
        return any(offset != HOLE and touch(offset, length) for offset, length in found.places)

    def _describe(self, plan: _Plan, known: Row | None) -> None:
        """The row of this inode as it is now, without the content's hash; None in its place if it has no record."""
        file = plan.first
        if file is None:
            return
        if known is not None:
            plan.row = Row(**{name: getattr(known, name) for name in Row.__slots__} | {"results": b""})
            plan.digest = known.sha256
            return
        complete = True
        extents: tuple[tuple[int, int], ...] = ()
        metadata: tuple[tuple[int, int], ...] = ()
        attributes = b""
        try:
            extents = _with_holes(file)
            metadata = tuple((one.offset, one.length) for one in self._filesystem.metadata(file))
            attributes = _digest_of(file)
            if len(extents) + len(metadata) > _MAX_EXTENTS:
                extents, metadata, complete = (), (), False
        except Error:
            complete = False  # whoever reads the file says why
        plan.row = Row(
            inode=plan.number,
            paths=tuple(item.path for item in plan.items if not isinstance(item, Gap)),
            mode=file.mode,
            uid=file.uid,
            gid=file.gid,
            size=file.size,
            mtime_ns=file.mtime_ns,
            nlink=file.nlink,
            deleted=file.deleted,
            sha256=b"",
            xattrs=attributes,
            extents=extents,
            meta=metadata,
            complete=complete,
            results=b"",
        )

    def _compare(self, plan: _Plan, base: BaseVolume, found: Found) -> None:
        """The record was read again, since its block changed: is the content where it was, and untouched?"""
        now, then = plan.row, found.row
        if now is None or not now.complete or (now.mode, now.size) != (then.mode, then.size):
            return
        if now.extents != then.extents or (not now.extents and now.size):
            return  # inline contents and long targets of links are in the record, which changed
        touch = base.changes.touch
        if any(offset != HOLE and touch(offset, length) for offset, length in (*now.extents, *now.meta)):
            return
        now.sha256 = plan.digest = then.sha256

    # hashing

    def _hash(self, plan: _Plan, held: int, count: Work) -> int:
        """Hash the content unless the base tells its hash; returns how many bytes of contents are kept in memory."""
        file = plan.first
        if plan.carried is not None or file is None or not stat.S_ISREG(file.mode):
            return held
        if not file.size:
            plan.digest = _EMPTY
        elif self._malware is not None or self._rows:
            plan.judged = self._malware is not None
            if not plan.digest:
                try:
                    held = self._read(plan, file, held, count)
                except Error as error:
                    plan.gaps.append(Gap(InFile.of(file), reason_of(error), str(error)))
                    plan.judged = False
                except MemoryError:
                    plan.gaps.append(Gap(InFile.of(file), GapReason.OUT_OF_MEMORY, "not enough memory for this file"))
                    plan.judged = False
        if plan.row is not None:
            plan.row.sha256 = plan.digest
        return held

    def _read(self, plan: _Plan, file: FileEntry, held: int, count: Work) -> int:
        content = read_content(file, self._settings.max_file_bytes)
        if isinstance(content, Gap):
            plan.gaps.append(content)
            self._hash_long(plan, file, count)
            plan.judged = plan.judged and self._settings.ends_bytes > 0
            if plan.judged:
                plan.content = read_ends(file, self._settings.ends_bytes)
            return held
        if content.sparse or content.missing:
            self._hash_long(plan, file, count)
            plan.content = content
        else:
            plan.digest = hashlib.sha256(content.data).digest()
            count.hashed += 1
            count.hashed_bytes += file.size
            if not isinstance(content.data, memoryview):  # a view of the disk costs nothing to keep
                held += len(content.data)
            if held <= _HELD_BYTES:
                plan.content = content
        return held

    def _hash_long(self, plan: _Plan, file: FileEntry, count: Work) -> None:
        """A content that is too large for the engine, in pieces; without a hash if that takes too long."""
        if file.size - sum(one.length for one in file.extents()) > _MAX_HOLES_BYTES:
            return
        ends = time.monotonic() + self._settings.file_timeout_seconds / 2
        digest = hashlib.sha256()
        size = 0
        with file.open() as stream:
            for chunk in chunks(stream):
                digest.update(chunk)
                size += len(chunk)
                if time.monotonic() > ends:
                    detail = f"not hashed: after half of its time only {size} of {file.size} bytes were read"
                    plan.gaps.append(Gap(InFile.of(file), GapReason.TIMEOUT, detail))
                    return
        plan.digest = digest.digest()
        count.hashed += 1
        count.hashed_bytes += size

    # the second step

    def _ask(self, plans: Sequence[_Plan], worker: int, count: Work) -> None:
        wanted: list[tuple[_Plan, bytes]] = []
        for plan in plans:
            if not plan.judged or not plan.digest or (plan.content is not None and plan.content.sparse):
                continue
            if plan.digest in self._seen:
                plan.verdict = CLEAN
                count.known += 1
                continue
            before = plan.before
            if before is not None and self._base and before.row.sha256 == plan.digest:
                plan.verdict = self._base.verdict(before)
                if plan.verdict is not None and not plan.verdict.missing:
                    count.known += 1
                    continue
            file = plan.first
            if self._clients and file is not None:
                wanted.append((plan, key_of(plan.digest, file.size)))
        if wanted:
            answers = self._clients[worker].ask([key for _, key in wanted])
            for (plan, _), verdict in zip(wanted, answers, strict=True):
                if verdict is not None and (plan.verdict is None or len(verdict.missing) < len(plan.verdict.missing)):
                    plan.verdict = verdict
                    count.known += not verdict.missing

    # the third step

    def _said(self, plan: _Plan, count: Work, keys: list[bytes]) -> Iterator[tuple[str, bytes]]:
        """All that is to be said of one inode: kind and JSON."""
        if plan.carried is not None:
            yield from self._carried(plan.carried, count)
            return
        files = [item for item in plan.items if not isinstance(item, Gap)]
        room = _MAX_INODE_BYTES
        said: list[tuple[str, Message]] = []
        content: tuple[FoundMessage, ...] | None = ()
        if plan.judged and self._malware is not None:
            content = self._judge(plan, files[0], count, keys)
        elif plan.gaps and self._malware is not None:
            content = None  # too large, or not to be read
        said += [("gaps", gap_out(gap)) for gap in dict.fromkeys(plan.gaps)]
        said += [
            ("gaps", gap_out(result)) if isinstance(result, Gap) else ("findings", finding_out(result))
            for result in scan_inode(plan.items, self._others)
        ]
        if plan.row is not None:
            self._keep(plan, content, said)
            count.incomplete += not plan.row.complete
        for kind, value in (*_named(content or (), self._volume, [file.path for file in files]), *said):
            raw = dump(value)
            room -= len(raw)
            if room < 0:
                where = InFile.of(files[0]) if files else InVolume(self._volume)
                detail = f"there is more to say of it and its {len(files)} names than fits into a report"
                yield "gaps", dump(gap_out(Gap(where, GapReason.LIMIT, detail)))
                break
            yield kind, raw
        count.files += len(files)
        if files and stat.S_ISREG(files[0].mode):
            count.size += files[0].size

    def _judge(self, plan: _Plan, file: FileEntry, count: Work, keys: list[bytes]) -> tuple[FoundMessage, ...] | None:
        """Findings in the content, None if not all of it was searched; gaps land in the plan."""
        assert self._malware is not None
        known = plan.verdict
        if known is not None and not known.missing:
            return known.findings
        found: list[FoundMessage] = list(known.findings) if known else []
        whole = True
        content: Content | Gap | None = None
        try:
            content = plan.content or read_content(file, self._settings.max_file_bytes)
            if isinstance(content, Gap):
                plan.gaps.append(content)
                if not self._settings.ends_bytes:
                    return None
                content = read_ends(file, self._settings.ends_bytes)
            count.scanned += 1
            count.scanned_bytes += len(content.data)
            for result in self._malware.judge(content, file, only=known.missing if known else None):
                if isinstance(result, Gap):
                    plan.gaps.append(result)
                    whole = False
                else:
                    found.append((result[0], _placeless(result[1])))
        except Error as error:
            plan.gaps.append(Gap(InFile.of(file), reason_of(error), str(error)))
            whole = False
        except MemoryError:
            plan.gaps.append(Gap(InFile.of(file), GapReason.OUT_OF_MEMORY, "malware: not enough memory for this file"))
            whole = False
        except Exception as error:  # noqa: BLE001  hostile bytes may raise anything: this is the border
            plan.gaps.append(Gap(InFile.of(file), GapReason.DETECTOR_FAILED, f"malware: {error!r}"[:500]))
            whole = False
        plan.content = None
        if whole and plan.digest and isinstance(content, Content) and not content.sparse:
            if not found:
                self._seen.add(plan.digest)
            keys.append(_record(key_of(plan.digest, file.size), found))
        return tuple(found) if whole or found else None

    def _keep(self, plan: _Plan, content: tuple[FoundMessage, ...] | None, said: Sequence[tuple[str, Message]]) -> None:
        """Write into the row what a later scan may say again without a look."""
        assert plan.row is not None
        plan.row.complete = (
            plan.row.complete
            and (content is not None or bool(plan.gaps))
            and not any(gap.reason in _AGAIN for gap in plan.gaps)
        )
        if content or said:
            raw = dump({"content": content, "said": said})
            if len(raw) <= _MAX_INODE_BYTES // 4:
                plan.row.results = raw
            else:
                plan.row.complete = False

    def _carried(self, found: Found, count: Work) -> Iterator[tuple[str, bytes]]:
        count.files += len(found.paths)
        count.carried += len(found.paths)
        if stat.S_ISREG(found.mode):
            count.size += found.size
        if found.results:
            yield from repeat(found.results, self._volume, found.paths)

    def _blocks(self, rows: Sequence[Row | Found]) -> bytes:
        """Rows for the manifest. A block of the base that did not change goes on as it is, which costs nothing."""
        out: list[bytes] = []
        fresh: list[Row] = []
        at = 0
        while at < len(rows):
            one = rows[at]
            same = one.block_if_first(rows, at) if isinstance(one, Found) else None
            if same is None:
                fresh.append(one.row if isinstance(one, Found) else one)
                at += 1
            if fresh and (same is not None or at == len(rows) or len(fresh) >= _BLOCK_ROWS):
                out.append(self._framed(fresh[0].inode, fresh[-1].inode, len(fresh), encode(fresh)))
                fresh = []
            if same is not None:
                out.append(self._framed(same.first, same.last, len(same), same.raw))
                at += len(same)
        return b"".join(out)

    def _framed(self, first: int, last: int, rows: int, raw: bytes) -> bytes:
        return BLOCK_HEAD.pack(self._volume, first, last, rows, len(raw)) + raw


def repeat(results: bytes, volume: int, paths: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """What an earlier scan said of a file, said again."""
    kept = load(results)
    for kind, value in (*_named(kept["content"] or (), volume, paths), *kept["said"]):
        if kind in {"gaps", "findings"}:
            yield kind, dump(value)


def _named(content: Sequence[FoundMessage], volume: int, paths: Sequence[bytes]) -> Iterator[tuple[str, Message]]:
    for path in paths:
        for _, finding in content:
            yield "findings", finding | {"where": ["file", volume, path_out(path)]}


def _placeless(finding: Finding) -> dict[str, Any]:
    message = finding_out(finding)
    del message["where"]
    return message


def _record(key: bytes, found: Sequence[FoundMessage]) -> bytes:
    """A verdict on its way to the parent: key, length of the JSON, JSON."""
    raw = dump({"findings": list(found)}) if found else b""
    return key + len(raw).to_bytes(4, "little") + raw


def _with_holes(file: FileEntry) -> tuple[tuple[int, int], ...]:
    """Where the content is on the volume, in the order of the file, holes included: equal only if the content is laid out alike."""
    places: list[tuple[int, int]] = []
    at = 0
    for extent in file.extents():
        if extent.logical > at:
            places.append((HOLE, extent.logical - at))
        places.append((extent.offset, extent.length))
        at = extent.logical + extent.length
    if places and at < file.size:
        places.append((HOLE, file.size - at))
    return tuple(places)


def _digest_of(file: FileEntry) -> bytes:
    """16 bytes for all extended attributes, none for none."""
    attributes = file.xattrs()
    if not attributes:
        return b""
    digest = hashlib.sha256()
    for name, value in sorted(attributes.items()):
        digest.update(len(name).to_bytes(4, "little") + name + len(value).to_bytes(4, "little") + value)
    return digest.digest()[:16]


def dump_counts(volume: int, count: Work, read: int) -> bytes:
    figures = (
        *(volume, read, count.files, count.size, count.carried, count.hashed, count.hashed_bytes),
        *(count.scanned, count.scanned_bytes, count.known, count.matched, count.incomplete),
    )
    return b"[" + b",".join(b"%d" % figure for figure in figures) + b"]"
