"""What a parser process is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

from scanner.wire import Message, path_in, path_out


class Task(StrEnum):
    SCAN = "scan"
    LIST = "list"
    CAT = "cat"
    INVENTORY = "inventory"  # files for a manifest, hashed and not searched
    DIFF = "diff"
    HASHES = "hashes"  # of the files in manifests


@dataclass(frozen=True)
class Job:
    """One machine, one task. Built by the parent from its own options, so the parser may trust it.

    `rules` are (file name, source text) of the user's YARA files. `rows`: say what a manifest needs; `stamp_key` (hex) is for one
    without a base. `warm`: there are verdicts of earlier scans, so that there may be little to search. `changes` are, for each
    disk, the (offset, length) that changed since the base; None: compare with the base's disks. `full`: if the base does
    not fit, look at everything instead of refusing. `since`: by which name, for each disk, the base must have known it; empty: not asked. `ends_bytes`: of files too large to be scanned, scan that much of each end. `skip` are volumes that are done or that an earlier
    parser did not survive. `path` (and `volume`, if given) say what `cat` writes.
    """

    task: Task
    jobs: int = 2
    memory_bytes: int = 2 << 30
    cpu_seconds: int = 1 << 31
    file_timeout_seconds: float = 60.0
    index_timeout_seconds: float = 1800.0
    max_file_bytes: int = 256 << 20
    ends_bytes: int = 0
    rules: tuple[tuple[str, str], ...] = ()
    rows: bool = False
    stamp_key: str = ""
    warm: bool = False
    changes: tuple[tuple[tuple[int, int], ...], ...] | None = None
    full: bool = False
    since: tuple[str, ...] = ()
    skip: frozenset[int] = frozenset()
    hash: bool = False
    extents: bool = False
    xattrs: bool = False
    path: bytes = b""
    volume: int | None = None

    def to_message(self) -> Message:
        return asdict(self) | {"skip": sorted(self.skip), "path": path_out(self.path)}

    @classmethod
    def from_message(cls, message: Message) -> Job:
        return cls(
            **message
            | {
                "task": Task(message["task"]),
                "skip": frozenset(message["skip"]),
                "path": path_in(message["path"]),
                "since": tuple(message["since"]),
                "rules": tuple((name, text) for name, text in message["rules"]),
                "changes": None
                if message["changes"] is None
                else tuple(tuple((offset, length) for offset, length in disk) for disk in message["changes"]),
            }
        )
