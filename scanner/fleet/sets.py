"""The distinct contents of a machine's files, by SHA-256, for the console's question which machines hold one.

Read from the manifest by a process without keys or network, sorted on disk, written down in the fleet's database beside how it differs from
the set of the scan's base, and sent before the result that names it. A machine whose set is too large, or cannot be read, goes without.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from sqlalchemy import Connection, delete, select

from client.api import Console
from client.model import MOST_PIECE_HASHES, MOST_SET_HASHES, FilePieceIn, FileSetIn
from core.errors import ConfigError, Error, LimitExceeded
from scanner.fleet.context import Context
from scanner.fleet.database import Database
from scanner.fleet.patience import lasting
from scanner.fleet.tables import file_piece, file_set, outbox
from scanner.machine import manifest_hashes, opened_manifest
from scanner.sandbox import Silent

HASH_BYTES: Final = 32
_RUN_HASHES: Final = 1 << 18  # sorted in memory at once: about 25 MB
_MOST_RUNS: Final = 400
_READ_HASHES: Final = 2048
_TIMEOUT_SECONDS: Final = 1800.0
_ABANDONED_MS: Final = 2 * 86_400_000  # what no result has named by then was of a scan that did not end so
Change = tuple[bytes, bytes]  # hashes that are added, and removed


class Sorted:
    """Hashes that come in any order, given back ascending, each once. Memory is bounded; the rest is in a file without a name in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._file: Final[BinaryIO] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by `close`
        self._run: set[bytes] = set()
        self._runs: list[tuple[int, int]] = []

    def close(self) -> None:
        self._file.close()

    def add(self, hashes: bytes) -> None:
        """Raises `LimitExceeded`, `ConfigError` if the folder is full."""
        if len(hashes) % HASH_BYTES:
            raise ConfigError("what was read of a manifest is no hashes")
        self._run.update(hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES))
        if len(self._run) >= _RUN_HASHES:
            self.flush()

    def flush(self) -> None:
        if len(self._runs) >= _MOST_RUNS:
            raise LimitExceeded("the machine has too many files to say what they hold")
        try:
            start = self._file.seek(0, 2)
            self._file.write(b"".join(sorted(self._run)))
        except OSError as error:
            raise ConfigError(f"what files hold cannot be sorted ({error.strerror}): make room") from error
        self._runs.append((start, len(self._run)))
        self._run = set()

    def __iter__(self) -> Iterator[bytes]:
        """Raises `LimitExceeded` when there are more than a set may have."""
        if self._run:
            self.flush()
        last, count = b"", 0
        for one in heapq.merge(*(self._read(start, many) for start, many in self._runs)):
            if one != last:
                count += 1
                if count > MOST_SET_HASHES:
                    raise LimitExceeded(f"the machine has more than {MOST_SET_HASHES:,} different contents")
                yield one
                last = one

    def _read(self, start: int, count: int) -> Iterator[bytes]:
        for at in range(0, count, _READ_HASHES):
            self._file.seek(start + at * HASH_BYTES)
            raw = self._file.read(min(_READ_HASHES, count - at) * HASH_BYTES)
            yield from (raw[one : one + HASH_BYTES] for one in range(0, len(raw), HASH_BYTES))


@dataclass(frozen=True, slots=True)
class Name:
    digest: str
    count: int


def name_of(hashes: Sorted) -> Name:
    digest, count = hashlib.sha256(), 0
    for one in hashes:
        digest.update(one)
        count += 1
    return Name(digest.hexdigest(), count)


def pieces(hashes: Sorted) -> Iterator[Change]:
    """The set itself, as what is added to nothing."""
    every = iter(hashes)
    while some := b"".join(islice(every, MOST_PIECE_HASHES)):
        yield some, b""


def differences(old: Sorted, new: Sorted) -> Iterator[Change]:
    added, removed = bytearray(), bytearray()
    most = MOST_PIECE_HASHES * HASH_BYTES
    for one, into in _differences(iter(old), iter(new)):
        (added if into else removed).extend(one)
        if len(added) >= most or len(removed) >= most:
            yield bytes(added), bytes(removed)
            added, removed = bytearray(), bytearray()
    if added or removed:
        yield bytes(added), bytes(removed)


