"""The report for a person at a terminal.

All text that comes from a disk goes through `core.text.printable` and then into `Text` objects, which rich never reads as
markup. Long paths wrap; nothing is cut, but of very many findings and gaps only the first are shown, and it says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from itertools import groupby
from typing import TextIO

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from core.findings import Finding, Gap, InFile, Severity
from core.text import escape, printable
from scanner.report import Coverage, GuardReport, Report, VolumeReport

WIDTH = 100
FINDINGS_SHOWN = 500
GAPS_SHOWN = 20
EXAMPLES_SHOWN = 3

STYLES: Mapping[Severity, str] = {
    Severity.CRITICAL: "bold white on red",
    Severity.HIGH: "bold red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
    Severity.INFO: "dim",
}


def console_for(stream: TextIO) -> Console:
    """A console on `stream`: as wide as the terminal, or 100 columns and without colour if it is none."""
    terminal = stream.isatty()
    return Console(
        file=stream,
        width=None if terminal else WIDTH,
        color_system="auto" if terminal else None,
        force_terminal=terminal,
        markup=False,
        emoji=False,
        highlight=False,
    )


def write_table(report: Report, console: Console) -> None:
    """Write the header, the findings, what to do, the gaps, and a verdict of one sentence as the last line."""
    _header(report, console)
    if report.findings:
        _findings(report, console)
        _remedies(report, console)
    if report.gaps:
        _gaps(report, console)
    console.print()
    style = {"clean": "bold green", "findings": "bold red", "gaps": "bold yellow"}[report.result]
    console.print(Text(verdict(report), style))


def verdict(report: Report) -> str:
    """The result in one sentence. It never says that all was looked at when a part was not, accepted or not."""
    open_gaps = sum(gap.count for gap in report.open_gaps)
    gaps = _count(open_gaps, "gap")
    if report.findings:
        found = _count(len(report.findings), "finding")
        return f"{found}, and {gaps}: not everything was looked at." if open_gaps else f"{found}."
    if open_gaps:
        return f"No findings, but {gaps}: not everything was looked at."
    if not report.stats.files:
        return "Clean, but there was no file to look at."
    seen = f"{_count(report.stats.files, 'file')} on {_count(len(report.volumes), 'volume')}"
    if report.gaps:
        accepted = report.gap_count
        return f"Clean: {seen} looked at, {_count(accepted, 'gap')} accepted."
    return f"Clean: all {seen} were looked at."


def _header(report: Report, console: Console) -> None:
    started = report.started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for number, disk in enumerate(report.target):
        grid.add_row(f"Disk {number}", _text(disk))
    grid.add_row("Scanned", _text(f"{started}, {_seconds(report.stats.wall_seconds)}, {_read(report)}"))
    grid.add_row("Work", _text(_coverage(report.coverage)))
    if report.coverage.base_refused:
        grid.add_row("Base", _text(f"not used: {report.coverage.base_refused}", "yellow"))
    if report.packages:
        kinds = Counter(package.type for package in report.packages)
        grid.add_row("Packages", _text(", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))))
    grid.add_row("Rules", _text(f"{report.rules.count:,} (Kumomori {report.version})"))
    if report.guards:
        grid.add_row("Guards", _guards(report.guards))
    console.print(grid)
    if report.volumes:
        console.print()
        console.print(_volumes(report.volumes))


def _coverage(coverage: Coverage) -> str:
    """What was done for the result, in one line."""
    parts = [
        f"{_count(coverage.files_scanned, 'content')} searched ({_size(coverage.bytes_scanned)})",
        f"{coverage.files_hashed:,} hashed ({_size(coverage.bytes_hashed)})",
        f"{coverage.verdicts_known:,} with a known verdict",
    ]
    if coverage.mode == "incremental":
        parts.append(f"{_count(coverage.files_carried, 'file')} carried over, {coverage.inodes_gone:,} gone")
    return ", ".join(parts)


def _guards(guards: Sequence[GuardReport]) -> Text:
    inactive = [
        f"{guard.name} ({guard.detail})" if guard.detail else guard.name for guard in guards if not guard.active
    ]
    words = f"{len(guards) - len(inactive)} active"
    return _text(f"{words}; not active: {', '.join(inactive)}", "yellow") if inactive else _text(words)


def _volumes(volumes: Sequence[VolumeReport]) -> Table:
    table = _table()
    for name in ("Vol", "Disk", "Files", "Size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Kind", no_wrap=True)
    table.add_column("Format", overflow="fold")
    table.add_column("Label", overflow="fold")
    table.add_column("UUID", overflow="fold")
    for volume in volumes:
        table.add_row(
            str(volume.index),
            str(volume.disk),
            f"{volume.files:,}",
            _size(volume.length),
            _text(volume.kind),
            _text(volume.filesystem) if volume.filesystem is not None else Text("none", "dim"),
            _text(volume.label),
            _text(volume.uuid),
        )
    return table


def _findings(report: Report, console: Console) -> None:
    _heading(console, "Findings", len(report.findings))
    table = _table()
    table.add_column("Severity", no_wrap=True)
    table.add_column("Rule, subject", overflow="fold", max_width=44)
    table.add_column("Vol", justify="right", no_wrap=True)
    table.add_column("Path", overflow="fold", ratio=1)
    for finding in report.findings[:FINDINGS_SHOWN]:
        table.add_row(*_finding(finding))
    console.print(table)
    _more(console, len(report.findings) - FINDINGS_SHOWN)


def _finding(finding: Finding) -> tuple[Text, Text, str, Text]:
    severity = finding.rule.severity
    what = _text(finding.rule.id)
    if finding.subject and (not finding.rule.id.startswith("malware/") or ":" in finding.subject):
        what.append("\n" + printable(finding.subject), "dim")
    return (
        Text(f" {severity.value} ", STYLES[severity]),
        what,
        str(finding.where.volume),
        _text(escape(finding.where.path)),
    )


def _remedies(report: Report, console: Console) -> None:
    rules = report.rules_found()
    _heading(console, "What to do")
    for rule in rules[:FINDINGS_SHOWN]:
        line = Text.assemble((printable(rule.id), "bold"), "  ", printable(rule.title), overflow="fold")
        console.print(Padding(line, (0, 0, 0, 1)))
        console.print(Padding(_text(rule.remedy), (0, 0, 0, 5)))
    _more(console, len(rules) - FINDINGS_SHOWN)


def _gaps(report: Report, console: Console) -> None:
    _heading(console, "Gaps: not looked at", report.gap_count)
    groups = _by_reason(report.gaps)
    examples = max(1, min(EXAMPLES_SHOWN, GAPS_SHOWN // len(groups)))
    table = _table()
    table.add_column("Reason", no_wrap=True)
    table.add_column("Count", justify="right", no_wrap=True)
    table.add_column("Where and why", overflow="fold", ratio=1)
    shown = 0
    for gaps in groups:
        reason = gaps[0].reason
        accepted = reason in report.accepted
        words = f"{reason.value}\n(accepted)" if accepted else reason.value
        lines = Text("\n").join(_gap(gap) for gap in gaps[:examples])
        shown += sum(gap.count for gap in gaps[:examples])
        count = f"{sum(gap.count for gap in gaps):,}"
        table.add_row(Text(words, "dim" if accepted else "yellow"), count, lines, style="dim" if accepted else None)
    console.print(table)
    _more(console, report.gap_count - shown)


def _by_reason(gaps: Iterable[Gap]) -> list[list[Gap]]:
    """The gaps of each reason, in report order, but those that stand for many last; the reason with the most first."""
    ordered = sorted(gaps, key=lambda gap: (gap.reason.value, gap.count > 1))
    groups = [list(group) for _, group in groupby(ordered, key=lambda gap: gap.reason)]
    return sorted(groups, key=lambda group: -sum(gap.count for gap in group))


def _gap(gap: Gap) -> Text:
    where = gap.where
    # the path comes first, so that a long one wraps at the column's edge and not after the word "volume"
    words = f"{escape(where.path)} (volume {where.volume})" if isinstance(where, InFile) else str(where)
    return Text.assemble(printable(words), (" - ", "dim"), printable(gap.detail))


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")


def _heading(console: Console, words: str, count: int | None = None) -> None:
    console.print()
    console.print(Text(words if count is None else f"{words} ({count:,})", "bold underline"))


def _more(console: Console, count: int) -> None:
    if count > 0:
        console.print(Text(f"... and {count:,} more: use --format json", "dim"))


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style, overflow="fold")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _read(report: Report) -> str:
    disks = "disk" if len(report.target) == 1 else "disks"
    return f"{_size(report.stats.bytes_read)} read from {disks} of {_size(report.stats.bytes_total)}"


def _size(size: float) -> str:
    """Bytes in the unit that keeps the number below 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
