"""Bars as SVG, readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_ROW: Final = 34
_LEFT: Final = 170
_WIDTH: Final = 760
_STYLE: Final = (
    "text{font:14px sans-serif;fill:#222}.bar{fill:#2f6f9f}.peer{fill:#8a8a8a}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.bar{fill:#6fb1df}.peer{fill:#777}}"
)
PEERS: Final = ("yara", "clamscan", "read and hash")


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    value: float


def bars(groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """For each group a title and one row for each part, the value written at its end; peers are grey."""
    lines: list[str] = []
    y = 0
    for title, parts in groups:
        most = max(part.value for part in parts)
        lines.append(f'<text x="10" y="{y + 24}" font-weight="bold">{escape(title)}</text>')
        y += 40
        for part in parts:
            width = max(2, round((_WIDTH - _LEFT - 90) * part.value / most))
            kind = "peer" if part.name in PEERS else "bar"
            lines += [
                f'<text x="{_LEFT - 10}" y="{y + 18}" text-anchor="end">{escape(part.name)}</text>',
                f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{width}" height="{_ROW - 10}" rx="3"/>',
                f'<text x="{_LEFT + width + 8}" y="{y + 18}">{part.value:.2f}</text>',
            ]
            y += _ROW
        y += 16
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *lines, "</svg>", ""])
