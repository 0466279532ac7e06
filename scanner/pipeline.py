"""What a worker does with a batch of inodes: carry over what did not change, hash what may have, scan what is unknown.

In three steps, so that the parent is asked for verdicts once for many files: (1) records are compared with the base, and
contents hashed while their bytes are in hand; (2) one question for all hashes; (3) what is unknown goes to the engine, and
everything is said in the order of the inodes.
"""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from core.blocks import Extent
from core.errors import Error
from core.files import FileEntry
from core.findings import Detector, Finding, Gap, GapReason, InFile, InVolume
from scanner.base import BaseBlock, BaseVolume, Found
from scanner.detectors.content import Content, read_content, read_ends, view_of
from scanner.detectors.malware import Malware
from scanner.filesystems import Filesystem
from scanner.gaps import reason_of
from scanner.lookup import CLEAN, Client, FoundMessage, Verdict, key_of
from scanner.manifest.block import MAX_ROWS, STAMP_BYTES, Columns, Row, weight_of
from scanner.scan import chunks, scan_inode
from scanner.shared import Seen
from scanner.wire import BLOCK_HEAD, Message, dump, finding_out, gap_out, load, path_out
from scanner.workers import Piece, Position, piece

HOLE: Final = (1 << 64) - 1  # in a manifest, the offset of a part of a file that is not stored
_MAX_INODE_BYTES: Final = 16 << 20  # what may be said of one inode, by all its names: it must fit into a frame
_PIECE_BYTES: Final = 4 << 20  # an answer of more than this is sent at once, not when its batch is done
HELD_BYTES: Final = 8 << 20  # contents that are kept between hashing and scanning, besides views of the disk
_MAX_HOLES_BYTES: Final = 4 << 30  # of a file with longer holes only what it stores is looked at, without a hash
_BLOCK_ROWS: Final = 1024
_BLOCK_WEIGHT: Final = 8 << 20  # bytes of paths, results and places, about
_AT_ONCE_BYTES: Final = 8 << 20  # contents up to this are hashed to see whether they changed, before anything else
_MAX_NAMES: Final = 1 << 17  # of one file in a manifest
_MAX_NAMES_BYTES: Final = 12 << 20
_MAX_EXTENTS: Final = 1 << 16  # of one file in a manifest; a file in more pieces is looked at again each time
_MAX_TARGET_BYTES: Final = 1 << 16
_EMPTY: Final = hashlib.sha256(b"").digest()
_AGAIN: Final = frozenset(
    {
        *(GapReason.TIMEOUT, GapReason.OUT_OF_MEMORY, GapReason.CRASHED, GapReason.DETECTOR_FAILED),
        *(GapReason.UNREADABLE, GapReason.CORRUPT),
    }
)  # a later scan has to look again, whatever the blocks say


Prefetch = Callable[[Sequence[Extent]], None]


@dataclass(frozen=True)
class Settings:
    """What of a `Job` matters here. `rows`: a manifest is wanted. `ends_bytes`: of larger files, scan that much of each end.

    `warm`: most contents are known by their hash. `stamp_key`: secret to whoever writes the disks, so that no two records can be made that have the same stamp.
    """

    max_file_bytes: int
    file_timeout_seconds: float
    ends_bytes: int = 0
    rows: bool = False
    warm: bool = False
    stamp_key: bytes = b""
    held_bytes: int = HELD_BYTES


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


class _Plan:
    """One inode on its way through the three steps. `carried`: all that was said of it then holds; `row` may be new."""

    __slots__ = (
        "at",
        "before",
        "carried",
        "content",
        "digest",
        "file",
        "gaps",
        "items",
        "judged",
        "number",
        "row",
        "verdict",
    )

    def __init__(self, at: int, number: int, items: Sequence[FileEntry | Gap], before: Found | None) -> None:
        self.at = at
        self.number = number
        self.items = items
        self.before = before
        self.file: FileEntry | None = next((item for item in items if not isinstance(item, Gap)), None)
        self.carried = False
        self.row: Row | None = None
        self.content: Content | None = None
        self.digest = b""
        self.judged = False  # its content is to be judged by the engine
        self.verdict: Verdict | None = None
        self.gaps: list[Gap] = []


