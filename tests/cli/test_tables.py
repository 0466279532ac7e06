"""Tables as terminals show them."""

from __future__ import annotations

import pytest

from cli.tables import print_pairs, print_table


def test_pairs_have_no_line_of_titles(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs([("State", "done"), ("Detail", ""), ("Price", "$0.01")])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["State", "done"], ["Price", "$0.01"]]


def test_what_is_typed_again_stays_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("Id!", "What", "Price!"), [("i-0123456789abcdef0", "words " * 9, "$0.000055")])
    said = capsys.readouterr().out
    assert "i-0123456789abcdef0" in said
    assert "$0.000055" in said
    assert max(map(len, said.splitlines())) <= 40
