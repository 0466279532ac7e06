from __future__ import annotations

import io
import json

import pytest

from core.findings import InFile, InVolume, Location, Machine, OnDisk
from scanner.reports.values import dump, location, plain


class Loud:
    def __str__(self) -> str:
        return "loud\ud800"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"a": 1, "b": None, "c": True, "d": 1.5}, {"a": 1, "b": None, "c": True, "d": 1.5}, id="plain"),
        pytest.param(b"\xff\\x41", "\\xff\\x5cx41", id="bytes"),
        pytest.param(memoryview(b"a"), "a", id="memoryview"),
        pytest.param("\ud83d\ude00", "\\ud83d\\ude00", id="surrogates-are-no-pair"),
        pytest.param("a\0\x1b\n", "a\0\x1b\n", id="controls-stay"),
        pytest.param(float("nan"), "nan", id="nan"),
        pytest.param(float("-inf"), "-inf", id="infinity"),
        pytest.param(2**64 - 1, 2**64 - 1, id="64-bits"),
        pytest.param(2**64, "0x10000000000000000", id="65-bits"),
        pytest.param({1: 2, b"\xff": 3}, {"1": 2, "\\xff": 3}, id="keys"),
        pytest.param((1, [2]), [1, [2]], id="tuple"),
        pytest.param({"b", "a"}, ["a", "b"], id="set"),
        pytest.param(Loud(), "loud\\ud800", id="object"),
        pytest.param("x" * 70_000, "x" * 65_536 + "... (4,464 more characters)", id="long-text"),
    ],
)
def test_plain(value: object, expected: object) -> None:
    assert plain(value) == expected


def test_plain_is_bounded() -> None:
    endless: list[object] = []
    endless += [endless] * 50
    wide = plain(endless)
    assert len(json.dumps(wide)) < 1 << 20
    assert len(plain(list(range(20_000)))) <= 10_001
    assert "(left out: too large)" in plain({str(number): number for number in range(20_000)}).values()
    assert plain(2**100_000).startswith("0x1000")
    deep: object = 0
    for _ in range(5_000):
        deep = [deep]
    assert "(left out: too large)" in json.dumps(plain(deep))


@pytest.mark.parametrize(
    ("where", "scope", "disk", "volume", "path"),
    [
        pytest.param(Machine(), "machine", None, None, None, id="machine"),
        pytest.param(OnDisk(1), "disk", 1, None, None, id="disk"),
        pytest.param(InVolume(0), "volume", None, 0, None, id="volume"),
        pytest.param(InFile(2, b"/\xff"), "file", None, 2, "/\\xff", id="file"),
    ],
)
def test_location(where: Location, scope: str, disk: int | None, volume: int | None, path: str | None) -> None:
    assert location(where) == {"scope": scope, "disk": disk, "volume": volume, "path": path}


def test_dump_is_ascii_and_ends_its_line() -> None:
    stream = io.StringIO()
    dump({"é": "日"}, stream)
    assert stream.getvalue() == '{\n  "\\u00e9": "\\u65e5"\n}\n'
