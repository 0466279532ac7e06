"""YAML or JSON text becomes nodes that know where they stand. Nothing is built but text, numbers, lists and mappings.

Read as YAML 1.2 reads plain words: `off` and `no` are words, only `true` and `false` are truth values, and a number with a
leading zero (an account) stays a word. Anchors, aliases and tags are refused where they appear, so that nothing can
expand. Files are bounded in size, depth and count of values, and so is all that is read together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml

from core.errors import ConfigError
from core.text import printable

MOST_FILE_BYTES: Final = 512 << 10
MOST_FILES: Final = 10_000
MOST_DEPTH: Final = 24
MOST_VALUES: Final = 50_000  # in one file
# Of a whole set of policies: seconds, and less than 200 MiB of memory
MOST_SET_BYTES: Final = 8 << 20
MOST_SET_VALUES: Final = 200_000
MOST_PROBLEMS: Final = 1_000  # then no more files are read
MOST_ENTRIES: Final = 100_000  # of a folder and all below it, whatever they are
SUFFIXES: Final = (".yaml", ".yml", ".json")
# YAML 1.1 ends a line (and a comment) here, git and most editors do not: what looks like a comment would be read
_HIDDEN_BREAK = re.compile("[\x85\u2028\u2029]|\r(?!\n)")
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?(?:[eE][-+]?[0-9]{1,2})?")
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}


@dataclass(frozen=True, slots=True, order=True)
class At:
    """A place in a document: line and column from 1; 0 if the whole file is meant."""

    document: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        name = printable(self.document)
        return f"{name}:{self.line}:{self.column}" if self.line else name


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that the author must change, in words."""

    at: At
    text: str

    def __str__(self) -> str:
        return f"{self.at}: {self.text}"

    def as_json(self) -> dict[str, Any]:
        return {"document": self.at.document, "line": self.at.line, "column": self.at.column, "problem": self.text}


