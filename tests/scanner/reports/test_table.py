from __future__ import annotations

import io
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from rich.cells import cell_len

from core.findings import Gap, GapReason, InFile, InVolume
from core.text import escape, printable
from scanner.report import GuardReport, Report
from scanner.reports import FORMATS
from scanner.reports.table import console_for, verdict, write_table
from tests.scanner.reports.samples import EICAR, HOSTILE_PATHS, MARKUP, SHELL, found, hostile, make, reports

SWAP = Gap(InVolume(1), GapReason.SWAP, "swap space")
CORRUPT = Gap(InFile(0, b"/x"), GapReason.CORRUPT, "bad magic", 4)
ACCEPTED = frozenset({GapReason.SWAP})


def _shown(report: Report) -> str:
    stream = io.StringIO()
    FORMATS["table"](report, stream)
    return stream.getvalue()


def _assert_tame(text: str) -> None:
    """Nothing in it moves the cursor or reorders text, and no line is wider than 100 columns."""
    for line in text.split("\n"):
        assert not {unicodedata.category(char) for char in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
        assert cell_len(line) <= 100


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        pytest.param(make(), "Clean: all 48,211 files on 2 volumes were looked at.", id="clean"),
        pytest.param(
            make(files=1, volumes=make().volumes[:1]), "Clean: all 1 file on 1 volume were looked at.", id="one"
        ),
        pytest.param(make(volumes=(), files=0), "Clean, but there was no file to look at.", id="no-file"),
        pytest.param(
            make((), (SWAP,), ACCEPTED), "Clean: 48,211 files on 2 volumes looked at, 1 gap accepted.", id="accepted"
        ),
        pytest.param(make((found(EICAR, b"/"),)), "1 finding.", id="finding"),
        pytest.param(make((found(EICAR, b"/"),), (SWAP,), ACCEPTED), "1 finding.", id="finding-accepted-gap"),
        pytest.param(
            make((found(EICAR, b"/"),) * 2, (SWAP,)), "2 findings, and 1 gap: not everything was looked at.", id="both"
        ),
        pytest.param(
            make((), (SWAP, CORRUPT), ACCEPTED), "No findings, but 4 gaps: not everything was looked at.", id="gaps"
        ),
    ],
)
def test_the_last_line_is_the_verdict(report: Report, sentence: str) -> None:
    assert verdict(report) == sentence
    assert _shown(report).splitlines()[-1] == sentence


@pytest.mark.parametrize("path", [pytest.param(path, id=name) for name, path in HOSTILE_PATHS.items()])
def test_a_hostile_path_is_tame_and_whole(path: bytes) -> None:
    text = _shown(make((found(EICAR, path),), (Gap(InFile(0, path), GapReason.CORRUPT, "x"),)))
    _assert_tame(text)
    # wrapped at the edge of its column, but all of it is there
    _, header, _, *rows = text.split("Findings (1)")[1].split("What to do")[0].splitlines()
    column = header.index("Path")
    assert "".join(row[column:].strip() for row in rows).replace(" ", "") == printable(escape(path)).replace(" ", "")


def test_hostile_words_are_tame() -> None:
    text = _shown(hostile())
    _assert_tame(text)
    assert "[red]a[/red]" in text
    assert "user/[bold]x[/bold]" in text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(reports)
def test_any_report_is_tame(report: Report) -> None:
    _assert_tame(_shown(report))


def test_remedies_stand_once() -> None:
    text = _shown(make(tuple(found(SHELL, b"/%d" % number) for number in range(30))))
    assert text.count(SHELL.remedy) == 1
    assert text.count(SHELL.id) == 31


@pytest.mark.parametrize(("many", "more"), [(200, None), (501, "... and 1 more: use --format json")])
def test_very_many_findings(many: int, more: str | None) -> None:
    text = _shown(make(tuple(found(EICAR, b"/%06d" % number) for number in range(many))))
    assert f"Findings ({many})" in text
    assert text.count("/000") == min(many, 500)
    assert (more in text) if more else ("more: use" not in text)


def test_gaps_are_grouped() -> None:
    broken = tuple(Gap(InFile(0, b"/%02d" % number), GapReason.CORRUPT, "bad magic") for number in range(38))
    rest = Gap(InVolume(0), GapReason.CORRUPT, "60 more", 60)
    text = _shown(make((), (*broken, rest, SWAP), ACCEPTED))
    assert "Gaps: not looked at (99)" in text
    assert text.count("bad magic") == 3
    assert "60 more" not in text
    assert "... and 95 more: use --format json" in text
    assert text.count("(accepted)") == 1


def test_all_reasons_get_a_line() -> None:
    text = _shown(make((), tuple(Gap(InVolume(0), reason, "why", 2) for reason in GapReason)))
    for reason in GapReason:
        assert reason.value in text
    assert text.count(" - why") == len(GapReason)


def test_guards_that_are_missing_are_said() -> None:
    report = make()
    assert "1 active; not active: landlock (too old)" in _shown(report)
    whole = replace(report, guards=(GuardReport("seccomp", active=True, detail=""),))
    assert "Guards   1 active\n" in "\n".join(line.rstrip() for line in _shown(whole).splitlines())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    report = make((found(MARKUP, b"/"), found(EICAR, b"/")))
    terminal = Terminal()
    write_table(report, console_for(terminal))
    assert "\x1b[" in terminal.getvalue()
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in _shown(report)
