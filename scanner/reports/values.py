"""Untrusted values as JSON: what every machine-readable format shares.

The output is ASCII and valid for strict readers: lone surrogates, NaN and endless integers, which Python would write but
others refuse, are written out as text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from core.findings import InFile, InVolume, Location, Machine, OnDisk
from core.text import escape

Json = Any
_MAX_VALUES = 10_000
_MAX_DEPTH = 6
_MAX_TEXT = 65_536
_MAX_INTEGER_BITS = 64
_LEFT_OUT = "(left out: too large)"


def clean(text: str) -> str:
    r"""`text` with each lone surrogate written out as `\udcNN`; all else, NUL and controls too, stays."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain(value: object) -> Json:
    """A finding's evidence as JSON values.

    Bytes become text by `core.text.escape`. At most 10,000 values, 6 levels and 65,536 characters a text are kept; in
    place of what is left out stands a text that says so. What JSON cannot hold becomes its `str`.
    """
    return _Plain().convert(value, 0)


class _Plain:
    """Counts the values of one evidence, so that wide and deep together stay bounded as well."""

    def __init__(self) -> None:
        self.left = _MAX_VALUES

    def convert(self, value: object, depth: int) -> Json:
        self.left -= 1
        if self.left < 0 or depth > _MAX_DEPTH:
            return _LEFT_OUT
        match value:
            case None | bool():
                return value
            case int():
                return int(value) if value.bit_length() <= _MAX_INTEGER_BITS else _text(hex(value))
            case float():
                return float(value) if math.isfinite(value) else str(float(value))
            case str():
                return _text(value)
            case bytes() | bytearray() | memoryview():
                return _text(escape(bytes(value)))
            case Mapping():
                return self._mapping(value, depth)
            case list() | tuple():
                return self._items(value, depth)
            case set() | frozenset():
                return self._items(sorted(value, key=repr), depth)
            case _:
                return _text(str(value))

    def _mapping(self, value: Mapping[Any, object], depth: int) -> dict[str, Json]:
        result: dict[str, Json] = {}
        for key, item in value.items():
            if self.left <= 0:
                result["..."] = _LEFT_OUT
                break
            result[_text(escape(key) if isinstance(key, bytes) else str(key))] = self.convert(item, depth + 1)
        return result

    def _items(self, value: Iterable[object], depth: int) -> list[Json]:
        result: list[Json] = []
        for item in value:
            result.append(self.convert(item, depth + 1))
            if self.left <= 0:
                break
        return result


def _text(text: str) -> str:
    if len(text) > _MAX_TEXT:
        text = f"{text[:_MAX_TEXT]}... ({len(text) - _MAX_TEXT:,} more characters)"
    return clean(text)


def location(where: Location) -> dict[str, Json]:
    """`where` with always the same keys: `scope`, and of `disk`, `volume` and `path` what applies, else null."""
    disk = where.disk if isinstance(where, OnDisk) else None
    volume = where.volume if isinstance(where, InVolume | InFile) else None
    path = escape(where.path) if isinstance(where, InFile) else None
    return {"scope": _scope(where), "disk": disk, "volume": volume, "path": path}


def _scope(where: Location) -> str:
    match where:
        case Machine():
            return "machine"
        case OnDisk():
            return "disk"
        case InVolume():
            return "volume"
        case InFile():
            return "file"


def dump(document: Json, stream: TextIO) -> None:
    """Write `document` as indented ASCII JSON with a newline at its end."""
    json.dump(document, stream, ensure_ascii=True, allow_nan=False, indent=2)
    stream.write("\n")
