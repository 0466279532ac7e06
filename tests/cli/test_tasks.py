"""`kumomori sweep` and `cloud check` of an account, against a console that answers what a test wants."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli import tasks
from tests.cli.commands import Kumomori, Result
from tests.client.server import Answer, serving

TOKEN = "a-token"
NOW = datetime.now(UTC)
EVIL = "\x1b[31m\u202e"


def task(answer: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    found = {
        "id": "sweep-1",
        "kind": "sweep",
        "fleet": "default",
        "by": "me",
        "asked": NOW.isoformat(),
        "expires": (NOW + timedelta(minutes=10)).isoformat(),
    }
    ended = {"fetched": NOW.isoformat(), "answered": NOW.isoformat(), "answer": answer}
    return found | (ended if answer is not None else {}) | more


class Asking:
    """Runs a command against a console that gives `answers`."""

    def __init__(self, kumomori: Kumomori, folder: Path) -> None:
        self.kumomori = kumomori
        self.token = folder / "token"
        self.token.write_text(TOKEN)
        self.asked: list[str] = []
        self.bodies: list[bytes] = []

    def __call__(self, words: tuple[str, ...], *answers: object) -> Result:
        given = [one if isinstance(one, Answer) else Answer(200, json.dumps(one).encode()) for one in answers]
        with serving(*given) as server:
            result = self.kumomori(*words, "--console", server.url, "--token-file", self.token)
            self.asked = [f"{one.verb} {one.path}" for one in server.asked]
            self.bodies = [one.body for one in server.asked]
        return result


@pytest.fixture
def asking(kumomori: Kumomori, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asking:
    monkeypatch.setattr(tasks, "_LOOK_SECONDS", 0.01)
    return Asking(kumomori, tmp_path)


SNAPSHOT = {"place": "aws://1/r", "kind": "snapshot", "id": "snap-1", "size_bytes": 8 << 30}


@pytest.mark.parametrize(
    ("words", "answer", "code", "said"),
    [
        ((), {}, 0, "nothing to delete"),
        ((), {"swept": [SNAPSHOT]}, 0, "aws://1/r: snapshot snap-1 (8 GiB): deleted"),
        (("--dry-run",), {"swept": [SNAPSHOT]}, 1, "would be deleted"),
        (
            ("--dry-run",),
            {"bases": 2, "bases_bytes": 1 << 31},
            0,
            "2 snapshots kept as bases of the next scans, of 2 GiB",
        ),
        ((), {"swept": [SNAPSHOT | {"problem": "no"}]}, 3, "snap-1 (8 GiB): no"),
        ((), {"swept": [{"place": "aws://1/r", "problem": "refused"}]}, 3, "aws://1/r: not entered: refused"),
        ((), {"swept": [{"kind": "manifest", "id": "m"}]}, 0, "manifest m: deleted"),
        ((), {"problem": "it broke"}, 3, "not all was done: it broke"),
        ((), {"swept": [SNAPSHOT], "more": 1_234}, 0, "and 1,234 more"),
        ((), {"swept": [SNAPSHOT | {"id": EVIL}]}, 0, "\\x1b[31m"),
    ],
)
def test_sweeps(asking: Asking, words: tuple[str, ...], answer: dict[str, Any], code: int, said: str) -> None:
    dry: dict[str, Any] = {"dry_run": "--dry-run" in words}
    result = asking(("sweep", *words), {"items": [task(None, **dry)]}, task(None, **dry), task(answer, **dry))
    assert result.code == code, result
    assert said in result.err.decode()
    assert b"\x1b" not in result.err
    route = "/v1/sweeps/dry-run" if words else "/v1/sweeps"
    assert asking.asked == [f"POST {route}", "GET /v1/tasks/sweep-1", "GET /v1/tasks/sweep-1"]


def test_what_is_asked_for(asking: Asking) -> None:
    asking(("sweep", "--fleet", "eu", "--account", "aws://1"), {"items": [task({})]}, task({}))
    assert json.loads(asking.bodies[0]) == {"fleet": "eu", "account": "aws://1"}
    asking(("cloud", "check", "aws://1"), task({}, kind="check"), task({}, kind="check"))
    assert json.loads(asking.bodies[0]) == {"account": "aws://1"}
    assert asking(("sweep", "--fleet", "No Name"), {"items": []}).code == 2


def test_as_json(asking: Asking) -> None:
    result = asking(("sweep", "--dry-run", "--format", "json"), {"items": [task()]}, task({"swept": [SNAPSHOT]}))
    assert result.code == 1
    assert result.rows[0]["answer"]["swept"][0]["id"] == "snap-1"


def line(ok: bool | None, **more: str) -> dict[str, Any]:
    return {"place": "aws://1/r", "permission": "ec2:Try", "ok": ok, **more}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"checked": [line(True)], "installation": "kumomori-9"}, 0, ("Nothing is missing.", "kumomori-9", "yes")),
        ({"checked": [line(True), line(None, detail="none to try")]}, 3, ("none to try", "1 check could not be tried")),
        (
            {"checked": [line(False, detail="denied", advice="add the statement X"), line(None)]},
            1,
            ("denied", "add the statement X", "1 check failed. 1 check could not"),
        ),
        ({"problem": "out of time", "checked": [line(True)]}, 3, ("out of time",)),
        ({"problem": "it has no region"}, 3, ("it has no region",)),
    ],
)
def test_checks(asking: Asking, answer: dict[str, Any], code: int, said: tuple[str, ...]) -> None:
    result = asking(("cloud", "check", "aws://1"), task(kind="check"), task(answer, kind="check"))
    assert result.code == code, result
    for words in said:
        assert words in (result.out + result.err).decode()
    assert asking.asked[0] == "POST /v1/checks"


def test_advice_is_told_once(asking: Asking) -> None:
    advice = "add the statement X"
    denied = line(False, detail=f"snap-1: denied: {advice}", advice=advice)
    result = asking(("cloud", "check", "aws://1"), task(kind="check"), task({"checked": [denied] * 2}, kind="check"))
    assert result.out.count(advice.encode()) == 1
    assert result.out.count(b"snap-1: denied") == 2


def test_a_fleet_that_does_not_answer(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    fleets = [{"name": "default", "registered": NOW.isoformat(), "seen": (NOW - timedelta(hours=3)).isoformat()}]
    monkeypatch.setattr(tasks, "_BEGIN_SECONDS", -1)
    result = asking(("sweep",), {"items": [task()]}, task(), fleets)
    assert result.code == 3
    assert b"it has not begun, it was last heard of 3 h ago" in result.err
    assert b"kumomori worker" in result.err
    none = asking(("cloud", "check", "aws://1"), task(kind="check"), task(kind="check"), [])
    assert none.code == 3
    assert b"never heard of" in none.err
    begun = task(fetched=NOW.isoformat())
    slow = asking(("sweep", "--timeout", "1"), {"items": [begun]}, begun)
    assert slow.code == 3
    assert b"is still at it" in slow.err


def test_a_console_that_is_away_for_a_moment_is_asked_again(asking: Asking) -> None:
    busy = Answer(503, b'{"error": "busy"}', (("Retry-After", "1"),))
    result = asking(("sweep",), {"items": [task()]}, busy, Answer(502, b"proxy"), task({}))
    assert result.code == 0, result
    assert b"it is asked again" in result.err


ENROLLED = {"cloud": "aws", "account": "1", "fleet": "eu", "added": NOW.isoformat()}


@pytest.mark.parametrize(
    ("words", "answer", "code", "said"),
    [
        ((), {"swept": [SNAPSHOT]}, 0, "aws://1/r: snapshot snap-1 (8 GiB): deleted"),
        ((), {"problem": "not done with scans: 1"}, 3, "not all was done: not done with scans: 1"),
        (
            (),
            {"evidence": 2, "evidence_until": "2030-01-02T03:04:05Z"},
            3,
            "2 snapshots kept as evidence until 2030-01-02 03:04:05Z: copy what you need, then delete them by `kumomori cloud remove aws://1 --clear --evidence`",
        ),
        (("--evidence",), {"swept": [SNAPSHOT]}, 0, "deleted"),
    ],
)
def test_removed_and_cleared(
    asking: Asking, words: tuple[str, ...], answer: dict[str, Any], code: int, said: str
) -> None:
    cleared = task(answer, kind="clear", account="aws://1")
    result = asking(
        ("cloud", "remove", "aws://1", "--clear", *words), [ENROLLED], Answer(204, b""), {"items": [cleared]}, cleared
    )
    assert result.code == code, result
    assert said in result.err.decode()
    assert result.out == b"removed: aws://1\n"
    assert asking.asked[1:3] == ["DELETE /v1/accounts/aws/1", "POST /v1/clears"]
    assert json.loads(asking.bodies[2]) == {"account": "aws://1", "fleet": "eu", "evidence": bool(words)}


def test_cleared_again(asking: Asking) -> None:
    """It was removed before, and nothing is there any more; the fleet is said, or all are asked."""
    cleared = task({}, kind="clear", account="aws://1")
    again = asking(("cloud", "remove", "aws://1", "--clear", "--fleet", "eu"), [], {"items": [cleared]}, cleared)
    assert (again.code, again.out) == (0, b"")
    assert json.loads(asking.bodies[1])["fleet"] == "eu"
    none = asking(("cloud", "remove", "aws://1", "--clear"), [], {"items": []})
    assert none.code == 0
    assert b"no fleet has registered yet" in none.err
    assert json.loads(asking.bodies[1])["fleet"] is None
    assert "need --clear" in asking(("cloud", "remove", "aws://1", "--evidence"), {}).refused()


def test_what_a_program_manages(asking: Asking) -> None:
    managed = ENROLLED | {"managed_by": f"pulumi/acme/dev/x{EVIL}"}
    removed = asking(("cloud", "remove", "aws://1"), [managed], Answer(204, b""))
    assert removed.code == 0
    assert b"pulumi/acme/dev/x\\x1b" in removed.err
    assert b"would add it again" in removed.err
    added = asking(("cloud", "add", "aws", "111122223333"), managed)
    assert added.code == 0
    assert b"changes it back" in added.err


def test_a_check_from_here_needs_a_region(asking: Asking) -> None:
    line_ = asking(("cloud", "check", "aws://1", "--role", "Scanner"), {}).refused()
    assert "aws://ACCOUNT/REGION" in line_
    assert asking.asked == []
