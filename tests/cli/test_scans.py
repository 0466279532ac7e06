"""`kumomori scan start --wait` does not wait in silence for a fleet that is not there."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli import scans
from client.model import FleetOut, ScanKind, ScanOut, Scans, ScanState, Why
from tests.cli.commands import Kumomori
from tests.client.server import Answer, serving

MACHINE = "aws://111122223333/eu-central-1/i-1"
ORDERED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)  # by a console whose clock is far off
ANSWER = ScanOut(
    id="s-1",
    kind=ScanKind.INSTANCE,
    machine=MACHINE,
    fleet="edge",
    why=Why.MANUAL,
    state=ScanState.ORDERED,
    ordered=ORDERED,
    due=ORDERED,
)


def a_fleet(seconds: float, **more: Any) -> FleetOut:
    """It was last heard of so long before the order."""
    seen = ORDERED - timedelta(seconds=seconds)
    given: dict[str, Any] = {"name": "edge", "registered": seen, "seen": seen, "clouds": ("aws",)}
    return FleetOut(**(given | more))


def fleets(*given: FleetOut) -> Answer:
    return Answer(200, json.dumps([one.model_dump(mode="json") for one in given]).encode())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(fleets(), "the fleet edge was never heard of; `kumomori up`", id="never"),
        pytest.param(fleets(a_fleet(1, name="other")), "the fleet edge was never heard of", id="another"),
        pytest.param(fleets(a_fleet(180)), "the fleet edge was last heard of at 2026-01-02 03:01:05Z", id="long-ago"),
        pytest.param(fleets(a_fleet(180, seen=None)), "last heard of at 2026-01-02 03:01:05Z", id="registered-only"),
        pytest.param(fleets(a_fleet(1)), "", id="it-runs"),
        pytest.param(fleets(a_fleet(-3600)), "", id="ordered-long-ago"),
        pytest.param(Answer(403, b'{"error": "no"}'), "", id="not-ours-to-see"),
        pytest.param(Answer(500, b"x"), "", id="away"),
    ],
)
def test_a_fleet_that_fetches_nothing(
    kumomori: Kumomori, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: Answer, said: str
) -> None:
    monkeypatch.setattr(scans, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(scans, "_FLEET_SECONDS", 0.0)
    (tmp_path / "token").write_text("a-token")
    scan = Answer(200, ANSWER.model_dump_json().encode())
    ended = ANSWER.model_copy(update={"state": ScanState.DONE, "result": "clean"})
    ordered = Answer(200, Scans(items=(ANSWER,)).model_dump_json().encode())
    last = Answer(200, ended.model_dump_json().encode())
    with serving(ordered, scan, answer, scan, *([] if said else [answer]), last) as server:
        result = kumomori(
            "scan", "start", MACHINE, "--wait", "--console", server.url, "--token-file", tmp_path / "token"
        )
    assert result.code == 0, result
    lines = [line for line in result.err.decode().splitlines() if "fleet" in line]
    assert len(lines) == bool(said), lines
    assert said in "".join(lines)


def test_it_is_asked_for_after_some_seconds_only(
    kumomori: Kumomori, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scans, "_LOOK_SECONDS", 0.01)
    (tmp_path / "token").write_text("a-token")
    scan = Answer(200, ANSWER.model_dump_json().encode())
    ended = ANSWER.model_copy(update={"state": ScanState.DONE, "result": "clean"})
    ordered = Answer(200, Scans(items=(ANSWER,)).model_dump_json().encode())
    with serving(ordered, scan, scan, Answer(200, ended.model_dump_json().encode())) as server:
        result = kumomori(
            "scan", "start", MACHINE, "--wait", "--console", server.url, "--token-file", tmp_path / "token"
        )
        assert [asked.path for asked in server.asked] == ["/v1/scans"] + 3 * ["/v1/scans/s-1"]
    assert result.code == 0, result
