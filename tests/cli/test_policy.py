from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import Kumomori

DOCS = Path(__file__).resolve().parents[2] / "docs"
POLICIES = DOCS / "policies"
ESTATE = POLICIES / "estate.jsonl"


def test_the_examples(kumomori: Kumomori) -> None:
    result = kumomori("policy", "validate", POLICIES, "--estate", ESTATE, "--at", "2027-01-01")
    assert (result.code, result.err) == (0, b"")
    assert b"8 policies, 4 profiles for 8 instances: can be applied." in result.out


def test_refused(kumomori: Kumomori, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: kumomori/v1\nkind: Policy\nmetadata: {name: a}\nsetings: {}\n")
    result = kumomori("policy", "validate", tmp_path)
    assert result.code == 1
    assert b"a.yaml:4:1: unknown name `setings`; did you mean `settings`?" in result.out
    result = kumomori("policy", "validate", tmp_path, "--format", "json")
    assert (result.code, result.report["problems"][0]["line"]) == (1, 4)
    assert "did you mean" in kumomori("policy", "diff", POLICIES, tmp_path, "--estate", ESTATE).refused()


@pytest.mark.parametrize(
    ("selectors", "code", "words"),
    [
        pytest.param(
            ["cloud: gcp"], 1, "a.yaml:5:1: `p0` selects 0 of 8 instances of the estate: nothing", id="nothing"
        ),
        pytest.param(
            ["cloud: '*'"], 1, "a.yaml:5:1: `p0` selects 8 of 8 instances of the estate: everything", id="all"
        ),
        pytest.param(["cloud: aws", "os: linux"], 1, "a.yaml:10:1: `p0` (", id="two"),
    ],
)
def test_selectors_are_counted(kumomori: Kumomori, tmp_path: Path, selectors: list[str], code: int, words: str) -> None:
    (tmp_path / "a.yaml").write_text(
        "".join(
            f"---\napiVersion: kumomori/v1\nkind: Policy\nmetadata: {{name: p{number}}}\nselector: {{{text}}}\n"
            for number, text in enumerate(selectors)
        )
    )
    result = kumomori("policy", "validate", tmp_path, "--estate", ESTATE)
    assert result.code == code
    assert words in result.out.decode()


def test_what_is_meant_and_an_empty_estate(kumomori: Kumomori, tmp_path: Path) -> None:
    policies, empty = tmp_path / "p.yaml", tmp_path / "empty.jsonl"
    text = "apiVersion: kumomori/v1\nkind: Policy\nmetadata: {name: a}\nselector: {cloud: '*'}\n"
    policies.write_text(text + "may_select: [everything]\n")
    assert kumomori("policy", "validate", policies, "--estate", ESTATE).code == 0
    policies.write_text(text)
    result = kumomori("policy", "validate", policies, "--estate", ESTATE, "--format", "json")
    assert (result.code, result.report["valid"], result.report["problems"][0]["line"]) == (1, False, 4)
    assert kumomori("policy", "validate", policies).code == 0
    empty.write_text("\n")
    for said in (
        kumomori("policy", "validate", policies, "--estate", empty).refused(),
        kumomori("policy", "diff", policies, policies, "--estate", empty).refused(),
    ):
        assert "empty.jsonl: holds no instances" in said


def test_nothing_that_a_terminal_obeys(kumomori: Kumomori, tmp_path: Path) -> None:
    one = tmp_path / "one.json"
    one.write_text('{"place": {"cloud": "plain", "region": "basement"}, "id": "a\x9b31m\u202e\x7f"}')
    for output in ("table", "json"):
        raw = kumomori("policy", "explain", POLICIES, one, "--format", output).out
        assert raw.replace(b"\n", b"").decode().isprintable()
        assert b"9b31m" in raw
    assert json.loads(raw)["instance"].endswith("a\x9b31m\u202e\x7f")


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_table_of_the_examples_is_not_folded(
    kumomori: Kumomori, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = kumomori("policy", "validate", POLICIES, "--estate", ESTATE).out.decode().splitlines()
    assert len(lines) == 1 + 12 + 2
    assert any(line.split() == ["profile", "database-files", "1", "1", "company.yaml:43:18"] for line in lines)


def test_explain(kumomori: Kumomori, tmp_path: Path) -> None:
    one = tmp_path / "one.json"
    one.write_text(ESTATE.read_text().splitlines()[3])
    result = kumomori("policy", "explain", POLICIES, one, "--format", "json")
    assert (result.code, result.report["path"]) == (0, ["company", "kvm", "kvm-databases"])
    decided = result.report["settings"]["actions.critical"]
    assert decided["lock"]["policy"] == "company"
    assert decided["decided"][0]["document"].endswith("company.yaml")
    text = kumomori("policy", "explain", POLICIES, one).out.decode()
    assert "locked by company" in text
    assert "    /var/lib/postgresql/**: by profile database-files (" in text
    one.write_text("{}")
    assert "`place` is missing" in kumomori("policy", "explain", POLICIES, one).refused()


def test_a_lock_that_is_taken_out_is_a_change(kumomori: Kumomori, tmp_path: Path) -> None:
    text = "apiVersion: kumomori/v1\nkind: Policy\nmetadata: {name: company}\n"
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(text + "lock: [scan.depth, web.mode]\n")
    new.write_text(text + "lock: [scan.depth]\n")
    result = kumomori("policy", "diff", old, new, "--estate", ESTATE)
    assert result.code == 1
    assert b"lock of web.mode: company -> nothing" in result.out
    assert b"scan.depth" not in result.out


@pytest.mark.parametrize(
    ("row", "words"),
    [
        pytest.param('{"place": {"cloud": "aws"}, "id": "i", "tags": []}', "`tags` is not an object", id="tags"),
        pytest.param('{"place": {"cloud": "aws"}, "id": "i", "tags": 0}', "`tags` is not an object", id="number"),
        pytest.param('{"place": {"cloud": "aws"}, "id": "i", "addresses": ""}', "`addresses` is not a", id="addresses"),
        pytest.param('{"place": {"cloud": NaN}, "id": "i"}', "`cloud` is no word", id="nan"),
        pytest.param('{"place": {"cloud": "aws"}, "id": ' + "9" * 5000 + "}", "is no instance", id="huge"),
        pytest.param("[" * 100_000, "nested too deep", id="deep"),
        pytest.param('{"place": {"cloud": "aws"}, "id": "i", "id": "k"}', "`id` stands twice", id="twice"),
        pytest.param(
            '{"place": {"cloud": "aws"}, "id": "i", "tags": {"e": "a", "e": "b"}}', "`e` stands twice", id="tag-twice"
        ),
    ],
)
def test_hostile_instances(kumomori: Kumomori, tmp_path: Path, row: str, words: str) -> None:
    one = tmp_path / "one.json"
    one.write_text(row)
    assert words in kumomori("policy", "explain", POLICIES, one).refused()
    said = kumomori("policy", "validate", POLICIES, "--estate", one).refused()
    assert words in said
    assert "one.json:1:1: " in said


def test_diff_and_schema(kumomori: Kumomori, tmp_path: Path) -> None:
    assert kumomori("policy", "diff", POLICIES, POLICIES, "--estate", ESTATE).code == 0
    new = tmp_path / "company.yaml"
    new.write_text((POLICIES / "company.yaml").read_text().replace("patching: plan", "patching: apply"))
    result = kumomori("policy", "diff", POLICIES / "company.yaml", new, "--estate", ESTATE)
    assert result.code == 1
    assert b"vulnerabilities.patching: plan -> apply" in result.out
    assert json.loads(kumomori("policy", "schema").out) == json.loads((DOCS / "policy.schema.json").read_text())
