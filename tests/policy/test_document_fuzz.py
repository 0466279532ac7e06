"""Any bytes are documents or refused, in bounded time; so is any set of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from policy import document
from policy.document import Node, Problem, Refused, bounded_text, read_path, read_text, read_texts
from policy.tree import load_texts, plant
from tests.policy.documents import policy

_SECONDS = 20.0  # for a few hundred bytes, on a busy machine
YAML = st.lists(
    st.sampled_from(
        [
            "a: ",
            "- ",
            "\n",
            "  ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            ": ",
            "? ",
            "'",
            '"',
            "|",
            ">",
            "#",
            "---\n",
            "...\n",
            "&x ",
            "*x ",
            "!t ",
            "!!python/none ",
            "%YAML 9.9\n",
            "<<: ",
            "\t",
            "\r",
            "\x85",
            "\ufeff",
            "\\x",
            "\\U0010ffff",
            "0x",
            "1e9",
            "~",
            "é",
            "😀",
            "apiVersion: kumomori/v1\n",
            "kind: Policy\n",
            "metadata: {name: a}\n",
            "selector: ",
            "lock: ",
            "settings: ",
        ]
    ),
    max_size=40,
).map("".join)


def _read(text: str) -> list[Node]:
    start = time.process_time()
    try:
        found = read_text("x.yaml", text)
    except Refused as error:
        found = []
        assert all(problem.at.document == "x.yaml" for problem in error.problems)
        assert str(error).isprintable()
    assert time.process_time() - start < _SECONDS
    return found


@settings(max_examples=300, deadline=None)
@given(YAML)
def test_what_looks_like_yaml(text: str) -> None:
    nodes = _read(text)
    try:
        plant(nodes)
    except Refused as error:
        assert error.problems


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    for node in _read(text):
        node.plain()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=300), YAML.map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(raw)
    try:
        found = read_path(tmp_path)
    except ConfigError as error:
        assert str(error).isprintable()
        return
    text = bounded_text(file, len(raw) + 1)
    assert [node.plain() for node in found] == [node.plain() for node in read_text("x", text)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 500_000, id="deep"),
        pytest.param("- " * 250_000, id="deep-lists"),
        pytest.param("? " * 250_000, id="names-of-names"),
        pytest.param("a" * 500_000, id="one-word"),
        pytest.param("'" + "a\n" * 200_000, id="open-quote"),
        pytest.param("#\n" * 250_000, id="comments"),
        pytest.param("---\n" * 120_000, id="empty-documents"),
        pytest.param(" " * 500_000 + "a", id="blanks"),
        pytest.param("a: |\n" + " \n" * 200_000, id="empty-lines-of-a-block"),
        pytest.param("{" + "a:1," * 100_000, id="open-mapping"),
        pytest.param("%" + "A" * 500_000, id="directive"),
        pytest.param('"' + "\\x41" * 120_000 + '"', id="escapes"),
    ],
)
@pytest.mark.slow
def test_a_full_file_takes_bounded_time(text: str) -> None:
    _read(text)


def test_texts_by_name() -> None:
    tree = load_texts({"b": policy("child", "selector: {cloud: aws}", "top"), "a": "\ufeff" + policy("top")})
    assert [branch.name for branch in tree.roots[0].children] == ["child"]
    assert str(tree.branches["child"].document.selector_at) == "b:5:1"
    with pytest.raises(Refused) as caught:
        load_texts({"\x1b[2J": "a: &x b", "n": "kind: Polcy\napiVersion: kumomori/v1", "surrogate": "a: \ud800"})
    assert [str(one).partition(": ")[0] for one in caught.value.problems] == ["\\x1b[2J:1:4", "surrogate:1:4"]
    with pytest.raises(ConfigError, match="no policies"):
        load_texts({})
    with pytest.raises(Refused, match="big: is larger than 524,288 bytes"):
        load_texts({"big": "ä" * (300 << 10)})


@pytest.mark.parametrize(
    ("bound", "most", "words"),
    [
        pytest.param("MOST_FILES", 2, "more than 2 ", id="files"),
        pytest.param("MOST_SET_BYTES", 100, "all policies together have more than 100 bytes", id="bytes"),
        pytest.param("MOST_SET_VALUES", 10, "all policies together have more than 10 values", id="values"),
    ],
)
def test_a_set_is_bounded_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, most: int, words: str
) -> None:
    texts = {f"{number}.yaml": "a: [1, 2, 3]  # " + "x" * 30 for number in range(3)}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert len(read_path(tmp_path)) == len(read_texts(texts)) == 3
    monkeypatch.setattr(document, bound, most)
    with pytest.raises(Refused, match=words) as caught:
        read_path(tmp_path)
    assert caught.value.problems[-1].at.document == str(tmp_path)
    with pytest.raises(Refused, match=words):
        read_texts(texts)


def test_what_is_said_of_a_set_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MOST_PROBLEMS", 5)
    with pytest.raises(Refused) as caught:
        read_texts({f"{number:03}": "a: *b" for number in range(100)})
    assert len(caught.value.problems) == 6
    assert isinstance(caught.value.problems[0], Problem)


def test_a_folder_of_other_things_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").touch()
    monkeypatch.setattr(document, "MOST_ENTRIES", 3)
    with pytest.raises(Refused, match="holds more than 3 files and folders"):
        read_path(tmp_path)
