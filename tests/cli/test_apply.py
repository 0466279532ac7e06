"""`kumomori policy apply`, `sync` and `history` against a console on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from cli.comment import MARK, MOST_CHARACTERS, Comment
from cli.main import app
from client.api import Console
from client.model import PolicySet, Scope, TokenIn
from console.serve import Running
from console.settings import Settings
from console.store import tokens
from tests.console.made import enrol
from tests.console.policyset import document

OURS = "pulumi/acme/dev/web.yaml"


class Desk:
    """Commands with a token of the console at `running`, and a folder of policies."""

    def __init__(self, running: Running, folder: Path) -> None:
        self.running, self.folder = running, folder
        self.policies = folder / "policies"
        self.policies.mkdir()
        (self.policies / "company.yaml").write_text(document())
        self.use("ann")

    def token(self, name: str) -> str:
        with self.running.console.database.write() as connection:
            return tokens.make(connection, TokenIn(name=name, scopes=(Scope.ADMIN,)), "test").secret

    def use(self, name: str) -> None:
        (self.folder / "token").write_text(self.token(name))

    def program(self, name: str = "ci", **documents: str) -> None:
        """What a Pulumi program does: it applies its own beside what holds."""
        with Console(self.running.address, self.token(name)) as api:
            now = api.policies()
            wanted = PolicySet(documents={**(now.documents or {}), **documents}, message="Pulumi acme/dev")
            api.apply_policies(wanted, etag=now.etag)

    def holds(self) -> dict[str, str]:
        with Console(self.running.address, (self.folder / "token").read_text()) as api:
            return dict(api.policies().documents or {})

    def __call__(self, *words: str) -> tuple[int, str]:
        here = ["--console", self.running.address, "--token-file", str(self.folder / "token")]
        result = CliRunner().invoke(app, ["policy", *words, *here], env={"COLUMNS": "200"})
        return result.exit_code, result.output or str(result.exception)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    given = {"database": f"sqlite:///{tmp_path}/console.sqlite", "port": 0}
    with Running(Settings.model_validate(given)) as running:
        yield Desk(running, tmp_path)


def test_what_belongs_to_programs_stays(desk: Desk) -> None:
    folder = str(desk.policies)
    assert desk("apply", folder)[0] == 0
    desk.program(**{OURS: document("web", parent="company")})
    (desk.policies / "company.yaml").write_text(document(settings="scan: {depth: full}"))
    for words in (("apply", folder, "--dry-run"), ("sync", folder, "--dry-run"), ("sync", folder)):
        code, said = desk(*words)
        assert code == (3 if "--dry-run" in words else 0), said
        assert "1 document belongs to programs (acme/dev): left as they are." in said
    assert sorted(desk.holds()) == ["company.yaml", OURS]
    assert "depth: full" in desk.holds()["company.yaml"]
    assert "nothing to do" in desk("sync", folder)[1]
    (desk.policies / "company.yaml").rename(desk.policies / "floor.yaml")
    assert desk("apply", folder)[0] == 0
    assert sorted(desk.holds()) == ["floor.yaml", OURS]


def test_a_folder_that_takes_a_programs_parent_away_is_refused(desk: Desk) -> None:
    desk("apply", str(desk.policies))
    desk.program(**{OURS: document("web", parent="company")})
    (desk.policies / "company.yaml").write_text(document("another"))
    code, said = desk("sync", str(desk.policies))
    assert code == 1
    assert f"{OURS}:3:31: there is no policy `company`" in said
    assert "company" in desk.holds()["company.yaml"]


@pytest.mark.parametrize("command", ["apply", "sync"])
def test_a_folder_with_documents_of_programs_is_refused(desk: Desk, command: str) -> None:
    (desk.policies / "pulumi").mkdir()
    (desk.policies / "pulumi/x.yaml").write_text(document("x"))
    code, said = desk(command, str(desk.policies))
    assert "pulumi/x.yaml: documents below pulumi/ belong to Pulumi programs" in said
    assert code != 0


def test_a_comment_for_a_pull_request(desk: Desk) -> None:
    enrol(desk.running.console.database, "i-1")
    folder = str(desk.policies)
    as_comment = ("sync", folder, "--dry-run", "--format", "markdown")
    code, said = desk(*as_comment)
    assert code == 3
    assert said.startswith(f"{MARK}\n\n### Kumomori policies\n\n1 document differs from what holds")
    assert "```diff\n--- holding/company.yaml\n+++ folder/company.yaml\n" in said
    assert "Something changes for 1 instance." in said
    assert desk("sync", folder)[0] == 0
    assert "nothing to do" in desk(*as_comment)[1]
    (desk.policies / "company.yaml").write_text(document(settings="scan: {deep: full}"))
    code, said = desk(*as_comment)
    assert code == 1
    assert "**Refused: nothing of it can be applied.**" in said
    assert "company.yaml:4:19: unknown name `deep`; did you mean `depth`?" in said
    (desk.policies / "broken.yaml").write_bytes(b"\xff")
    code, said = desk(*as_comment)
    assert (code, "is not UTF-8" in said) == (1, True)
    assert "is for --dry-run" in desk("sync", folder, "--format", "markdown")[1]


EVIL = [
    "```",
    "````\n# heading",
    "~~~",
    "</details><script>alert(1)</script>",
    "<!-- x",
    "-->",
    "@everybody",
    "![x](https://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "\x1b[31m\u202e\u2028```\r```",
    "`" * 400,
    "x" * 5000,
    "",
    " ```",
    "    ```",
]
LINES = st.lists(st.one_of(st.sampled_from(EVIL), st.text(max_size=60)), max_size=60)


@settings(max_examples=150, deadline=None)
@given(LINES, LINES, LINES, LINES, st.integers(0, 99))
def test_a_comment_is_nothing_but_our_words_and_blocks(
    diff: list[str], changes: list[str], notes: list[str], problems: list[str], count: int
) -> None:
    """Read by an independent reader of CommonMark: all that is foreign is in fenced blocks."""
    text = str(Comment(count, diff, changes, notes, problems, of_programs=count))
    assert len(text) <= 65_536
    tokens = MarkdownIt("commonmark").parse(text)
    assert sum(token.type == "fence" for token in tokens) == sum(map(bool, (diff, changes, notes, problems)))
    html = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert html == [MARK, *(["<details><summary>Documents</summary>", "</details>"] if diff else [])]
    words = " ".join(token.content for token in tokens if token.type == "inline")
    for known in (
        "Kumomori policies", "**Refused: nothing of it can be applied.**", "The same policies hold already: nothing to do.",
        "documents differ from what holds; this can be applied.", "document differs from what holds; this can be applied.",
        "Documents of programs, which stay as they are:", "**Problems**", "**Changes**", "**Notes**",
    ):  # fmt: skip
        words = words.replace(known, "")
    assert set(words) <= set("0123456789,. "), words


def test_a_comment_is_cut_and_says_so() -> None:
    text = str(Comment(1, ["+ " + "y" * 400] * 10_000, ["x" * 100] * 10_000, ["n" * 1000] * 100, ["p" * 900] * 1000))
    assert MOST_CHARACTERS - 1_500 < len(text) <= MOST_CHARACTERS + 1_500
    assert text.count("more lines") == 4
    assert text.endswith("</details>\n")


def test_history_tells_who_changed_what(desk: Desk) -> None:
    assert "No policies were applied yet." in desk("history")[1]
    desk("apply", str(desk.policies), "--message", "we \x1b[31m begin")
    desk.program(**{OURS: document("web", parent="company")})
    desk.program("bob", **{OURS: document("web", "scan: {depth: full}", parent="company")})
    code, said = desk("history")
    assert code == 0
    lines = [line.split("  ", 2) for line in said.splitlines() if line[0] != " "]
    assert [(one[0], one[2]) for one in lines] == [
        ("3", "bob  Pulumi acme/dev"),
        ("2", "ci  Pulumi acme/dev"),
        ("1", "ann  we \\x1b[31m begin"),
    ]
    assert f"    changed {OURS}, which belongs to a program and was made by ci\n" in said
    assert f"    added {OURS}\n" in said
    assert "    added company.yaml\n" in said
    code, said = desk("history", "--diff", "--limit", "1")
    assert "+settings: {scan: {depth: full}}" in said
    assert "    added" not in said
    (desk.policies / "company.yaml").write_text(document(settings="scan: {depth: full}"))
    desk("apply", str(desk.policies))
    desk.program("ci2", **{OURS: document("web", parent="company")})
    said = desk("history", "--limit", "2")[1]
    assert "    changed company.yaml\n" in said
    assert "was made by ci\n" in said, "also of another token of the program: it tells, it does not judge"
