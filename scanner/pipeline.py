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
from typing import Final

from core.blocks import Extent
from core.errors import Error
from core.files import FileEntry
from core.findings import Detector, Finding, Gap, GapReason, InFile, InVolume, Package
from scanner.base import BaseVolume, Found
from scanner.detectors.content import Content, read_content, read_ends, view_of
from scanner.detectors.malware import Malware
from scanner.filesystems import Filesystem
from scanner.gaps import reason_of
from scanner.lookup import CLEAN, Client, FoundMessage, key_of
from scanner.manifest.block import Row
from scanner.manifest.rows import Kept, add_row, blocks_of
from scanner.plan import Plan
from scanner.said import Work, dump_counts, named, placeless, record, repeat
from scanner.scan import chunks, scan_inode
from scanner.shared import Seen
from scanner.unchanged import Comparison
from scanner.wire import Message, dump, finding_out, gap_out, package_out
from scanner.workers import Piece, Position, piece

_MAX_INODE_BYTES: Final = 16 << 20  # what may be said of one inode, by all its names: it must fit into a frame
_PIECE_BYTES: Final = 4 << 20  # an answer of more than this is sent at once, not when its batch is done
HELD_BYTES: Final = 8 << 20  # contents that are kept between hashing and scanning, besides views of the disk
_MAX_HOLES_BYTES: Final = 4 << 30  # of a file with longer holes only what it stores is looked at, without a hash
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
        self._comparison = Comparison(filesystem, settings.stamp_key)
        self._bytes_read = bytes_read
        self._prefetch = prefetch
        # rules that ask for names cannot be judged by content: they run like the checks of settings do
        self._malware = next((one for one in detectors if isinstance(one, Malware) and one.content_only), None)
        self._others = [one for one in detectors if one is not self._malware]
        self._rows = settings.rows or base is not None

    def work(self, start: int, stop: int, position: Position) -> Iterator[Piece]:
        before = self._bytes_read()
        count = Work()
        plans: list[tuple[int, Plan | Found]] = []
        held = 0
        if self._prefetch is not None and self._base is not None:
            position.enter(start)
            self._prefetch(self._comparison.contents_to_compare(start, stop, self._base))
        for at in range(start, stop):
            position.enter(at)
            plan = self._look(at, count)
            if plan is not None:
                plans.append((at, plan))
            if self._prefetch is None and isinstance(plan, Plan):
                held = self._hash(plan, held, count)
        if self._prefetch is not None:
            self._announce([plan for _, plan in plans if isinstance(plan, Plan)], self._prefetch)
            for at, plan in plans:
                if isinstance(plan, Plan):
                    position.enter(at)
                    held = self._hash(plan, held, count)
        position.rest()
        self._ask([plan for _, plan in plans if isinstance(plan, Plan)], position.worker, count)
        told: dict[str, list[bytes]] = {}
        rows: list[Row | Kept] = []
        keys: list[bytes] = []
        size = 0
        for at, plan in plans:
            files_before, size_before = count.files, count.size
            said: Iterable[tuple[str, bytes]] = ()
            if not isinstance(plan, Plan):
                said = self._repeated(plan, count)
            elif not self._is_quiet(plan, count):
                position.enter(at)
                said = self._said(plan, count, keys)
            for kind, raw in said:
                told.setdefault(kind, []).append(raw)
                size += len(raw)
            if self._settings.rows:
                row = plan.row if isinstance(plan, Plan) else plan
                size += add_row(rows, row) if row is not None else 0
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
        rows: Sequence[Row | Kept],
    ) -> Piece:
        told["counts"] = [dump_counts(self._volume, count, self._bytes_read() - before)]
        return piece(after, told, b"".join(keys), blocks_of(self._volume, rows))

    # the first step

    def _look(self, at: int, count: Work) -> Plan | Found | None:
        """What to do with an inode: None for nothing, a row of the base that holds as it stands, or a plan."""
        filesystem, base = self._filesystem, self._base
        number, paths = filesystem.names(at)
        if not paths:
            return None
        found = base.find(number) if base else None
        if base is None or found is None:
            plan = Plan(at, number, filesystem.inode(at), None)
            if self._rows:
                self._comparison.describe(plan)
            return plan
        count.matched += 1
        usable = found.complete
        if usable and found.paths == paths and self._comparison.is_untouched(base, number, found):
            count.hashed += found.was_read
            count.hashed_bytes += found.was_read * found.size
            if base.is_current:
                return found
            plan = Plan(at, number, filesystem.inode(at), found)
            if plan.file is not None:
                plan.row = replace(found.row, results=b"")
                plan.digest = found.row.sha256
            return plan
        plan = Plan(at, number, filesystem.inode(at), found)
        self._comparison.describe(plan)
        if usable and plan.row is not None:
            self._comparison.compare(plan, base, found, plan.row)
        return plan

    # hashing

    def _announce(self, plans: Sequence[Plan], prefetch: Prefetch) -> None:
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

    def _hash(self, plan: Plan, held: int, count: Work) -> int:
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

    def _read(self, plan: Plan, file: FileEntry, held: int, count: Work) -> int:
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

    def _hash_long(self, plan: Plan, file: FileEntry, count: Work) -> None:
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

    def _ask(self, plans: Sequence[Plan], worker: int, count: Work) -> None:
        wanted: list[tuple[Plan, bytes]] = []
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

    def _said(self, plan: Plan, count: Work, keys: list[bytes]) -> Iterator[tuple[str, bytes]]:
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
            said += [_message(result) for result in scan_inode(plan.items, self._others)]
        if plan.row is not None:
            self._keep(plan, content, said)
            count.incomplete += not plan.row.complete
        elif self._settings.rows and said:
            count.incomplete += 1  # no row tells of it: a later scan has to look again
        for kind, value in (*named(content or (), self._volume, [file.path for file in files]), *said):
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

    def _is_quiet(self, plan: Plan, count: Work) -> bool:
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

    def _judge(self, plan: Plan, file: FileEntry, count: Work, keys: list[bytes]) -> tuple[FoundMessage, ...] | None:
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
                    found.append((result[0], placeless(result[1])))
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
            verdict = record(key_of(plan.digest, file.size), found)
            if len(verdict) <= _MAX_INODE_BYTES // 4:
                keys.append(verdict)
        return tuple(found) if whole or found else None

    def _keep(self, plan: Plan, content: tuple[FoundMessage, ...] | None, said: Sequence[tuple[str, Message]]) -> None:
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


def _message(result: Finding | Package | Gap) -> tuple[str, Message]:
    match result:
        case Gap():
            return "gaps", gap_out(result)
        case Package():
            return "packages", package_out(result)
        case Finding():
            return "findings", finding_out(result)


def _target_of(file: FileEntry) -> bytes:
    """Hash of where a symbolic link leads, empty if that cannot be read."""
    try:
        return hashlib.sha256(file.open().read(_MAX_TARGET_BYTES)).digest()
    except Error:
        return b""
