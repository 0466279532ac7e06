"""`kumomori cache`: look into a folder of verdicts, and take verdicts back."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from core.errors import ConfigError
from core.text import printable
from scanner.verdicts import VerdictCache

app = Typer(no_args_is_help=True, help="Look into a folder of verdicts, and take verdicts back.", rich_markup_mode=None)

Folder = Annotated[Path, Argument(metavar="DIR", help="The folder that scans got with --cache.", show_default=False)]


class CacheFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


def _opened(folder: Path) -> VerdictCache:
    if not (folder / "current").is_file():
        raise ConfigError(f"{printable(str(folder))}: holds no verdicts; give a folder that a scan got with --cache")
    return VerdictCache.open(folder, warn=_warn)


def _warn(text: str) -> None:
    sys.stderr.write(f"kumomori: {printable(text)}\n")


@app.command(short_help="What the folder holds.")
def show(
    folder: Folder,
    output_format: Annotated[CacheFormat, Option("--format", help="What to print.")] = CacheFormat.TABLE,
) -> None:
    """What the folder holds: how many verdicts, from when, and the machines that most of them come from."""
    with _opened(folder) as cache:
        stats = cache.stats()
    oldest, newest = (
        None if one is None else one.isoformat(timespec="seconds") for one in (stats.oldest, stats.newest)
    )
    if output_format is CacheFormat.JSON:
        document = {
            "verdicts": stats.verdicts,
            "bytes": stats.bytes,
            "generations": stats.generations,
            "scans": stats.scans,
            "oldest": oldest,
            "newest": newest,
            "machines": [{"machine": name, "verdicts": count} for name, count in stats.machines],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    sys.stdout.write(f"{_many(stats.verdicts, 'verdict')} in {stats.bytes / (1 << 20):.1f} MiB\n")
    sys.stdout.write(f"{_many(stats.generations, 'generation')} of rules, {_many(stats.scans, 'scan')}\n")
    if oldest:
        sys.stdout.write(f"first scan {oldest}, last scan {newest}\n\n")
    for name, count in stats.machines:
        sys.stdout.write(f"{count:>12,}  {printable(name)}\n")


@app.command(short_help="Forget verdicts that are not to be trusted any more.")
def revoke(
    folder: Folder,
    machine: Annotated[str | None, Option(help="Of this machine (see `show`).", show_default=False)] = None,
    scan: Annotated[
        str | None, Option(help="Of the scan with this id (it stands in its manifest).", show_default=False)
    ] = None,
    since: Annotated[
        str | None,
        Option(help="Of scans that began then or later: 2026-01-31T12:00, UTC unless it says so.", show_default=False),
    ] = None,
    until: Annotated[str | None, Option(help="Of scans that began then or before.", show_default=False)] = None,
) -> None:
    """Forget verdicts that are not to be trusted any more, such as those of a machine that was broken into.

    All that is given must fit. Their contents are searched again, wherever they turn up. A scan that is under way and fits
    leaves nothing in the folder either.
    """
    if machine is None and scan is None and since is None and until is None:
        raise ConfigError("say whose verdicts to take back: --machine, --scan, --since or --until")
    with _opened(folder) as cache:
        gone = cache.revoke(machine=machine, scan=scan, since=_time(since), until=_time(until))
    sys.stdout.write(f"{_many(gone, 'verdict')} revoked.\n")


@app.command(short_help="Forget the verdicts not used for the longest time.")
def trim(
    folder: Folder,
    most_bytes: Annotated[int, Option(min=0, help="How much the verdicts may take.", show_default=False)],
) -> None:
    """Forget the verdicts that were not used for the longest time."""
    with _opened(folder) as cache:
        gone = cache.trim(most_bytes)
    sys.stdout.write(f"{_many(gone, 'verdict')} forgotten.\n")


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{printable(text)}: is no time; write it like 2026-01-31T12:00 or 2026-01-31T12:00+09:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
