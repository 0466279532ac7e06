"""`kumomori scan`: look at a machine's disks and report."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

from typer import Exit, Option, Typer

from cli.options import (
    STDOUT,
    AcceptGap,
    Cache,
    CacheBytes,
    Disks,
    FileTimeoutSeconds,
    Format,
    Full,
    Jobs,
    Manifest,
    MaxFileBytes,
    MaxMemoryBytes,
    Output,
    OutputFormat,
    Rules,
    ScanEndsBytes,
    TimeoutSeconds,
    scan_options,
)
from cli.pipes import reader_may_leave
from cli.progress import progress_on_stderr
from core.errors import ConfigError
from core.text import printable
from scanner.changes import read_changes
from scanner.disks import Identity, identity
from scanner.machine import scan_machine
from scanner.report import Report
from scanner.reports import FORMATS
from scanner.reports.files import check_target, write_atomically

app = Typer(
    no_args_is_help=True, help="Look at a machine's disks and report what is wrong in them.", rich_markup_mode=None
)


@app.callback()
def _scan() -> None:
    """Look at a machine's disks and report what is wrong in them."""


@app.command("image", short_help="Scan disk images or block devices of one machine.")
def scan_image(
    disks: Disks,
    output_format: Format = OutputFormat.TABLE,
    output: Output = STDOUT,
    rules: Rules = None,
    max_file_bytes: MaxFileBytes = 256 << 20,
    jobs: Jobs = None,
    timeout_seconds: TimeoutSeconds = 6 * 3600,
    file_timeout_seconds: FileTimeoutSeconds = 60,
    max_memory_bytes: MaxMemoryBytes = 2 << 30,
    scan_ends_bytes: ScanEndsBytes = 0,
    cache: Cache = None,
    cache_bytes: CacheBytes = 1 << 30,
    machine: Annotated[
        str,
        Option(
            help="Name of this machine in the cache, for `kumomori cache revoke`. [default: path of disk 0]",
            show_default=False,
        ),
    ] = "",
    manifest: Manifest = None,
    base: Annotated[
        Path | None,
        Option(
            help="Manifest of an earlier scan of this machine: look only at what changed. Needs --changed or --base-image.",
            show_default=False,
        ),
    ] = None,
    changed: Annotated[
        list[Path] | None,
        Option(
            help='What changed since the base: a JSON list of {"offset": bytes, "length": bytes}. Once for each disk.',
            show_default=False,
        ),
    ] = None,
    base_image: Annotated[
        list[Path] | None,
        Option(
            help="The disk as the base saw it: finds what changed by comparing. Once for each disk.", show_default=False
        ),
    ] = None,
    full: Full = False,
    accept_gap: AcceptGap = None,
) -> None:
    """Scan the disks of one machine, without mounting or changing them.

    Exits 0: clean, and all of it was looked at (or only accepted gaps); 1: findings; 3: no findings, but gaps;
    2: it could not start.
    """
    for disk in disks:
        if str(disk).startswith("aws:/"):
            raise ConfigError(f"{printable(str(disk))}: is in a cloud; use `kumomori scan snapshot` or `scan instance`")
    if base is None and (changed or base_image or full):
        raise ConfigError("--changed, --base-image and --full say how to use a base: give its manifest with --base")
    if base is not None and bool(changed) == bool(base_image):
        raise ConfigError("--base needs to know what changed since: give either --changed or --base-image")
    given = [*disks, *(rules or ()), *(changed or ()), *(base_image or ()), *([base] if base else ())]
    check_targets(output, manifest, given)
    options = scan_options(
        ends_bytes=scan_ends_bytes,
        cache=cache,
        cache_bytes=cache_bytes,
        machine=machine,
        manifest=manifest,
        base=base,
        changes=tuple(tuple(read_changes(path)) for path in changed) if changed else None,
        base_disks=tuple(base_image or ()),
        full=full,
        rules=rules,
        jobs=jobs,
        max_file_bytes=max_file_bytes,
        max_memory_bytes=max_memory_bytes,
        timeout_seconds=timeout_seconds,
        file_timeout_seconds=file_timeout_seconds,
        accept_gap=accept_gap,
    )
    with progress_on_stderr("Scanning") as listener:
        report = scan_machine(disks, options, listener, warn)
    finish(report, output, output_format)


def check_targets(output: Path, manifest: Path | None, given: list[Path]) -> None:
    """That no file which is read is written. Raises `ConfigError`."""
    check_target(output, _inputs(given))
    if manifest is not None:
        check_target(manifest, _inputs(given))
        if os.path.realpath(manifest) == os.path.realpath(output) or (
            manifest.exists() and output.exists() and manifest.samefile(output)
        ):
            raise ConfigError("--manifest and --output name the same file; give two")


def finish(report: Report, output: Path, output_format: OutputFormat) -> NoReturn:
    """Write the report and leave with its exit code."""
    check_target(output, report.inputs)  # by now the files that the disks name are known, too
    with reader_may_leave():
        write_atomically(output, lambda stream: FORMATS[output_format](report, stream))
    raise Exit(report.exit_code)


def warn(text: str) -> None:
    sys.stderr.write(f"kumomori: {printable(text)}\n")


def _inputs(paths: list[Path]) -> set[Identity]:
    """The files among `paths`; what is wrong with the others is told when they are read."""
    found = set()
    for path in paths:
        try:
            found.add(identity(path))
        except (OSError, ValueError):
            continue
    return found
