"""`kumomori scan`: look at a machine's disks and report."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Exit, Option, Typer

from cli.options import Disks, FileTimeoutSeconds, Jobs, MaxMemoryBytes, TimeoutSeconds
from cli.pipes import reader_may_leave
from cli.progress import progress_on_stderr
from core.findings import GapReason
from scanner.disks import Identity, identity
from scanner.machine import ScanOptions, scan_machine
from scanner.reports import FORMATS
from scanner.reports.files import check_target, write_atomically

app = Typer(
    no_args_is_help=True, help="Look at a machine's disks and report what is wrong in them.", rich_markup_mode=None
)


class OutputFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    SARIF = "sarif"
    OCSF = "ocsf"


@app.callback()
def _scan() -> None:
    """Look at a machine's disks and report what is wrong in them."""


@app.command("image")
def scan_image(
    disks: Disks,
    output_format: Annotated[OutputFormat, Option("--format", help="What to print.")] = OutputFormat.TABLE,
    output: Annotated[Path, Option(help="File to write, replaced only when whole; - is the standard output.")] = Path(
        "-"
    ),
    rules: Annotated[
        list[Path] | None,
        Option(help="YARA rules to use beside the built-in ones: a file or a folder. Repeatable.", show_default=False),
    ] = None,
    max_file_bytes: Annotated[
        int, Option(min=1, help="Larger files are not searched for malware; each is a gap.")
    ] = 256 << 20,
    jobs: Jobs = None,
    timeout_seconds: TimeoutSeconds = 6 * 3600,
    file_timeout_seconds: FileTimeoutSeconds = 60,
    max_memory_bytes: MaxMemoryBytes = 2 << 30,
    accept_gap: Annotated[
        list[GapReason] | None,
        Option(
            metavar="KIND",
            help="A kind of gap that does not change the exit code; it is still printed. Repeatable.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Scan the disks of one machine, without mounting or changing them.

    Exits 0: clean, and all of it was looked at (or only accepted gaps); 1: findings; 3: no findings, but gaps;
    2: it could not start.
    """
    check_target(output, _inputs([*disks, *(rules or ())]))
    options = ScanOptions(
        rules=tuple(rules or ()),
        jobs=jobs or len(os.sched_getaffinity(0)),
        max_file_bytes=max_file_bytes,
        max_memory_bytes=max_memory_bytes,
        timeout_seconds=timeout_seconds,
        file_timeout_seconds=file_timeout_seconds,
        accepted=frozenset(accept_gap or ()),
    )
    with progress_on_stderr("Scanning") as listener:
        report = scan_machine(disks, options, listener)
    check_target(output, report.inputs)  # by now the files that the disks name are known, too
    with reader_may_leave():
        write_atomically(output, lambda stream: FORMATS[output_format](report, stream))
    raise Exit(report.exit_code)


def _inputs(paths: list[Path]) -> set[Identity]:
    """The files among `paths`; what is wrong with the others is told when they are read."""
    found = set()
    for path in paths:
        try:
            found.add(identity(path))
        except (OSError, ValueError):
            continue
    return found
