from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from core.errors import ConfigError
from policy.document import MOST_FILE_BYTES, MOST_VALUES, At, Refused, read_path, read_text, texts

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a: 1", {"a": 1}, id="number"),
        pytest.param("a: off\nb: no\nc: yes", {"a": "off", "b": "no", "c": "yes"}, id="no-is-a-word"),
        pytest.param("a: true\nb: False", {"a": True, "b": False}, id="truth"),
        pytest.param("a: 012345678901", {"a": "012345678901"}, id="account-keeps-its-zero"),
        pytest.param("a: 0x10\nb: 1_000", {"a": "0x10", "b": "1_000"}, id="other-numbers-are-words"),
        pytest.param("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}, id="windows-lines"),
        pytest.param("a: 1.5", {"a": 1.5}, id="fraction"),
        pytest.param("a: .inf\nb: .nan\nc: 1e999", {"a": ".inf", "b": ".nan", "c": "1e999"}, id="no-infinity"),
        pytest.param("a: 2027-01-31", {"a": "2027-01-31"}, id="date-is-a-word"),
        pytest.param("when: {v: 1.10, n: 007}", {"when": {"v": "1.10", "n": "007"}}, id="selectors-are-words"),
        pytest.param('{"a": ["\\ud83d\\ude00", "\\/"]}', {"a": ["😀", "/"]}, id="json"),
        pytest.param("a: '*x'", {"a": "*x"}, id="quoted-star"),
        pytest.param("a: " + "9" * 5000, {"a": "9" * 5000}, id="huge-number-is-a-word"),
    ],
)
def test_values(text: str, expected: object) -> None:
    (node,) = read_text("x.yaml", text)
    assert node.plain() == expected


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        pytest.param(BOMB, (1, 4), "anchors", id="bomb"),
        pytest.param("a: *b", (1, 4), "aliases", id="alias"),
        pytest.param("a: !!python/object/apply:os.system [id]", (1, 4), "tags", id="code"),
        pytest.param("a: !x y", (1, 4), "tags", id="tag"),
        pytest.param("a: 1\nb: 2\na: 3", (3, 1), "`a` stands twice; first in line 1", id="twice"),
        pytest.param("? [a, b]\n: c", (1, 3), "a name must be a word", id="name-is-a-list"),
        pytest.param("[" * 5000, (1, 26), "nested deeper", id="deep"),
        pytest.param("{a: " * 5000, None, "nested deeper", id="deep-mapping"),
        pytest.param("a:\n\t- b", (2, 1), "neither YAML nor JSON", id="tab"),
        pytest.param('a: "C:\\Temp"', (1, 8), "in single quotes a backslash is itself", id="backslash"),
        pytest.param("a: [1, 2", (1, 9), "neither YAML nor JSON", id="cut-short"),
        pytest.param('a: "\\UFFFFFFFF"', (1, 1), "stands for no character", id="no-character"),
        pytest.param('a: "\\ud800"', (1, 4), "stands for no character", id="half-a-character"),
        pytest.param("a: b # c\u2028lock: []", (1, 9), "a line break that editors do not show", id="hidden-line"),
        pytest.param("a: b # c\u2029lock: []", (1, 9), "a line break that editors do not show", id="hidden-paragraph"),
        pytest.param("a: b\n# c\x85lock: []", (2, 4), "a line break that editors do not show", id="next-line"),
        pytest.param("a: b\n# c\rlock: []", (2, 4), "a line break that editors do not show", id="lone-return"),
        pytest.param("a: b\nc: \x01", (2, 4), "no text may have", id="control"),
        pytest.param("[" + "1," * (MOST_VALUES + 1) + "]", None, "more than 50,000 values", id="many"),
        pytest.param("%TAG ! tag:x,2000:\n---\na: b", (1, 1), "%TAG", id="tag-directive"),
    ],
)
def test_refused(text: str, at: tuple[int, int] | None, words: str) -> None:
    start = time.process_time()
    with pytest.raises(Refused) as caught:
        read_text("x.yaml", text)
    assert time.process_time() - start < 30
    (problem,) = caught.value.problems
    assert words in problem.text
    if at:
        assert (problem.at.line, problem.at.column) == at
    assert str(caught.value).isprintable()


def test_places() -> None:
    (first, second) = read_text("x.yaml", "a:\n  b: [1, {c: 2}]\n---\n---\nd: 3\n")
    assert first.find(["a", "b", 1, "c"]).at == At("x.yaml", 2, 14)
    assert first.find(["a", "nothing", "there"]).at == At("x.yaml", 2, 3)
    assert second.keys == {"d": At("x.yaml", 5, 1)}


def test_json_with_tabs_keeps_its_places(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{\n\t"a":\t[1]\n}')
    (node,) = read_path(tmp_path)
    assert node.find(["a"]).at == At(str(tmp_path / "x.json"), 2, 7)


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b/2.yml", "1.yaml", "3.json", "README.md", ".hidden.yaml", ".git/x.yaml"):
        (tmp_path / name).write_text(f'{{"name": "{name}"}}')
    assert [node.plain()["name"] for node in read_path(tmp_path)] == ["1.yaml", "3.json", "b/2.yml"]


def test_a_link_within_the_folder_is_read(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap."""
    (tmp_path / "..2027").mkdir()
    (tmp_path / "..2027" / "a.yaml").write_text("a: 1")
    (tmp_path / "..data").symlink_to("..2027")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert [node.plain() for node in read_path(tmp_path)] == [{"a": 1}]


@pytest.mark.parametrize("target", ["../token", "a.yaml", "nowhere/../../token"])
def test_a_link_to_a_file_outside_shows_nothing_of_it(tmp_path: Path, target: str) -> None:
    """A pull request would have the pipeline's secrets printed into its comment."""
    (tmp_path / "token").write_text("kumo_secret")
    (tmp_path / "policies" / "nowhere").mkdir(parents=True)
    (tmp_path / "policies" / "a.yaml").symlink_to(target)
    with pytest.raises(Refused) as caught:
        texts(tmp_path / "policies")
    said = "\n".join(map(str, caught.value.problems))
    assert "a.yaml: is a link to a file outside of the folder" in said
    assert "kumo_secret" not in said


def test_nothing_in_a_folder_is_left_out_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "A.YAML").write_text("a: 1")
    (tmp_path / "in" / "B.Json").write_text('{\t"a": 2}')
    assert [node.plain() for node in read_path(tmp_path / "in")] == [{"a": 1}, {"a": 2}]
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    with pytest.raises(Refused, match="/in/loop: is a link to a folder, which is not followed"):
        read_path(tmp_path / "in")
    (tmp_path / "in" / "loop").unlink()
    (tmp_path / "in" / "shut").mkdir()
    scan = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(Refused, match="/in/shut: cannot be read: Permission denied"):
        read_path(tmp_path / "in")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_path(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="holds no policies"):
        read_path(tmp_path)
    (tmp_path / "big.yaml").write_text("#" * (MOST_FILE_BYTES + 1))
    (tmp_path / "latin.yaml").write_bytes(b"a: b\nc: \xff")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(Refused) as caught:
        read_path(tmp_path)
    said = [str(one).removeprefix(str(tmp_path)) for one in caught.value.problems]
    assert said[0].startswith("/big.yaml: is larger than 524,288 bytes")
    assert said[1] == "/latin.yaml:2:4: is not UTF-8"
    assert said[2] == "/pipe.yaml: is no regular file"
