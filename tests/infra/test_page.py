"""docs/iac.md as whoever follows it word by word: its commands have these names and options, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/iac.md", "README.md")


def commands(text: str) -> list[list[str]]:
    """What follows `kumomori` in code, as words."""
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [line for part in code for line in part.splitlines()]
    found = [re.search(r"(?:^|\bbin/|\s)kumomori (.*)", line.partition(" #")[0]) for line in lines]
    return [shlex.split(one[1]) for one in found if one]


def fault(words: list[str]) -> str:
    """What of it the command does not know; empty if nothing."""
    root: Any = typer.main.get_command(app)
    at = root
    for word in words:
        inner = getattr(at, "commands", {}).get(word)
        if inner is None:
            break
        at = inner
    options = {name for one in at.params for name in (*one.opts, *one.secondary_opts)}
    if at is root:
        return f"no command: {words}"
    return next((word for word in words if word.startswith("--") and word.partition("=")[0] not in options), "")


def test_commands() -> None:
    found = [words for words in commands((ROOT / "docs/iac.md").read_text()) if re.fullmatch("[a-z]+", words[0])]
    assert len(found) > 12
    assert not [f"{' '.join(words)}: {fault(words)}" for words in found if fault(words)]


@pytest.mark.parametrize(
    ("line", "unknown"), [("policy sync DIR --format x", ""), ("policy sync --nothing", "--nothing"), ("fly", "no")]
)
def test_a_fault_is_found(line: str, unknown: str) -> None:
    found = fault(line.split())
    assert found.startswith(unknown)
    assert bool(found) == bool(unknown)


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)[)#]", (ROOT / page).read_text())
    assert links
    assert not [link for link in links if not ((ROOT / page).parent / link).exists()]


def test_the_first_page_names_it() -> None:
    text = (ROOT / "README.md").read_text()
    for words in ("docs/iac.md", "policy sync", "policy history", "kumomori console", "kumomori health"):
        assert words in text
