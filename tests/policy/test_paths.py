from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.text import escape
from policy.checks import absolute
from policy.decide import path_matches
from policy.paths import PathPattern


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        (r"C:\Temp\*", r"C:\Temp\a.exe", True),
        (r"C:\Temp\*", r"c:\tEMP\a.exe", True),
        (r"C:\Temp\*", "C:/Temp/a.exe", True),
        ("c:/temp/*", r"C:\Temp\a.exe", True),
        (r"C:\Temp\*", r"C:\Temp\b\a.exe", False),
        (r"C:\Temp\**", r"C:\Temp\b\a.exe", True),
        (r"C:\Temp\**\*.log", r"C:\Temp\a.log", True),
        (r"C:\Temp\*", r"D:\Temp\a.exe", False),
        (r"C:\Temp\*", r"C:\\Temp\\a.exe", True),
        (r"C:\Temp\*", r"\\?\C:\Temp\a.exe", True),
        (r"C:\Temp\**", r"C:\Temp\..\Windows\a.exe", False),
        (r"C:\Temp\**", "C:/Temp/../Windows/a.exe", False),
        (r"C:\Temp\*", "/C:/Temp/a.exe", False),
        (r"C:\x86\*", escape(rb"C:\x86\a"), True),
        (r"C:\ä\*", "c:\\Ä\\x", True),
        (r"C:\bak\*", "C:\\BA\u212a\\x", False),
        (r"C:\straße\*", r"C:\strasse\x", False),
        (r"\\nas\share\**", r"\\NAS\share\a\b", True),
        (r"\\nas\share\**", r"\\?\UNC\nas\share\a", True),
        (r"\\nas\share\**", r"\\other\share\a", False),
        ("**/cache/*", r"D:\Cache\a", True),
        ("**/cache/*", "/var/cache/a", True),
        ("**/cache/*", "/var/Cache/a", False),
        ("/temp/*", r"\temp\a", False),
        ("/temp/**", r"C:\temp\a", False),
        ("/srv/*", "/srv/..", False),
        ("/srv/**", "/srv/../etc/shadow", False),
        ("/srv/*", "/srv/..a", True),
        ("/srv/*", "/srv/a\\b", True),
        ("/srv/[ab]", "/srv/a", False),
        ("/srv/**/?/c", "/srv/x/c", True),
        ("/a/**/b", "/a/b", True),
        ("**/ab*cd?e/f", "/x/abcdde/f", True),
        ("**/ab*cd?e/f", "/x/abcde/f", False),
        ("/srv/a\n*", "/srv/a\nb", True),
    ],
)
def test_paths(pattern: str, path: str, fits: bool) -> None:
    assert path_matches(pattern, path) is fits


def test_hostile_paths_take_no_time() -> None:
    pattern = PathPattern("/" + "**a" * 32 + "z")
    start = time.process_time()
    assert not pattern.matches("/" + "a" * 20_000)
    assert time.process_time() - start < 20


@given(st.text(min_size=1, max_size=30))
def test_a_path_without_stars_is_itself(name: str) -> None:
    path = "/" + name.replace("*", "").replace("?", "")
    assert path_matches(path, path) == (".." not in path.split("/"))
    assert path_matches("/**", path) == (".." not in path.split("/"))


_WILD = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["a", "b", "/", "ab/", "?", "*", "**", "**/"]), max_size=8).map("".join),
    st.text("ab/", max_size=10),
)
@pytest.mark.slow
def test_it_is_what_an_expression_would_say(pattern: str, path: str) -> None:
    parts = re.split(r"(\*\*/|\*\*|\*|.)", pattern)
    expression = "".join(_WILD.get(part, re.escape(part)) for part in parts)
    assert path_matches("/" + pattern, "/" + path) == (re.fullmatch("/" + expression, "/" + path) is not None)


@pytest.mark.parametrize("text", ["C:\\Temp\\*", "C:/Temp", "\\\\nas\\share\\**", "**/x", "/x"])
def test_absolute(text: str) -> None:
    assert absolute(text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("srv/*", "no absolute path"),
        ("C:Temp", "no absolute path"),
        ("\\Temp\\*", "no absolute path"),
        ("\\\\*\\**", "no absolute path"),
        ("C:\\**", "leaves everything out"),
        ("/srv/../**", "steps up"),
        ("C:\\a\\..\\**", "steps up"),
    ],
)
def test_not_absolute(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        absolute(text)