def _differences(old: Iterator[bytes], new: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """True: only the new one has it."""
    before, after = next(old, None), next(new, None)
    while before is not None or after is not None:
        if after is None or (before is not None and before < after):
            assert before is not None
            yield before, False
            before = next(old, None)
        elif before is None or after < before:
            yield after, True
            after = next(new, None)
        else:
            before, after = next(old, None), next(new, None)


class _Hearing(Silent):
    def __init__(self, into: Sequence[Sorted]) -> None:
        self._into = into

    def data(self, chunk: bytes) -> None:
        if not chunk or chunk[0] >= len(self._into):
            raise ConfigError("what was read of a manifest is no hashes")
        self._into[chunk[0]].add(chunk[1:])


def read(manifests: Sequence[Path], into: Sequence[Sorted]) -> None:
    """Raises `Error` if one cannot be read whole."""
    with ExitStack() as stack:
        opened = [stack.enter_context(opened_manifest(path)) for path in manifests]
        outcome = manifest_hashes(opened, _Hearing(into), timeout_seconds=_TIMEOUT_SECONDS)
    for gap in outcome.gaps:
        raise Error(f"the manifest cannot be read: {gap.detail}")


def made(context: Context, folder: Path, manifest: Path | None, base: Path) -> str:
    """The digest of what the machine's files hold, written down to be sent; empty if it cannot be known. Raises `Unavailable`."""
    paths = [path for path in (manifest, base) if path is not None and path.exists()]
    if manifest is None or manifest not in paths:
        return ""
    with ExitStack() as stack:
        try:
            found = [Sorted(folder) for _ in paths]
            for one in found:
                stack.callback(one.close)
            read(paths, found)
            names = [name_of(one) for one in found]
        except (Error, OSError):  # then the console says that it is not known
            return ""
        new, old = found[0], found[1] if len(found) > 1 else None
        write_down(context, new, names[0], old, names[1].digest if old else "")
    return names[0].digest


def write_down(context: Context, new: Sorted, name: Name, old: Sorted | None, base: str) -> None:
    """A piece is a transaction, and the set is the last: so other workers wait for none of them long."""
    database = context.database
    if base == name.digest:
        old, base = None, ""

    def is_there() -> bool:
        with database.read() as connection:
            return (
                connection.execute(select(file_set.c.digest).where(file_set.c.digest == name.digest)).first()
                is not None
            )

    def put(of: str, changes: Iterator[Change]) -> int:
        count = 0
        for count, (added, removed) in enumerate(changes, 1):
            row = {"digest": name.digest, "base": of, "number": count - 1, "added": added, "removed": removed}
            lasting(lambda row=row: _insert(context, row))  # type: ignore[misc]
        return count

    def kept() -> None:
        with database.write() as connection:
            context.fence.guard(connection)
            row = {"digest": name.digest, "count": name.count, "base": base, "pieces": whole, "base_pieces": changed}
            database.insert_missing(connection, file_set, [row | {"made_ms": database.now_ms(connection)}])

    if not lasting(is_there):  # else another machine has the same, and its result waits
        whole = put("", pieces(new))
        changed = put(base, differences(old, new)) if old is not None else 0
        lasting(kept)


def _insert(context: Context, row: dict[str, object]) -> None:
    with context.database.write() as connection:
        context.fence.guard(connection)
        context.database.insert_missing(connection, file_piece, [row])  # of one digest and base, all are equal


def send(console: Console, fleet: str, database: Database, digest: str) -> bool:
    """Whether the console has the set now. Raises `Error`."""
    with database.read() as connection:
        row = connection.execute(select(file_set).where(file_set.c.digest == digest)).mappings().first()
    if row is None:  # the console had it, for another result
        return console.offer_file_set(fleet, digest, FileSetIn(count=0, pieces=1)).state == "whole"
    count = row["count"]
    ways = [FileSetIn(count=count, pieces=row["pieces"])]
    if row["base"]:
        ways.insert(0, FileSetIn(count=count, base=row["base"], pieces=row["base_pieces"]))
    return any(_sent(console, fleet, database, digest, wanted) for wanted in ways)


def _sent(console: Console, fleet: str, database: Database, digest: str, wanted: FileSetIn) -> bool:
    found = console.offer_file_set(fleet, digest, wanted)
    if found.state != "wanted":
        return found.state == "whole"
    for number in found.missing:
        with database.read() as connection:
            mine = (
                file_piece.c.digest == digest,
                file_piece.c.base == wanted.base,
                file_piece.c.number == number,
            )
            piece = connection.execute(select(file_piece.c.added, file_piece.c.removed).where(*mine)).first()
        if piece is None:
            return False
        added, removed = (base64.b64encode(one).decode() for one in piece)
        console.send_file_piece(fleet, digest, number, FilePieceIn(added=added, removed=removed))
    return console.offer_file_set(fleet, digest, wanted).state == "whole"


def forget(connection: Connection, digest: str, now_ms: int) -> None:
    """The console has `digest`: it goes, and what was of scans that never ended, unless another result waits for it."""
    waiting = select(outbox.c.file_set).where(outbox.c.sent_ms.is_(None), outbox.c.refused.is_(None))
    done = (file_set.c.digest == digest) | (file_set.c.made_ms < now_ms - _ABANDONED_MS)
    gone = connection.execute(select(file_set.c.digest).where(done, file_set.c.digest.not_in(waiting))).scalars().all()
    connection.execute(delete(file_piece).where(file_piece.c.digest.in_(gone)))
    connection.execute(delete(file_set).where(file_set.c.digest.in_(gone)))
