from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.findings import Finding, Gap, GapReason, InFile, InVolume, Machine, OnDisk, Rule, Severity
from scanner.job import Job, Task
from scanner.wire import (
    MAX_FRAME_BYTES,
    MAX_VOLUMES,
    Closed,
    FrameReader,
    WireError,
    dump,
    finding_in,
    finding_out,
    frame,
    gap_in,
    gap_out,
    int_in,
    load,
    path_in,
    path_out,
    receive,
    row_in,
    text_in,
)

anything = st.text(alphabet=st.characters(exclude_categories=()))  # lone surrogates, too
numbers = st.integers(0, MAX_VOLUMES)
locations = st.one_of(
    st.just(Machine()),
    st.builds(OnDisk, numbers),
    st.builds(InVolume, numbers),
    st.builds(InFile, numbers, st.binary()),
)
gaps = st.builds(Gap, locations, st.sampled_from(GapReason), anything, st.integers(1, 1 << 40))
rules = st.builds(Rule, anything, anything, st.sampled_from(Severity), anything)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=8,
)
findings = st.builds(
    Finding,
    rules,
    st.builds(InFile, numbers, st.binary()),
    anything,
    st.dictionaries(anything, json_values, max_size=3),
)
ROW: dict[str, Any] = {
    "volume": 0,
    "path": "/a\\xff",
    "type": "file",
    "size": 3,
    "mode": 0o100644,
    "uid": 0,
    "gid": 0,
    "mtime_ns": -5,
    "inode": 12,
    "nlink": 1,
    "deleted": False,
    "sha256": "ab" * 32,
    "target": None,
    "extents": [{"disk": 0, "offset": 1, "length": 2, "logical": 0}],
    "xattrs": {"user.a": "00"},
}


@given(gaps)
def test_gaps_come_back_as_they_were(gap: Gap) -> None:
    assert gap_in(load(dump(gap_out(gap)))) == gap


@given(findings)
def test_findings_come_back_as_they_were(finding: Finding) -> None:
    assert finding_in(load(dump(finding_out(finding)))) == finding


@given(st.binary())
def test_paths_come_back_as_they_were(path: bytes) -> None:
    assert path_in(json.loads(json.dumps(path_out(path)))) == path


@given(st.binary(), st.lists(st.tuples(st.text(), st.text())), st.frozensets(st.integers(0, 5)))
def test_jobs_come_back_as_they_were(path: bytes, rules: list[tuple[str, str]], skip: frozenset[int]) -> None:
    job = Job(Task.CAT, path=path, rules=tuple(rules), skip=skip, volume=3)
    assert Job.from_message(load(dump(job.to_message()))) == job


bodies = st.binary(max_size=50)


@given(st.lists(st.tuples(st.sampled_from([b"J", b"D"]), bodies), max_size=5), st.integers(1, 20))
def test_frames_come_back_in_any_pieces(sent: list[tuple[bytes, bytes]], piece: int) -> None:
    stream = b"".join(frame(kind, body) for kind, body in sent)
    reader = FrameReader()
    got = []
    for start in range(0, len(stream), piece):
        reader.feed(stream[start : start + piece])
        while (found := reader.next()) is not None:
            got.append(found)
    assert got == sent


@given(st.lists(st.binary(max_size=40), max_size=5))
@example([b"J\xff\xff\xff\xff"])
@example([b"\0" * 5])
def test_any_bytes_are_frames_or_an_error(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            reader.feed(piece)
            while (found := reader.next()) is not None:
                kind, body = found
                assert kind in {b"J", b"D"}
                load(body)
    except WireError:
        pass


@pytest.mark.parametrize(
    ("length", "good"),
    [
        pytest.param(0, True, id="empty"),
        pytest.param(MAX_FRAME_BYTES, True, id="longest"),
        pytest.param(MAX_FRAME_BYTES + 1, False, id="too-long"),
        pytest.param((1 << 32) - 1, False, id="all-ones"),
    ],
)
def test_the_length_of_a_frame(length: int, good: bool) -> None:
    reader = FrameReader()
    reader.feed(struct.pack(">cI", b"J", length))
    if good:
        assert reader.next() == (None if length else (b"J", b""))
    else:
        with pytest.raises(WireError):
            reader.next()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="half"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"\xff", id="not-utf-8"),
        pytest.param(b"\xfe\xff\0{\0}", id="utf-16"),
        pytest.param(b"[" * 200_000, id="deep"),
        pytest.param(b'{"a":' * 200_000, id="deep-objects"),
        pytest.param(b'{"a":' + b"9" * 5000 + b"}", id="long-number"),
    ],
)
def test_what_is_no_message(body: bytes) -> None:
    # in UTF-16 it is an object: Python's JSON guesses the encoding, which does no harm
    if body == b"\xfe\xff\0{\0}":
        assert load(body) == {}
        return
    with pytest.raises(WireError):
        load(body)


shapes = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | anything
    | st.sampled_from(["file", "machine", "limit", "high"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["where", "reason", "detail", "count", "rule", "subject", "evidence", *ROW]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(shapes)
@example({"where": ["machine"], "reason": [], "detail": "", "count": 1})
@example({"where": ["file", 0, "\ud800"], "reason": "limit", "detail": "", "count": 1})
@example({"rule": ["a", "b", {}, "d"], "where": ["file", 0, ""], "subject": "", "evidence": {}})
def test_any_shape_is_a_value_or_an_error(value: object) -> None:
    for take in (gap_in, finding_in, row_in, text_in, int_in, path_in):
        try:
            take(value)
        except WireError:
            pass


@given(st.sampled_from(list(ROW)), shapes)
def test_a_line_with_one_thing_wrong(key: str, value: object) -> None:
    try:
        row = row_in(ROW | {key: value})
    except WireError:
        return
    assert set(row) <= set(ROW)
    assert isinstance(row["path"], str)
    json.dumps(row)


def test_a_line_keeps_what_it_should_and_nothing_else() -> None:
    assert row_in(ROW | {"extra": "\x1b"}) == ROW
    assert list(row_in(ROW)) == list(ROW)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("volume", "\x1b[2J", id="text-for-a-number"),
        pytest.param("mode", 1 << 40, id="mode-too-large"),
        pytest.param("mode", True, id="bool-for-a-number"),
        pytest.param("mtime_ns", 1 << 80, id="time-too-large"),
        pytest.param("sha256", "\x1b[2J", id="digest-that-is-none"),
        pytest.param("sha256", "AB" * 32, id="digest-in-capitals"),
        pytest.param("path", None, id="no-path"),
        pytest.param("type", "x" * 100, id="long-type"),
        pytest.param("extents", [1], id="extents-of-numbers"),
        pytest.param("extents", [{"disk": 0}], id="extents-that-lack"),
        pytest.param("xattrs", {"a": 1}, id="xattrs-of-numbers"),
        pytest.param("deleted", 1, id="number-for-a-bool"),
    ],
)
def test_lines_that_are_refused(key: str, value: object) -> None:
    with pytest.raises(WireError):
        row_in(ROW | {key: value})


def test_receive_waits_for_a_whole_frame() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def send() -> None:
            for byte in frame(b"J", b"{}"):
                theirs.send(bytes([byte]))
            theirs.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        reader = FrameReader()
        assert receive(ours, reader) == (b"J", b"{}")
        with pytest.raises(Closed):
            receive(ours, reader)
        sender.join()
