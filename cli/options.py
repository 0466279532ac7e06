"""Options that several commands share, so that they mean the same everywhere."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from core.findings import GapReason
from scanner.machine import ScanOptions

# Beyond these the system's own calls refuse the number.
_MOST_SECONDS = 365 * 24 * 3600
_MOST_MEMORY_BYTES = 1 << 50

Disks = Annotated[
    list[Path],
    Argument(metavar="DISK", help="Disk images (raw, qcow2) or block devices of ONE machine.", show_default=False),
]
Jobs = Annotated[
    int | None,
    Option("--jobs", "-j", min=1, max=64, help="Worker processes; all cores by default.", show_default=False),
]
TimeoutSeconds = Annotated[
    float, Option(min=0.1, max=_MOST_SECONDS, help="Most seconds for the whole machine; what is left then is a gap.")
]
FileTimeoutSeconds = Annotated[
    float, Option(min=0.1, max=_MOST_SECONDS, help="Most seconds for one file; it is a gap then.")
]
MaxMemoryBytes = Annotated[
    int, Option(min=128 << 20, max=_MOST_MEMORY_BYTES, help="Most memory of each process that reads the disk.")
]


class OutputFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    SARIF = "sarif"
    OCSF = "ocsf"


Format = Annotated[OutputFormat, Option("--format", help="What to print.")]
Output = Annotated[Path, Option(help="File to write, replaced only when whole; - is the standard output.")]
Rules = Annotated[
    list[Path] | None,
    Option(help="YARA rules to use beside the built-in ones: a file or a folder. Repeatable.", show_default=False),
]
MaxFileBytes = Annotated[int, Option(min=1, help="Larger files are not searched for malware; each is a gap.")]
ScanEndsBytes = Annotated[
    int, Option(min=0, help="Of files over --max-file-bytes, search this much of each end; they stay gaps.")
]
Cache = Annotated[
    Path | None,
    Option(
        help="Folder of verdicts that scans share: content that was searched once is not searched again.",
        show_default=False,
    ),
]
CacheBytes = Annotated[int, Option(min=16 << 20, help="Most bytes that the folder of verdicts takes.")]
Manifest = Annotated[
    Path | None,
    Option(help="File to write: all that the disks hold, as the base of later scans.", show_default=False),
]
Full = Annotated[bool, Option("--full", help="If the base does not fit, scan everything instead of refusing.")]
AcceptGap = Annotated[
    list[GapReason] | None,
    Option(
        metavar="KIND",
        help="A kind of gap that does not change the exit code; it is still printed. Repeatable.",
        show_default=False,
    ),
]
STDOUT = Path("-")


def scan_options(
    *,
    rules: list[Path] | None,
    jobs: int | None,
    accept_gap: list[GapReason] | None,
    **others: Any,
) -> ScanOptions:
    """What the options above say, as one; `others` are `ScanOptions` fields under their own names."""
    return ScanOptions(
        rules=tuple(rules or ()),
        jobs=jobs or len(os.sched_getaffinity(0)),
        accepted=frozenset(accept_gap or ()),
        **others,
    )
