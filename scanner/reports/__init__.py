"""How a report is written: one module a format, one entry in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TextIO

from scanner.report import Report
from scanner.reports.document import to_json
from scanner.reports.ocsf import to_ocsf
from scanner.reports.sarif import to_sarif
from scanner.reports.values import dump

Writer = Callable[[Report, TextIO], None]


def _table(report: Report, stream: TextIO) -> None:
    from scanner.reports.table import console_for, write_table  # noqa: PLC0415 - rich comes with the `cli` extra only

    write_table(report, console_for(stream))


FORMATS: Mapping[str, Writer] = {
    "table": _table,
    "json": lambda report, stream: dump(to_json(report), stream),
    "sarif": lambda report, stream: dump(to_sarif(report), stream),
    "ocsf": lambda report, stream: dump(to_ocsf(report), stream),
}
"""The value of `--format` and what writes it. `json`, `sarif` and `ocsf` write one JSON document each."""
