r"""Path patterns of Linux and Windows. `*` and `?` stay within a folder, `**` crosses folders, `**/` is any number of folders.

A pattern with a drive or a server (`C:\Temp\*`, `\\nas\share\**`) fits paths of Windows: in either case, with either slash.
One that begins with `/` fits all others, to the letter; `**/` fits both. Paths that step up (`..`) fit nothing: where they
lead is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_PARTS = re.compile(r"(\*\*/|\*\*|\*|.)", re.DOTALL)
_LITERAL = re.compile(r"[^*?]*")
_LONG_FORM = re.compile(r"\\\\[?.]\\(?:UNC\\)?", re.IGNORECASE)  # \\?\C:\x is C:\x, \\?\UNC\nas\x is \\nas\x
_ESCAPED = re.compile(r"\\x5c(?=x[0-9a-fA-F]{2})")  # core.text.escape writes the \ of C:\x86 so


class PathPattern:
    """Compiled once, asked for every path, in time proportional to both lengths.

    The path is hostile, and no expression may backtrack over it: all places where the pattern could be are kept at once.
    """

    def __init__(self, pattern: str) -> None:
        self._windows = WINDOWS.match(pattern) is not None
        self._anywhere = pattern.startswith("**/")
        self._exact = _Compiled(pattern)
        self._folded = _Compiled(_folded(pattern)) if self._windows or self._anywhere else self._exact

    def matches(self, path: str) -> bool:
        """`path` is absolute, as `core.text.escape` writes it."""
        if WINDOWS.match(path) is None:
            return not self._windows and not _steps_up(path) and self._exact.matches(path)
        text = _folded(_plain(path))
        return (self._windows or self._anywhere) and not _steps_up(text) and self._folded.matches(text)


class _Compiled:
    def __init__(self, pattern: str) -> None:
        self._start = _LITERAL.match(pattern)[0]  # type: ignore[index]  # it always fits
        self._parts = [part for part in _PARTS.split(pattern[len(self._start) :]) if part]
        self._longest = max(re.split("[*?]+/?", pattern), key=len)  # a path without it cannot fit

    def matches(self, path: str) -> bool:
        if not path.startswith(self._start) or self._longest not in path:
            return False
        parts = self._parts
        states = _entered(parts, 0)
        for char in path[len(self._start) :]:
            following: set[int] = set()
            for state in states:
                part = parts[state] if state < len(parts) else ""
                stays = part in {"**", "**/"} or (part == "*" and char != "/")
                if stays:
                    following.add(state)
                leaves = char == "/" if part == "**/" else stays or part == char or (part == "?" and char != "/")
                if leaves:
                    following |= _entered(parts, state + 1)
            states = following
            if not states:
                return False
        return len(parts) in states


def _entered(parts: Sequence[str], state: int) -> set[int]:
    """`state`, and those that are reached from it without a character."""
    found = {state}
    while state < len(parts) and parts[state] in {"*", "**", "**/"}:
        state += 1
        found.add(state)
    return found


def _steps_up(path: str) -> bool:
    return ".." in path and ".." in path.split("/")


def _plain(path: str) -> str:
    """A path of Windows without what `escape` and the long form add."""
    plain = _ESCAPED.sub(r"\\", path)
    if (long_form := _LONG_FORM.match(plain)) is None:
        return plain
    return ("\\\\" if long_form[0][4:] else "") + plain[long_form.end() :]


def _folded(text: str) -> str:
    """One spelling for what Windows takes for the same: slashes, repeated slashes, upper and lower case."""
    return re.sub("(?<=.)/{2,}", "/", "".join(map(_upper, text.replace("\\", "/"))))


def _upper(char: str) -> str:
    """Windows maps single characters only: `ß` is not `ss`, and the Kelvin sign is no `k`."""
    upper = char.upper()
    return upper if len(upper) == 1 and upper.lower() == char else char
