from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.blocks import MemorySource
from core.errors import LimitExceeded
from scanner.manifest.block import Row
from scanner.manifest.diff import Change, change_in, diff
from scanner.manifest.file import Reader
from scanner.wire import WireError
from tests.scanner.manifest.test_file import row, written

A, B = b"\xaa" * 32, b"\xbb" * 32


def compared(old: list[Row], new: list[Row], most_bytes: int = 1 << 20) -> list[Change]:
    readers = [Reader(MemorySource(written({0: [rows]} if rows else {}))) for rows in (old, new)]
    return list(diff(readers[0], readers[1], [(0, 0)], most_bytes=most_bytes))


def told(old: list[Row], new: list[Row]) -> list[tuple[str, bytes, tuple[str, ...]]]:
    return [(change.kind, change.path, change.what) for change in compared(old, new)]


FILE = row(5, b"/f", A)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param([FILE], [FILE], [], id="equal"),
        pytest.param([], [FILE], [("added", b"/f", ())], id="added"),
        pytest.param([FILE], [], [("removed", b"/f", ())], id="removed"),
        pytest.param([FILE], [replace(FILE, sha256=B)], [("changed", b"/f", ("content",))], id="content"),
        pytest.param([FILE], [replace(FILE, extents=((9, 9),))], [], id="elsewhere-on-the-disk"),
        pytest.param([FILE], [replace(FILE, inode=9)], [], id="replaced-by-the-same"),
        pytest.param([FILE], [row(9, b"/f", B)], [("changed", b"/f", ("content",))], id="replaced"),
        pytest.param([FILE], [replace(FILE, paths=(b"/g",))], [("moved", b"/g", ())], id="moved"),
        pytest.param(
            [FILE],
            [replace(FILE, paths=(b"/g",), sha256=B)],
            [("removed", b"/f", ()), ("added", b"/g", ())],
            id="moved-and-changed",
        ),
        pytest.param(
            [FILE],
            [replace(FILE, paths=(b"/f", b"/g"), nlink=2)],
            [("changed", b"/f", ("links",)), ("added", b"/g", ())],
            id="hard-link",
        ),
        pytest.param([FILE], [replace(FILE, sha256=b"")], [("changed", b"/f", ("content?",))], id="not-hashed"),
        pytest.param(
            [replace(FILE, sha256=b"")],
            [replace(FILE, sha256=b"")],
            [("changed", b"/f", ("content?",))],
            id="never-hashed",
        ),
        pytest.param(
            [FILE],
            [replace(FILE, mode=0o120777, uid=1, size=9, mtime_ns=3, xattrs=b"x" * 16)],
            [("changed", b"/f", ("type", "size", "owner", "mode", "mtime", "xattrs"))],
            id="all-else",
        ),
        pytest.param(
            [FILE],
            [replace(FILE, paths=(b"/$OrphanFiles/inode-5",), deleted=True, nlink=0)],
            [("moved", b"/$OrphanFiles/inode-5", ("links", "deleted"))],
            id="deleted-but-open",
        ),
    ],
)
def test_changes(old: list[Row], new: list[Row], expected: list[tuple[str, bytes, tuple[str, ...]]]) -> None:
    assert sorted(told(old, new)) == sorted(expected)


states = st.dictionaries(st.integers(1, 12), st.tuples(st.sampled_from("abcdef"), st.sampled_from([A, B])), max_size=8)


@settings(max_examples=200, deadline=None)
@given(states, states)
def test_the_changes_explain_the_difference(
    old: dict[int, tuple[str, bytes]], new: dict[int, tuple[str, bytes]]
) -> None:
    """Applied to the old tree they give the new one, and what they do not name is equal in both."""

    def tree(state: dict[int, tuple[str, bytes]]) -> tuple[list[Row], dict[bytes, bytes]]:
        rows, seen = [], {}
        for inode, (name, content) in sorted(state.items()):
            path = f"/{name}".encode()
            if path not in seen:
                seen[path] = content
                rows.append(row(inode, path, content))
        return rows, seen

    (before, was), (after, now) = tree(old), tree(new)
    for change in compared(before, after):
        if change.old is not None:
            del was[change.old.path]
    for change in compared(before, after):
        if change.new is not None:
            assert change.new.sha256
            was[change.new.path] = bytes.fromhex(change.new.sha256)
    assert was == now


def test_too_much_differs() -> None:
    with pytest.raises(LimitExceeded):
        compared([], [row(number) for number in range(1, 100)], most_bytes=10_000)


def test_messages_survive_the_wire() -> None:
    for change in compared([FILE, row(7, b"/\xff", A)], [replace(FILE, sha256=B), row(8, b"/n")]):
        assert change_in(change.to_message()) == change.to_message()


GOOD = next(iter(compared([FILE], [replace(FILE, sha256=B)]))).to_message()


@pytest.mark.parametrize(
    "value",
    [
        *(None, 5, {}, GOOD | {"kind": "x"}, GOOD | {"what": ["x"]}, GOOD | {"what": [[]]}, GOOD | {"volume": -1}),
        *(GOOD | {"old": None, "new": None}, GOOD | {"old": 5}, GOOD | {"new": GOOD["new"] | {"inode": "1"}}),
        *(GOOD | {"new": GOOD["new"] | {"mtime_ns": True}}, GOOD | {"new": GOOD["new"] | {"sha256": 5}}),
        GOOD | {"path": 5},
    ],
)
def test_other_messages_are_refused(value: object) -> None:
    with pytest.raises((WireError, TypeError)):
        change_in(value)