class Refused(ConfigError):
    """Policies that cannot be applied. `problems` has them all, in the order of the text; `str()` is the first of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(f"{self.problems[0]}{more}")


@dataclass(slots=True)
class Node:
    """A value: `str`, `int`, `float`, `bool`, `None`, a list of nodes, or a mapping of names to nodes.

    `text` is a single value as it was written. `keys` are the places of a mapping's names.
    """

    at: At
    value: Any
    text: str = ""
    keys: dict[str, At] | None = None

    def plain(self, *, words: bool = False) -> Any:
        """Without places. With `words`, single values are text as it was written: `1.10` is a word, not 1.1."""
        if isinstance(self.value, list):
            return [item.plain(words=words) for item in self.value]
        if isinstance(self.value, dict):
            return {name: item.plain(words=words or name in {"selector", "when"}) for name, item in self.value.items()}
        return self.text if words else self.value

    def find(self, path: Sequence[str | int]) -> Node:
        """The node at `path`, or the last one on the way to it."""
        node = self
        for step in path:
            if isinstance(node.value, str):  # its letters are no nodes
                break
            try:
                node = node.value[step]
            except (KeyError, IndexError, TypeError):  # a number, or nothing of that name
                break
        return node


def read_text(name: str, text: str) -> list[Node]:
    """The documents of one file, empty ones left out. Raises `Refused`."""
    return _documents(name, _checked(name, text))[0]


def _checked(name: str, text: str) -> str:
    """What PyYAML may be given. Raises `Refused`."""
    if hidden := _HIDDEN_BREAK.search(text):
        raise Refused([Problem(_at_position(name, text, hidden.start()), "a line break that editors do not show")])
    if name.lower().endswith(".json"):
        text = text.replace("\t", " ")  # JSON has tabs only between values, YAML has none there
    return text


def _documents(name: str, text: str) -> tuple[list[Node], int]:
    """The documents and how many values they have."""
    reader = _Reader(name)
    try:
        return reader.documents(text), reader.count
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = _at(name, mark) if mark else At(name)
        said = printable(error.problem or "it ends too early")
        hint = "; in single quotes a backslash is itself" if "unknown escape character" in said else ""
        raise Refused([Problem(at, f"is neither YAML nor JSON: {said}{hint}")]) from None
    except yaml.reader.ReaderError as error:
        at = _at_position(name, text, error.position)
        raise Refused([Problem(at, "a character that no text may have")]) from None
    except (ValueError, OverflowError):  # an escape such as "\UFFFFFFFF"
        raise Refused([Problem(reader.last, "an escape after this place stands for no character")]) from None


def read_path(path: Path) -> list[Node]:
    """The documents of a file, or of all .yaml, .yml and .json files in a folder and below it; hidden ones are left out.

    Documents are named by the path as it was given. Raises `Refused`, or `ConfigError` if there is nothing to read.
    """
    files = _found(path)
    return _together(str(path), ((str(file), partial(bounded_text, file, MOST_FILE_BYTES)) for file in files))


def read_texts(texts: Mapping[str, str]) -> list[Node]:
    """The documents of texts by name, in the order of the names; the same bounds as for files.

    Raises `Refused`, or `ConfigError` if there is no text.
    """
    if not texts:
        raise ConfigError("there are no policies to read")
    if len(texts) > MOST_FILES:
        raise Refused([Problem(At("all policies"), f"more than {MOST_FILES:,} documents")])
    return _together("", ((name, partial(_bounded, name, text)) for name, text in sorted(texts.items())))


def _bounded(name: str, text: str) -> str:
    if len(text.encode("utf-8", "surrogatepass")) > MOST_FILE_BYTES:
        raise Refused([Problem(At(name), f"is larger than {MOST_FILE_BYTES:,} bytes; split it")])
    return text.removeprefix("\ufeff")


def _together(whole: str, parts: Iterable[tuple[str, Callable[[], str]]]) -> list[Node]:
    """The documents of all parts, with all their problems; what is too much is said of the `whole`."""
    nodes: list[Node] = []
    problems: list[Problem] = []
    size_bytes = values = 0
    for name, read in parts:
        try:
            text = read()
            size_bytes += len(text.encode("utf-8", "surrogatepass"))
            found, count = _documents(name, _checked(name, text)) if size_bytes <= MOST_SET_BYTES else ([], 0)
        except Refused as error:
            problems += error.problems
        else:
            values += count
            nodes += found
        for number, most, unit in ((size_bytes, MOST_SET_BYTES, "bytes"), (values, MOST_SET_VALUES, "values")):
            if number > most:
                text = f"all policies together have more than {most:,} {unit}"
                raise Refused([*problems, Problem(At(whole or "all policies"), text)])
        if len(problems) > MOST_PROBLEMS:
            break
    if problems:
        raise Refused(problems)
    return nodes


def texts(path: Path) -> dict[str, str]:
    """The files that `read_path` reads, unparsed, by their path within the folder with `/` between: as a console takes them.

    Raises `Refused`, or `ConfigError` if there is nothing to read.
    """
    files = _found(path)
    folder = path if path.is_dir() else path.parent
    return {str(PurePosixPath(file.relative_to(folder))): bounded_text(file, MOST_FILE_BYTES) for file in files}


def _found(path: Path) -> list[Path]:
    if not path.exists():
        raise ConfigError(f"{printable(str(path))}: there is no such file or folder")
    files = list(_files(path)) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{printable(str(path))}: holds no policies ({', '.join(SUFFIXES)})")
    if len(files) > MOST_FILES:
        raise Refused([Problem(At(str(path)), f"more than {MOST_FILES:,} files")])
    return files


def bounded_text(path: Path, most_bytes: int) -> str:
    """The text of a regular file. Raises `Refused` if it is larger, not UTF-8, no regular file or cannot be read."""
    name = str(path)
    try:
        if not path.is_file():
            raise Refused([Problem(At(name), "is no regular file")])
        with path.open("rb") as stream:
            raw = stream.read(most_bytes + 1)
    except OSError as error:
        raise Refused([Problem(At(name), f"cannot be read: {error.strerror or error}")]) from None
    if len(raw) > most_bytes:
        raise Refused([Problem(At(name), f"is larger than {most_bytes:,} bytes; split it")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise Refused([Problem(At(name, line, column), "is not UTF-8")]) from None


def _files(folder: Path) -> Iterator[Path]:
    entries = 0
    for root, folders, names in os.walk(folder, onerror=_shut):
        entries += len(folders) + len(names)
        if entries > MOST_ENTRIES:
            raise Refused([Problem(At(str(folder)), f"holds more than {MOST_ENTRIES:,} files and folders")])
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if Path(root, name).is_symlink():
                raise Refused([Problem(At(str(Path(root, name))), "is a link to a folder, which is not followed")])
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield _inside(folder, Path(root, name))


def _inside(folder: Path, path: Path) -> Path:
    """Whoever proposes policies may not have a file of this machine shown to them. A link within the folder is one of Kubernetes'."""
    if path.is_symlink():
        try:
            is_inside = path.resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError):  # a link to itself
            is_inside = False
        if not is_inside:
            raise Refused([Problem(At(str(path)), "is a link to a file outside of the folder, which is not followed")])
    return path


