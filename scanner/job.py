"""What a parser process is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

from scanner.wire import Message, path_in, path_out


class Task(StrEnum):
    SCAN = "scan"
    LIST = "list"
    CAT = "cat"


@dataclass(frozen=True)
class Job:
    """One machine, one task. Built by the parent from its own options, so the parser may trust it.

    `rules` are (file name, source text) of the user's YARA files. `skip` are volumes that are done or that an earlier
    parser did not survive. `path` (and `volume`, if given) say what `cat` writes.
    """

    task: Task
    jobs: int = 2
    memory_bytes: int = 2 << 30
    cpu_seconds: int = 1 << 31
    file_timeout_seconds: float = 60.0
    index_timeout_seconds: float = 1800.0
    max_file_bytes: int = 256 << 20
    rules: tuple[tuple[str, str], ...] = ()
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
                "rules": tuple((name, text) for name, text in message["rules"]),
            }
        )
