"""`kumomori diff`: what differs between two states of a machine's disks."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from cli.aws import DATA, Access, Data, Endpoint, ExternalId, RoleName
from cli.disks import is_far, looked_at
from cli.options import FileTimeoutSeconds, Jobs, MaxMemoryBytes, TimeoutSeconds
from cli.pipes import reader_may_leave
from cli.progress import progress_on_stderr
from core.findings import Gap
from core.text import printable
from scanner.machine import ScanOptions, diff_manifests, is_manifest, opened_manifest, write_manifest
from scanner.sandbox import Silent
from scanner.wire import Message

SCHEMA = "kumomori.diff/1"
_SIGNS = {"added": "+", "removed": "-", "changed": "*", "moved": ">"}


class DiffFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


_Place = Argument(
    metavar="OLD",
    help="Disk image, block device, snapshot (aws://ACCOUNT/REGION/snap-...), or a manifest that a scan has written.",
    show_default=False,
)


def diff(
    old: Annotated[str, _Place],
    new: Annotated[str, Argument(metavar="NEW", help="The same, of later.", show_default=False)],
    output_format: Annotated[DiffFormat, Option("--format", help="What to print.")] = DiffFormat.TABLE,
    jobs: Jobs = None,
    timeout_seconds: TimeoutSeconds = 6 * 3600,
    file_timeout_seconds: FileTimeoutSeconds = 600,
    max_memory_bytes: MaxMemoryBytes = 2 << 30,
    role: RoleName = "",
    external_id: ExternalId = "",
    endpoint_url: Endpoint = "",
    data: Data = DATA,
) -> None:
    """Compare two states of one machine: files added (+), removed (-), moved (>) and changed (*), with what changed of them.

    Content is compared by SHA-256, so that a file with its old time and size set back shows. Of a disk every file is read;
    a manifest (`kumomori scan image --manifest`) is compared as it is.
    Volumes that only one of them has come with all their files. What a scan could not look at, then or now, is a gap.
    Exits 0: nothing differs; 1: something does; 3: nothing differs in what could be read, but not all could; 2: it could not
    start.
    """
    printer = _Table() if output_format is DiffFormat.TABLE else _Json(old, new)
    gaps: list[str] = []
    options = ScanOptions(
        jobs=jobs or len(os.sched_getaffinity(0)),
        max_memory_bytes=max_memory_bytes,
        timeout_seconds=timeout_seconds,
        file_timeout_seconds=file_timeout_seconds,
    )
    with reader_may_leave():
        with ExitStack() as stack:
            manifests: list[int] = []
            access = Access(role, external_id, endpoint_url)
            for name, text in (("old", old), ("new", new)):
                if not is_far(text) and is_manifest(Path(text)):
                    manifests.append(stack.enter_context(opened_manifest(Path(text))))
                    continue
                stream = stack.enter_context(
                    tempfile.TemporaryFile()
                )  # without a name: nothing is left if we are killed
                with (
                    progress_on_stderr(f"Reading {printable(Path(text).name)}") as listener,
                    looked_at([text], access, data) as (disk,),
                ):
                    gaps += [_said(gap, f"{name}: ") for gap in write_manifest(disk, stream, options, listener)]
                manifests.append(os.open(f"/proc/self/fd/{stream.fileno()}", os.O_RDONLY | os.O_CLOEXEC))
                stack.callback(os.close, manifests[-1])
            before, after = manifests
            outcome = diff_manifests(
                before, after, printer, max_memory_bytes=max_memory_bytes, timeout_seconds=timeout_seconds
            )
        gaps = list(dict.fromkeys([*gaps, *(_said(gap) for gap in outcome.gaps)]))
        printer.end(gaps)
        sys.stdout.flush()
    raise Exit(1 if printer.count else 3 if gaps else 0)


def _said(gap: Gap, which: str = "") -> str:
    return f"{gap.where}: {gap.reason.value}: {which}{gap.detail}"


class _Table(Silent):
    """One line for each change, then totals."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()

    def change(self, change: Message) -> None:
        self.count[change["kind"]] += 1
        sys.stdout.write(line(change) + "\n")

    def end(self, gaps: list[str]) -> None:
        for gap in gaps:
            sys.stdout.write(f"gap  {printable(gap)}\n")
        total = ", ".join(f"{self.count[kind]:,} {kind}" for kind in _SIGNS if self.count[kind])
        if self.count:
            sys.stdout.write("\n")
        if not gaps:
            sys.stdout.write(f"{total or 'Nothing differs'}.\n")
            return
        many = f"{len(gaps):,} gap{'' if len(gaps) == 1 else 's'}"
        sys.stdout.write(f"{total or 'Nothing differs in what could be read'}; {many}: not all could be compared.\n")


class _Json(Silent):
    """One document, written as the changes come."""

    def __init__(self, old: str, new: str) -> None:
        self.count: Counter[str] = Counter()
        self._head = json.dumps({"schema": SCHEMA, "old": old, "new": new})[:-1] + ', "changes": ['
        self._begun = False

    def change(self, change: Message) -> None:
        sys.stdout.write((",\n" if self._begun else self._head + "\n") + json.dumps(change))
        self._begun = True
        self.count[change["kind"]] += 1

    def end(self, gaps: list[str]) -> None:
        if not self._begun:
            sys.stdout.write(self._head)
        sys.stdout.write(f'\n], "gaps": {json.dumps(gaps)}}}\n')


def line(change: Message) -> str:
    """One change for a person."""
    old, new = change["old"], change["new"]
    side = new or old
    text = f"{_SIGNS[change['kind']]} {printable(change['path'])}"
    if change["kind"] == "moved":
        text = f"> {printable(old['path'])} -> {printable(new['path'])}"
    if old is None or new is None:
        return f"{text}  {stat.filemode(side['mode'])} {side['uid']}:{side['gid']} {side['size']:,} bytes"
    said = [_SAID[what](old, new) for what in change["what"]]
    return f"{text}  {', '.join(said)}" if said else text


def _time(side: Message) -> str:
    try:
        moment = datetime.fromtimestamp(side["mtime_ns"] // 1_000_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"@{side['mtime_ns'] // 1_000_000_000}"
    return moment.strftime("%Y-%m-%d %H:%M:%S")


_SAID: dict[str, Callable[[Message, Message], str]] = {
    "content": lambda _old, _new: "content",
    "content?": lambda _old, _new: "content not known",
    "type": lambda old, new: f"{printable(old['type'])} became {printable(new['type'])}",
    "size": lambda old, new: f"size {old['size']:,} -> {new['size']:,}",
    "owner": lambda old, new: f"owner {old['uid']}:{old['gid']} -> {new['uid']}:{new['gid']}",
    "mode": lambda old, new: f"mode {stat.filemode(old['mode'])} -> {stat.filemode(new['mode'])}",
    "mtime": lambda old, new: f"time {_time(old)} -> {_time(new)}",
    "xattrs": lambda _old, _new: "extended attributes",
    "links": lambda old, new: f"links {old['nlink']} -> {new['nlink']}",
    "deleted": lambda _old, new: "deleted, still open" if new["deleted"] else "has a name again",
}