def _shut(error: OSError) -> None:
    """A folder that cannot be read may hold the policy with the lock."""
    raise Refused([Problem(At(str(error.filename)), f"cannot be read: {error.strerror or error}")])


def _at_position(name: str, text: str, position: int) -> At:
    before = text[:position]
    return At(name, before.count("\n") + 1, len(before) - before.rfind("\n"))


def _at(name: str, mark: Any) -> At:
    return At(name, mark.line + 1, mark.column + 1)


class _Reader:
    """Builds nodes from the events of PyYAML's parser, with a stack instead of recursion."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.count = 0  # of values
        self.last = At(name)

    def documents(self, text: str) -> list[Node]:
        found: list[Node] = []
        stack: list[tuple[Node, list[Node]]] = []  # open collections; of a mapping, names and values alternate
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            self.last = _at(self._name, event.start_mark)
            if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                self._check(event, len(stack))
                is_list = isinstance(event, yaml.SequenceStartEvent)
                stack.append((Node(self.last, [] if is_list else {}), []))
            elif isinstance(event, yaml.AliasEvent):
                self._refuse("aliases (*name) are not read: write it out, or inherit it from a parent policy")
            elif isinstance(event, yaml.ScalarEvent):
                self._check(event, len(stack))
                node = Node(self.last, _single(event), _joined(event.value))
                (stack[-1][1] if stack else found).append(node)
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                node, parts = stack.pop()
                self._close(node, parts)
                (stack[-1][1] if stack else found).append(node)
            elif isinstance(event, yaml.DocumentStartEvent) and event.tags:
                self._refuse("%TAG is not read")
        return [node for node in found if node.value is not None]

    def _check(self, event: Any, depth: int) -> None:
        self.count += 1
        if event.anchor is not None:
            self._refuse("anchors (&name) are not read: write it out, or inherit it from a parent policy")
        if event.tag is not None:
            self._refuse(f"tags ({_cut(event.tag)}) are not read: leave it out")
        if depth > MOST_DEPTH:
            self._refuse(f"nested deeper than {MOST_DEPTH} levels")
        if self.count > MOST_VALUES:
            self._refuse(f"more than {MOST_VALUES:,} values in one file; split it")

    def _close(self, node: Node, parts: list[Node]) -> None:
        if isinstance(node.value, list):
            node.value = parts
            return
        node.keys = {}
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            if isinstance(key.value, (list, dict)):
                raise Refused([Problem(key.at, "a name must be a word")])
            name = key.text
            if name in node.keys:
                raise Refused([Problem(key.at, f"`{_cut(name)}` stands twice; first in line {node.keys[name].line}")])
            node.keys[name] = key.at
            node.value[name] = value

    def _refuse(self, text: str) -> None:
        raise Refused([Problem(self.last, text)])


def _joined(text: str) -> str:
    r"""JSON writes characters beyond 16 bits as two escapes (\ud83d\ude00). Raises `ValueError` for half of one."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16")


def _single(event: yaml.ScalarEvent) -> str | int | float | bool | None:
    text = event.value
    if event.style is not None:  # quoted, or a block
        return _joined(text)
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else _joined(text)


def _cut(text: str) -> str:
    """`text` for a message: printable, not too long."""
    return printable(text if len(text) <= 60 else text[:57] + "...")