class _Kept:
    """Rows `start` to `stop` of a block of the base, for the new manifest as they stand."""

    __slots__ = ("block", "start", "stop")

    def __init__(self, block: BaseBlock, start: int) -> None:
        self.block = block
        self.start = start
        self.stop = start + 1


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
        prefetch: Prefetch | None = None,
    ) -> None:
        self._volume = volume
        self._filesystem = filesystem
        self._settings = settings
        self._seen = seen
        self._clients = clients
        self._base = base
        self._bytes_read = bytes_read
        self._prefetch = prefetch
        # rules that ask for names cannot be judged by content: they run like the checks of settings do
        self._malware = next((one for one in detectors if isinstance(one, Malware) and one.content_only), None)
        self._others = [one for one in detectors if one is not self._malware]
        self._rows = settings.rows or base is not None

    def work(self, start: int, stop: int, position: Position) -> Iterator[Piece]:
        before = self._bytes_read()
        count = Work()
        plans: list[tuple[int, _Plan | Found]] = []
        held = 0
        if self._prefetch is not None and self._base is not None:
            position.enter(start)
            self._announce_touched(start, stop, self._base, self._prefetch)
        for at in range(start, stop):
            position.enter(at)
            plan = self._look(at, count)
            if plan is not None:
                plans.append((at, plan))
            if self._prefetch is None and isinstance(plan, _Plan):
                held = self._hash(plan, held, count)
        if self._prefetch is not None:
            self._announce([plan for _, plan in plans if isinstance(plan, _Plan)], self._prefetch)
            for at, plan in plans:
                if isinstance(plan, _Plan):
                    position.enter(at)
                    held = self._hash(plan, held, count)
        position.rest()
        self._ask([plan for _, plan in plans if isinstance(plan, _Plan)], position.worker, count)
        told: dict[str, list[bytes]] = {}
        rows: list[Row | _Kept] = []
        keys: list[bytes] = []
        size = 0
        for at, plan in plans:
            files_before, size_before = count.files, count.size
            said: Iterable[tuple[str, bytes]] = ()
            if not isinstance(plan, _Plan):
                said = self._repeated(plan, count)
            elif not self._is_quiet(plan, count):
                position.enter(at)
                said = self._said(plan, count, keys)
            for kind, raw in said:
                told.setdefault(kind, []).append(raw)
                size += len(raw)
            if self._settings.rows:
                size += _add_row(rows, plan)
            position.done(count.files - files_before, count.size - size_before)
            if size >= _PIECE_BYTES and at + 1 < stop:
                position.rest()
                yield self._piece(at + 1, told, count, before, keys, rows)
                told, rows, keys, size, before, count = {}, [], [], 0, self._bytes_read(), Work()
        position.rest()
        yield self._piece(stop, told, count, before, keys, rows)

    def _piece(
        self,
        after: int,
        told: dict[str, list[bytes]],
        count: Work,
        before: int,
        keys: Sequence[bytes],
        rows: Sequence[Row | _Kept],
    ) -> Piece:
        told["counts"] = [dump_counts(self._volume, count, self._bytes_read() - before)]
        return piece(after, told, b"".join(keys), self._blocks(rows))

    # the first step

    def _look(self, at: int, count: Work) -> _Plan | Found | None:
        """What to do with an inode: None for nothing, a row of the base that holds as it stands, or a plan."""
        filesystem, base = self._filesystem, self._base
        number, paths = filesystem.names(at)
        if not paths:
            return None
        found = base.find(number) if base else None
        if base is None or found is None:
            plan = _Plan(at, number, filesystem.inode(at), None)
            if self._rows:
                self._describe(plan)
            return plan
        count.matched += 1
        usable = found.complete
        if usable and found.paths == paths and self._is_untouched(base, number, found):
            count.hashed += found.was_read
            count.hashed_bytes += found.was_read * found.size
            if base.is_current:
                return found
            plan = _Plan(at, number, filesystem.inode(at), found)
            if plan.file is not None:
                plan.row = replace(found.row, results=b"")
                plan.digest = found.row.sha256
            return plan
        plan = _Plan(at, number, filesystem.inode(at), found)
        self._describe(plan)
        if usable and plan.row is not None:
            self._compare(plan, base, found, plan.row)
        return plan

    def _is_untouched(self, base: BaseVolume, number: int, found: Found) -> bool:
        """Whether all that decides about this inode is as it was: by its blocks, else by its record's stamp and its hash."""
        touch = base.changes.touch
        try:
            record = self._filesystem.record(number)
            if touch(record.offset, record.length) and (not found.stamp or found.stamp != self._stamp(number)):
                return False
        except Error:
            return False
        for offset, length in found.meta:
            if touch(offset, length):
                return False
        extents = found.extents
        if not any(offset != HOLE and touch(offset, length) for offset, length in extents):
            return True
        kind = stat.S_IFMT(found.mode)
        if kind == stat.S_IFDIR:
            return True  # of a directory's content only the names count, and they are the same
        found.was_read = kind == stat.S_IFREG and self._has_same_content(found, extents)
        return found.was_read

    def _stamp(self, number: int) -> bytes:
        """Raises `Corrupt`."""
        raw = self._filesystem.raw_record(number)
        return hashlib.blake2b(raw, digest_size=STAMP_BYTES, key=self._settings.stamp_key).digest()

    def _has_same_content(self, found: Found, extents: Sequence[tuple[int, int]]) -> bool:
        """Read what lies where the content was: is it what it was? False if it is too much to read at once."""
        then = found.sha256
        if not then or found.size > _AT_ONCE_BYTES or sum(length for _, length in extents) != found.size:
            return False
        read = self._filesystem.source.read
        digest = hashlib.sha256()
        try:
            for offset, length in extents:
                data = bytes(length) if offset == HOLE else read(offset, length)
                if len(data) != length:
                    return False
                digest.update(data)
        except Error:
            return False
        return digest.digest() == then

    def _describe(self, plan: _Plan) -> None:
        """The row of this inode as it is now, without the content's hash; None in its place if it has no record."""
        file = plan.file
        if file is None:
            return
        paths = tuple(item.path for item in plan.items if not isinstance(item, Gap))
        if len(paths) > _MAX_NAMES or sum(map(len, paths)) > _MAX_NAMES_BYTES:
            detail = f"its {len(paths)} names are more than a manifest holds of one file"
            plan.gaps.append(Gap(InFile.of(file), GapReason.LIMIT, detail))
            return
        complete = True
        extents: tuple[tuple[int, int], ...] = ()
        metadata: tuple[tuple[int, int], ...] = ()
        attributes = stamp = b""
        try:
            extents = _with_holes(file)
            metadata = tuple((one.offset, one.length) for one in self._filesystem.metadata(file))
            attributes = _digest_of(file)
            stamp = self._stamp(plan.number)
            if len(extents) + len(metadata) > _MAX_EXTENTS:
                extents, metadata, complete = (), (), False
        except Error:
            complete = False  # whoever reads the file says why
        plan.row = Row(
            inode=plan.number,
            paths=paths,
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
            stamp=stamp,
        )

    def _compare(self, plan: _Plan, base: BaseVolume, found: Found, now: Row) -> None:
        """The record changed: is the content where it was, and untouched? Is even all that a scan looks at as it was?"""
        then = found.row
        if not now.complete or (now.mode, now.size) != (then.mode, then.size):
            return
        if now.extents != then.extents or (not now.extents and now.size):
            return  # inline contents and long targets of links are in the record, which changed
        try:
            if plan.file is not None:
                plan.file.open().close()
        except Error:
            return  # it has become one that cannot be read
        touch = base.changes.touch
        if any(offset != HOLE and touch(offset, length) for offset, length in (*now.extents, *now.meta)):
            return
        now.sha256 = plan.digest = then.sha256
        looks_same = replace(now, stamp=then.stamp, results=then.results) == then
        if base.is_current and looks_same and not any(isinstance(item, Gap) for item in plan.items):
            plan.carried = True
            now.results = then.results

    # hashing

    def _announce(self, plans: Sequence[_Plan], prefetch: Prefetch) -> None:
        """Tell a disk that is far away what `_hash` is about to read of it."""
        if self._malware is None and not self._rows:
            return
        wanted: list[Extent] = []
        for plan in plans:
            file = plan.file
            if file is None or plan.carried or plan.digest or not stat.S_ISREG(file.mode):
                continue
            try:
                wanted += file.extents()
            except Error:
                pass  # whoever reads the file says why
        prefetch(wanted)

    def _announce_touched(self, start: int, stop: int, base: BaseVolume, prefetch: Prefetch) -> None:
        """The same of what `_has_same_content` is about to read."""
        wanted: list[Extent] = []
        for at in range(start, stop):
            number, paths = self._filesystem.names(at)
            found = base.find(number) if paths else None
            if found is not None and stat.S_ISREG(found.mode) and found.complete and found.size <= _AT_ONCE_BYTES:
                extents = found.extents
                if any(offset != HOLE and base.changes.touch(offset, length) for offset, length in extents):
                    wanted += [Extent(offset, length) for offset, length in extents if offset != HOLE]
        prefetch(wanted)

    def _hash(self, plan: _Plan, held: int, count: Work) -> int:
        """Hash the content unless the base tells its hash; returns how many bytes of contents are kept in memory."""
        file = plan.file
        if plan.carried or file is None:
            return held
        if stat.S_ISLNK(file.mode) and plan.row is not None and not plan.digest:
            plan.row.sha256 = plan.digest = _target_of(file)
        if not stat.S_ISREG(file.mode):
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
        lent = view_of(file) if file.size <= self._settings.max_file_bytes else None
        if (
            lent is None
            and self._settings.warm
            and self._prefetch is None
            and file.size <= self._settings.max_file_bytes
        ):
            self._hash_long(plan, file, count)  # what turns out to be unknown is read again
            return held
        content = Content(lent) if lent is not None else read_content(file, self._settings.max_file_bytes)
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
            if lent is None:  # a view of the disk costs nothing to keep
                held += len(content.data)
            if held <= self._settings.held_bytes:
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
            # of larger ones only a part was searched: that is no verdict, and the gap has to be said again
            fits = plan.file is not None and plan.file.size <= self._settings.max_file_bytes
            if plan.digest in self._seen:
                plan.verdict = CLEAN
                count.known += 1
                continue
            before = plan.before
            if fits and before and self._base and before.complete and before.row.sha256 == plan.digest:
                plan.verdict = self._base.verdict(before)
                if plan.verdict is not None and not plan.verdict.missing:
                    count.known += 1
                    continue
            if self._clients and plan.file is not None:
                wanted.append((plan, key_of(plan.digest, plan.file.size)))
        if wanted:
            answers = self._clients[worker].ask([key for _, key in wanted])
            for (plan, _), verdict in zip(wanted, answers, strict=True):
                if verdict is not None and (plan.verdict is None or len(verdict.missing) < len(plan.verdict.missing)):
                    plan.verdict = verdict
                    count.known += not verdict.missing

    # the third step

    def _said(self, plan: _Plan, count: Work, keys: list[bytes]) -> Iterator[tuple[str, bytes]]:
        """All that is to be said of one inode: kind and JSON."""
        if plan.carried and plan.before is not None:
            yield from self._repeated(plan.before, count)
            return
        files = [item for item in plan.items if not isinstance(item, Gap)]
        room = _MAX_INODE_BYTES
        said: list[tuple[str, Message]] = []
        content: tuple[FoundMessage, ...] | None = ()
        if plan.judged and self._malware is not None:
            content = self._judge(plan, files[0], count, keys)
        elif plan.gaps and self._malware is not None:
            content = None  # too large, or not to be read
        if plan.gaps:
            said += [("gaps", gap_out(gap)) for gap in dict.fromkeys(plan.gaps)]
        if len(files) < len(plan.items) or any(self._is_wanted(file) for file in files):
            said += [
                ("gaps", gap_out(result)) if isinstance(result, Gap) else ("findings", finding_out(result))
                for result in scan_inode(plan.items, self._others)
            ]
        if plan.row is not None:
            self._keep(plan, content, said)
            count.incomplete += not plan.row.complete
        elif self._settings.rows and said:
            count.incomplete += 1  # no row tells of it: a later scan has to look again
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

    def _is_quiet(self, plan: _Plan, count: Work) -> bool:
        """Whether there is nothing to say of an inode, as of most: then it is counted, and that is all."""
        file = plan.file
        if file is None or plan.gaps or plan.carried or len(plan.items) != 1:
            return False
        if (plan.judged and plan.verdict is not CLEAN) or self._is_wanted(file):
            return False
        count.files += 1
        if stat.S_ISREG(file.mode):
            count.size += file.size
        if plan.row is not None:
            count.incomplete += not plan.row.complete
        return True

    def _is_wanted(self, file: FileEntry) -> bool:
        try:
            for detector in self._others:
                if detector.wants(file):
                    return True
        except Exception:  # noqa: BLE001  `scan_inode` says which detector failed, and on what
            return True
        return False

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
            record = _record(key_of(plan.digest, file.size), found)
            if len(record) <= _MAX_INODE_BYTES // 4:
                keys.append(record)
        return tuple(found) if whole or found else None

    def _keep(self, plan: _Plan, content: tuple[FoundMessage, ...] | None, said: Sequence[tuple[str, Message]]) -> None:
        """Write into the row what a later scan may say again without a look."""
        assert plan.row is not None
        plan.row.complete = (
            plan.row.complete
            and (content is not None or bool(plan.gaps))
            and not any(kind == "gaps" and GapReason(value["reason"]) in _AGAIN for kind, value in said)
        )
        if content or said:
            raw = dump({"content": content, "said": said})
            # findings in the content are said of every name
            paths = plan.row.paths
            names = len(content or ()) * 6 * sum(map(len, paths)) if len(paths) > 1 else 0
            if len(raw) * max(1, len(paths) if content else 1) + names <= _MAX_INODE_BYTES // 4:
                plan.row.results = raw
            else:
                plan.row.complete = False

    def _repeated(self, found: Found, count: Work) -> Iterator[tuple[str, bytes]]:
        """What was said of it then, once more."""
        block, number = found.block.block, found.number
        names = block.name_starts[number + 1] - block.name_starts[number]
        count.files += names
        if found.was_read:
            count.known += 1
        else:
            count.carried += names
        if stat.S_ISREG(block.mode(number)):
            count.size += block.size(number)
        results = block.results(number)
        return repeat(results, self._volume, found.paths) if results else iter(())

    def _blocks(self, rows: Sequence[Row | _Kept]) -> bytes:
        """Rows for the manifest. A block of the base that did not change goes on as it is, which costs nothing."""
        out: list[bytes] = []
        columns = Columns()

        def flush() -> None:
            nonlocal columns
            if columns:
                inodes = columns.inodes
                out.append(self._framed(inodes[0], inodes[-1], len(columns), columns.encode()))
                columns = Columns()

        for one in rows:
            if isinstance(one, Row):
                columns.add(one)
            elif one.start == 0 and one.stop == len(one.block):
                flush()
                out.append(self._framed(one.block.first, one.block.last, len(one.block), one.block.raw))
            else:
                if len(columns) + one.stop - one.start > MAX_ROWS:
                    flush()
                columns.add_run(one.block.block, one.start, one.stop)
            if len(columns) >= _BLOCK_ROWS or columns.weight >= _BLOCK_WEIGHT:
                flush()
        flush()
        return b"".join(out)

    def _framed(self, first: int, last: int, rows: int, raw: bytes) -> bytes:
        return BLOCK_HEAD.pack(self._volume, first, last, rows, len(raw)) + raw


