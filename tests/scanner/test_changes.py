from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.blocks import Extent, MemorySource
from core.errors import ConfigError
from scanner.changes import GRAIN_BYTES, Changes, differences, read_changes

stretches = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=12)


def covered(pairs: list[tuple[int, int]]) -> set[int]:
    return {at for offset, length in pairs for at in range(offset, offset + length)}


@given(stretches)
def test_they_are_put_in_order_and_joined(pairs: list[tuple[int, int]]) -> None:
    changes = Changes(pairs)
    found = list(changes)
    assert covered([(one.offset, one.length) for one in found]) == covered(pairs)
    assert all(one.offset + one.length < other.offset for one, other in pairwise(found))
    assert changes.total == len(covered(pairs))
    assert changes.end == max(covered(pairs), default=-1) + 1
    assert len(changes) == len(found)


@given(stretches, st.integers(0, 80), st.integers(0, 15))
def test_touch(pairs: list[tuple[int, int]], offset: int, length: int) -> None:
    assert Changes(pairs).touch(offset, length) == bool(covered(pairs) & set(range(offset, offset + length)))


@given(stretches, st.integers(0, 40), st.integers(0, 40), stretches)
def test_within_a_volume_and_joined(
    pairs: list[tuple[int, int]], start: int, length: int, more: list[tuple[int, int]]
) -> None:
    inside = Changes(pairs).within(start, length)
    expected = {at - start for at in covered(pairs) if start <= at < start + length}
    assert covered([(one.offset, one.length) for one in inside]) == expected
    joined = inside.joined(more)
    assert covered([(one.offset, one.length) for one in joined]) == expected | covered(more)


def test_negative_numbers_are_refused() -> None:
    for pair in ((-1, 5), (1, -5)):
        with pytest.raises(ValueError):
            Changes([pair])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[]", [], id="nothing"),
        pytest.param('[{"offset": 5, "length": 1}, {"offset": 0, "length": 9}]', [(5, 1), (0, 9)], id="unsorted"),
        pytest.param('[{"length": 0, "offset": 0}]', [(0, 0)], id="empty"),
    ],
)
def test_a_file_of_extents(tmp_path: Path, text: str, expected: list[tuple[int, int]]) -> None:
    (tmp_path / "f").write_text(text)
    assert read_changes(tmp_path / "f") == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "null", "[1]", "[[0, 1]]", '[{"offset": 1}]', '[{"offset": -1, "length": 1}]', "[" * 100_000),
        *('[{"offset": 1.5, "length": 1}]', '[{"offset": true, "length": 1}]', '[{"offset": "1", "length": 1}]'),
        '[{"offset": 1, "length": 1, "disk": 0}]',
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(ConfigError, match="f: "):
        read_changes(tmp_path / "f")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_changes(tmp_path / "none")


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.binary(min_size=1, max_size=5).map(lambda seed: (seed * 40_000)[:30_000]),
    st.lists(st.tuples(st.integers(0, 29_999), st.integers(0, 255)), max_size=6),
    st.integers(-9000, 9000),
)
def test_differences_of_two_disks(old: bytes, edits: list[tuple[int, int]], longer: int) -> None:
    new = bytearray(old)
    for at, byte in edits:
        new[at] = byte
    new = new + bytes(longer) if longer > 0 else new[: len(new) + longer]
    found = covered(list(differences(MemorySource(old), MemorySource(bytes(new)))))
    differ = {at for at in range(max(len(old), len(new))) if old[at : at + 1] != bytes(new[at : at + 1])}
    assert differ <= found
    assert found <= {
        at for one in differ for at in range(one - one % GRAIN_BYTES, one - one % GRAIN_BYTES + GRAIN_BYTES)
    }


def test_equal_disks_have_no_differences() -> None:
    assert list(differences(MemorySource(b"a" * 9999), MemorySource(b"a" * 9999))) == []
    assert list(Changes([(4, 4)])) == [Extent(4, 4)]


BOMB = """
import resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from core.errors import ConfigError
from scanner.changes import read_changes
resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))
try:
    read_changes(Path(sys.argv[2]))
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "piece", ["[],", "[", "0,", '{"offset":1,"offset":2},', '{"offset":1,"length":2,"x":[]},', " "]
)
def test_a_large_file_of_something_else_takes_no_memory(tmp_path: Path, piece: str) -> None:
    (tmp_path / "f").write_text("[" + piece * (30_000_000 // len(piece)))
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(root), str(tmp_path / "f")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert "is not JSON" in done.stdout


@pytest.mark.parametrize(
    "text",
    ['[{"offset": 1, "length": 1}', '[{"offset": 1, "length": 1},]', "[]x", '[{"offset": 01, "length": 1}]', "[,]"],
)
def test_what_is_nearly_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(ConfigError, match="is not JSON"):
        read_changes(tmp_path / "f")
