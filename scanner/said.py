"""What is said of inodes: counts, findings of contents under each of their names, verdicts, and what an earlier scan said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from core.findings import Finding
from scanner.lookup import FoundMessage
from scanner.wire import Message, dump, finding_out, load, path_out


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


def dump_counts(volume: int, count: Work, read: int) -> bytes:
    figures = (
        *(volume, read, count.files, count.size, count.carried, count.hashed, count.hashed_bytes),
        *(count.scanned, count.scanned_bytes, count.known, count.matched, count.incomplete),
    )
    return b"[" + b",".join(b"%d" % figure for figure in figures) + b"]"


def repeat(results: bytes, volume: int, paths: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    """What an earlier scan said of a file, said again."""
    kept = load(results)
    for kind, value in (*named(kept["content"] or (), volume, paths), *kept["said"]):
        if kind in {"gaps", "findings", "packages"}:
            where = value["where"]
            if where[0] in {"file", "volume"}:
                where[1] = volume  # it may have had another number then
            yield kind, dump(value)


def named(content: Sequence[FoundMessage], volume: int, paths: Sequence[bytes]) -> Iterator[tuple[str, Message]]:
    for path in paths:
        for _, finding in content:
            yield "findings", finding | {"where": ["file", volume, path_out(path)]}


def placeless(finding: Finding) -> dict[str, Any]:
    message = finding_out(finding)
    del message["where"]
    return message


def record(key: bytes, found: Sequence[FoundMessage]) -> bytes:
    """A verdict on its way to the parent: key, length of the JSON, JSON."""
    raw = dump({"findings": list(found)}) if found else b""
    return key + len(raw).to_bytes(4, "little") + raw
