"""One inode on its way through the three steps of `scanner.pipeline`."""

from __future__ import annotations

from collections.abc import Sequence

from core.files import FileEntry
from core.findings import Gap
from scanner.base import Found
from scanner.detectors.content import Content
from scanner.lookup import Verdict
from scanner.manifest.block import Row


class Plan:
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
