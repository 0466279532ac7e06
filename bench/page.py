"""Results as tables: for a terminal and for docs/bench.md, the same Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """One measurement. `about` says what was done, `notes` what to keep in mind when reading the figures."""

    title: str
    about: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        parts = [f"## {self.title}", self.about, table(self.head, self.rows)]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to one width; all but the first stand right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = "|" + "|".join("-" * (width + 1) + (":" if at else "-") for at, width in enumerate(widths)) + "|"
    padded = [
        "| "
        + " | ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    return "\n".join([padded[0], rule, *padded[1:]])


def seconds(value: float) -> str:
    return f"{value:.2f}"


def megabytes(value: float) -> str:
    """Millions of bytes, as in MB/s."""
    return f"{value / 1e6:,.0f}"


def spread(values: Sequence[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}"
