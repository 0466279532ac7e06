"""Lists as people and as programs read them, the same for all commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from rich.console import Console
from rich.table import Table
from typer import Option

from core.text import printable

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T", bound="BaseModel")
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class ListFormat(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"


class OneFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


ListAs = Annotated[ListFormat, Option("--format", help="What to print.")]
OneAs = Annotated[OneFormat, Option("--format", help="What to print.")]


def print_list(
    found: Iterable[T], output_format: ListFormat, titles: Sequence[str], words: Callable[[T], Sequence[str]], noun: str
) -> int:
    """How many there were. Titles that end in `#` are of numbers, those in `!` of words that stay whole if they can. JSON lines are ASCII and come as they arrive."""
    if output_format is ListFormat.JSONL:
        count = 0
        for count, one in enumerate(found, 1):  # noqa: B007  counted to the end
            print_json(one)
        return count
    rows = [words(one) for one in found]
    if rows:
        print_table(titles, rows)
        sys.stdout.write("\n")
    sys.stdout.write(f"{many(len(rows), noun)}\n")
    return len(rows)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=any(titles))
    for title in titles:
        mark = title[-1:]
        table.add_column(
            title.rstrip("#!"), overflow="fold", justify="right" if mark == "#" else "left", no_wrap=mark == "!"
        )
    for row in rows:
        table.add_row(*(printable(word) for word in row))
    Console(markup=False, highlight=False).print(table)


def print_json(document: BaseModel, *, indent: int | None = None) -> None:
    sys.stdout.write(json.dumps(document.model_dump(mode="json"), indent=indent) + "\n")


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """One thing, a line for each of its properties; empty ones are left out."""
    print_table(("", ""), [(name, value) for name, value in pairs if value])


def many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def ago(moment: datetime | None) -> str:
    """`3 min ago` or `in 2 h`: the nearest whole unit, as lists have no room for more."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    size, unit = next((one for one in _UNITS if abs(seconds) >= one[0]), (1, "s"))
    words = f"{abs(seconds) // size:.0f} {unit}"
    return f"{words} ago" if seconds >= 0 else f"in {words}"


def at(moment: datetime | None) -> str:
    """The moment itself, in UTC."""
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def number(value: int) -> str:
    return f"{value:,}" if value else ""


def found(result: str, findings: int, gaps: int) -> str:
    """What came of a scan, in as few words as lists have room for."""
    words = [many(findings, "finding")] if findings else []
    words += [many(gaps, "gap")] if gaps else []
    return ", ".join(words) or result
