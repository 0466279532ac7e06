from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.estate import Instance, InstanceState, Place
from policy.document import Refused
from policy.estate import MOST_INSTANCE_BYTES, instance, read_estate, read_instance

ROW: dict[str, Any] = {"place": {"cloud": "aws", "account": "1", "region": "r"}, "id": "i-1"}


def test_a_whole_row() -> None:
    row = {**ROW, "name": "a", "state": "running", "os": "linux", "addresses": ["10.0.0.1"], "tags": {"env": "dev"}}
    found = instance({**row, "zone": None, "later": {"x": 1}})
    assert found.place == Place("aws", "1", "r")
    assert (found.name, found.state, found.tags) == ("a", InstanceState.RUNNING, {"env": "dev"})
    assert found.addresses == ("10.0.0.1",)
    assert instance(ROW).state is InstanceState.UNKNOWN


@pytest.mark.parametrize(
    ("row", "words"),
    [
        pytest.param([], "an object", id="list"),
        pytest.param({"id": "i"}, "`place` is missing", id="no-place"),
        pytest.param({"place": "aws", "id": "i"}, "`place` is missing", id="place-is-a-word"),
        pytest.param({**ROW, "id": ""}, "`id` is missing", id="no-id"),
        pytest.param({**ROW, "id": 7}, "`id` is no word", id="id-is-a-number"),
        pytest.param({"place": {"account": "1"}, "id": "i"}, "`place.cloud` is missing", id="no-cloud"),
        pytest.param({**ROW, "state": "asleep"}, "`state` is none of", id="state"),
        pytest.param({**ROW, "tags": {"a": 1}}, "`tags` is not an object of words", id="tag-is-a-number"),
        pytest.param({**ROW, "addresses": [1]}, "`addresses` is not a list", id="address"),
        pytest.param({**ROW, "security_groups": {}}, "`security_groups` is not a list", id="groups"),
    ],
)
def test_bad_rows(row: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        instance(row)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["place", "id", "state", "tags", "addresses", "os", "x"]), json_values))
def test_any_row_is_an_instance_or_refused(row: dict[str, object]) -> None:
    try:
        assert isinstance(instance({**ROW, **row}), Instance)
    except ValueError:
        pass


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text("\n" + "\r\n".join(json.dumps({**ROW, "id": f"i-{number}"}) for number in range(3)) + "\n\n")
    assert [one.id for one in read_estate(path)] == ["i-0", "i-1", "i-2"]
    one = tmp_path / "one.json"
    one.write_text(json.dumps(ROW, indent=2))
    assert read_instance(one) == instance(ROW)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(b'{"id"', "e.jsonl:1:1: is no instance: no JSON", id="cut-short"),
        pytest.param(json.dumps(ROW).encode() * 2, "e.jsonl:1:1: is no instance: no JSON", id="two-in-a-line"),
        pytest.param(b"\xff\xfe", "e.jsonl:1:1: is no instance", id="no-text"),
        pytest.param(b" " * MOST_INSTANCE_BYTES + b"x", "is longer than", id="long"),
        pytest.param((json.dumps(ROW) + "\n").encode() * 2, "e.jsonl:2:1: aws://1/r/i-1 stands in line 1", id="twice"),
    ],
)
def test_bad_files(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(raw)
    with pytest.raises(Refused, match=words):
        list(read_estate(path))


@pytest.mark.parametrize("raw", [b"", b"\n \n\t\n"])
def test_an_estate_without_instances(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"holds no instances.*kumomori instances --format jsonl"):
        list(read_estate(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        list(read_estate(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        list(read_estate(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="is no regular file"):
        read_instance(tmp_path / "pipe")


def test_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text("".join(json.dumps({**ROW, "id": f"i-{number}"}) + "\n" for number in range(3)))
    monkeypatch.setattr("policy.estate.MOST_INSTANCES", 2)
    with pytest.raises(Refused, match=r"e.jsonl:3:1: holds more than 2 instances"):
        list(read_estate(path))


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        pytest.param(rb"\ud800", False, id="half"),
        pytest.param(rb"\uDC00\uD83D", False, id="halves-in-the-wrong-order"),
        pytest.param(b"\xed\xa0\x80", False, id="half-in-bytes"),
        pytest.param(rb"\ud83d\ude00", True, id="both-halves"),
        pytest.param(rb"\\ud800", True, id="the-word"),
    ],
)
@pytest.mark.parametrize("where", [b'"name": "%s"', b'"tags": {"%s": ""}', b'"addresses": ["%s"]'])
def test_names_that_could_not_be_told_are_refused_at_once(
    tmp_path: Path, name: bytes, where: bytes, *, fine: bool
) -> None:
    """Else a listing that was taken for good fails when it is sent, each time."""
    path = tmp_path / "estate.jsonl"
    path.write_bytes(b'{"id": "i", "place": {"cloud": "x"}, ' + where % name + b"}\n")
    if fine:
        assert len(list(read_estate(path))) == 1
        return
    with pytest.raises(Refused, match="is no instance"):
        list(read_estate(path))
