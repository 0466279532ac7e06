"""`kumomori ls` and `kumomori cat`: look into a disk without mounting it."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Annotated

from typer import Argument, Exit, Option

from cli.aws import DATA, Access, Data, Endpoint, ExternalId, RoleName
from cli.disks import LookDisk, LookDisks, looked_at
from cli.options import FileTimeoutSeconds, Jobs, MaxMemoryBytes, TimeoutSeconds
from cli.pipes import reader_may_leave
from core.errors import ConfigError
from core.findings import Gap, InFile, InVolume, Machine
from core.text import escape, printable, unescape
from scanner.job import Job, Task
from scanner.machine import opened
from scanner.sandbox import Outcome, Silent, run
from scanner.wire import Message


class ListFormat(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"


def ls(
    disks: LookDisks,
    hashed: Annotated[bool, Option("--hash", help="Read every file and print its SHA-256.")] = False,
    extents: Annotated[
        bool, Option("--extents", help="Print where each file's bytes are on the disk (jsonl only).")
    ] = False,
    xattrs: Annotated[bool, Option("--xattrs", help="Print extended attributes, values in hex (jsonl only).")] = False,
    output_format: Annotated[ListFormat, Option("--format", help="What to print.")] = ListFormat.TABLE,
    jobs: Jobs = None,
    timeout_seconds: TimeoutSeconds = 6 * 3600,
    file_timeout_seconds: FileTimeoutSeconds = 600,
    max_memory_bytes: MaxMemoryBytes = 2 << 30,
    role: RoleName = "",
    external_id: ExternalId = "",
    endpoint_url: Endpoint = "",
    data: Data = DATA,
) -> None:
    r"""List every file of the disks of one machine, deleted but still open ones too.

    Bytes of a name that are not UTF-8 are printed as \xNN. What could not be read is a line of type "gap".
    Exits 0: all of it was listed; 3: there are gaps; 2: it could not start.
    """
    if (extents or xattrs) and output_format is not ListFormat.JSONL:
        raise ConfigError("--extents and --xattrs need --format jsonl")
    job = Job(
        task=Task.LIST,
        jobs=jobs or len(os.sched_getaffinity(0)),
        memory_bytes=max_memory_bytes,
        file_timeout_seconds=file_timeout_seconds,
        hash=hashed,
        extents=extents,
        xattrs=xattrs,
    )
    write = _jsonl if output_format is ListFormat.JSONL else partial(_table_line, hashed=hashed)
    with reader_may_leave():
        with looked_at(disks, Access(role, external_id, endpoint_url), data) as given, opened(given) as opened_disks:
            outcome = run(opened_disks, job, timeout_seconds=timeout_seconds, listener=_Rows(write))
        gaps = _gaps(outcome)
        for gap in gaps:
            write(gap)
        sys.stdout.flush()
    raise Exit(3 if gaps else 0)


def cat(
    disk: LookDisk,
    path: Annotated[
        str,
        Argument(metavar="PATH", help=r"Absolute path as `kumomori ls` prints it, \xNN included.", show_default=False),
    ],
    volume: Annotated[
        int | None, Option(help="Volume to look in, if several hold that path.", show_default=False)
    ] = None,
    timeout_seconds: TimeoutSeconds = 6 * 3600,
    max_memory_bytes: MaxMemoryBytes = 2 << 30,
    role: RoleName = "",
    external_id: ExternalId = "",
    endpoint_url: Endpoint = "",
    data: Data = DATA,
) -> None:
    """Write one file of a disk to the standard output; of a symbolic link, where it leads.

    Exits 0: all of it was written; 3: it could not be read to its end; 2: there is no such file, or it could not start.
    """
    wanted = unescape(path)
    job = Job(task=Task.CAT, jobs=1, memory_bytes=max_memory_bytes, path=wanted, volume=volume)
    with reader_may_leave():
        with looked_at([disk], Access(role, external_id, endpoint_url), data) as given, opened(given) as disks:
            outcome = run(disks, job, timeout_seconds=timeout_seconds, listener=_Bytes())
        sys.stdout.buffer.flush()
    gaps = list(outcome.gaps)
    if not any(isinstance(gap.where, Machine) for gap in gaps):  # the file was there: only what is about it counts
        gaps = [gap for gap in gaps if isinstance(gap.where, InFile) and gap.where.path == wanted]
    for gap in gaps:
        sys.stderr.write(f"kumomori: {printable(str(gap.where))}: {gap.reason.value}: {printable(gap.detail)}\n")
    raise Exit(3 if gaps else 0)


class _Rows(Silent):
    def __init__(self, write: Callable[[Message], None]) -> None:
        self._write = write

    def row(self, row: Message) -> None:
        self._write(row)


class _Bytes(Silent):
    def data(self, chunk: bytes) -> None:
        sys.stdout.buffer.write(chunk)


def _gaps(outcome: Outcome) -> list[Message]:
    return [_gap_row(gap) for gap in outcome.gaps]


def _gap_row(gap: Gap) -> Message:
    where = gap.where
    return {
        "volume": where.volume if isinstance(where, (InFile, InVolume)) else None,
        "path": escape(where.path) if isinstance(where, InFile) else None,
        "type": "gap",
        "where": str(where),
        "reason": gap.reason.value,
        "detail": gap.detail,
        "count": gap.count,
    }


def _jsonl(row: Message) -> None:
    sys.stdout.write(json.dumps(row) + "\n")


def _table_line(row: Message, *, hashed: bool) -> None:
    if row["type"] == "gap":
        sys.stdout.write(f"gap  {printable(row['where'])}: {row['reason']}: {printable(row['detail'])}\n")
        return
    try:
        modified = datetime.fromtimestamp(row["mtime_ns"] // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        modified = f"@{row['mtime_ns'] // 1_000_000_000}"
    line = f"{row['volume']:>2} {stat.filemode(row['mode'])} {row['nlink']:>3} {row['uid']:>5} {row['gid']:>5} {row['size']:>12} {modified:<16} "
    if hashed:
        line += f"{row.get('sha256') or '-':<64} "
    line += printable(row["path"])
    if row.get("target") is not None:
        line += f" -> {printable(row['target'])}"
    if row["deleted"]:
        line += " (deleted, still open)"
    sys.stdout.write(line + "\n")