def _add_row(rows: list[Row | _Kept], plan: _Plan | Found) -> int:
    """About how many bytes it adds to a block."""
    if isinstance(plan, _Plan):
        if plan.row is None:
            return 0
        rows.append(plan.row)
        row = plan.row
        return len(row.results) + 16 * (len(row.extents) + len(row.meta)) + weight_of(row.paths)
    last = rows[-1] if rows else None
    if isinstance(last, _Kept) and last.block is plan.block and last.stop == plan.number:
        last.stop += 1
    else:
        rows.append(_Kept(plan.block, plan.number))
    block, number = plan.block.block, plan.number
    return 16 * (block.place_starts[number + 1] - block.place_starts[number]) + weight_of(plan.paths)


def repeat(results: bytes, volume: int, paths: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """What an earlier scan said of a file, said again."""
    kept = load(results)
    for kind, value in (*_named(kept["content"] or (), volume, paths), *kept["said"]):
        if kind in {"gaps", "findings"}:
            where = value["where"]
            if where[0] in {"file", "volume"}:
                where[1] = volume  # it may have had another number then
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


def _target_of(file: FileEntry) -> bytes:
    """Hash of where a symbolic link leads, empty if that cannot be read."""
    try:
        return hashlib.sha256(file.open().read(_MAX_TARGET_BYTES)).digest()
    except Error:
        return b""


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
