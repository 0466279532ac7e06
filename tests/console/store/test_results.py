from __future__ import annotations

import gzip
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from client.model import AcceptIn, FindingState, ScanState
from console.clock import now
from console.problems import Refused
from console.store import findings, results, scans, tables
from console.store.database import Database
from tests.console.made import (
    FLEET,
    ended,
    enrol,
    finding,
    gap,
    key,
    ordered,
    packed,
    report,
    result,
    scanned,
)

OTHER = "another"


def rows(database: Database, table: sa.Table) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(sa.select(table)))


def states(database: Database) -> dict[str, str]:
    return {row.subject: row.state for row in rows(database, tables.finding)}


@pytest.fixture(autouse=True)
def one_instance(database: Database) -> None:
    enrol(database, "i-1")


def test_all_that_a_result_says_is_there(database: Database) -> None:
    taken = scanned(
        database, [finding("a", path=b"/\xff\x00"), finding("b")], gaps=[gap(count=4), gap("machine", accepted=True)]
    )
    assert taken.new
    scan = taken.scan
    assert (scan.state, scan.result, scan.findings, scan.gaps) == (ScanState.DONE, "findings", 2, 5)
    assert (scan.mode, scan.blocks_read, scan.bytes_read, scan.usd) == ("full", 7, 4096, 0.01)
    assert scan.started is not None and scan.ended is not None and scan.started <= scan.ended
    with database.read() as connection:
        listed = findings.listed(connection, after="", state=None, severity=None, instance=key(), limit=10)
        unseen = findings.gaps(connection, after="", instance=key(), limit=10)
        assert b"kumomori.report/1" in gzip.decompress(scans.report(connection, scan.id))
    assert {one.path for one in listed.items} == {"/\\xff\x00", "/etc/shadow"}
    assert [(one.where, one.count, one.accepted) for one in unseen.items] == [
        ("volume 0: /x", 4, False),
        ("machine", 1, True),
    ]
    (instance,) = rows(database, tables.instance)
    assert (instance.last_scan, instance.last_result, instance.last_scanned) == (scan.id, "findings", scan.started)


def test_blocks_are_those_that_the_fleet_fetched(database: Database) -> None:
    sent = result(ordered(database), report()).model_copy(update={"blocks_fetched": 3})
    assert results.take(database, FLEET, sent, now()).scan.blocks_read == 3


def test_a_second_time_it_is_the_same_answer_and_nothing_changes(database: Database) -> None:
    sent = result(ordered(database), report([finding("a")], [gap()]))
    first = results.take(database, FLEET, sent, now())
    before = [rows(database, table) for table in tables.metadata.sorted_tables]
    second = results.take(database, FLEET, sent, now())
    assert (first.new, second.new) == (True, False)
    assert first.scan == second.scan
    assert [rows(database, table) for table in tables.metadata.sorted_tables] == before


def test_the_same_result_sent_by_many_at_once_is_taken_once(database: Database) -> None:
    sent = result(ordered(database), report([finding(str(number)) for number in range(20)]))
    taken: list[results.Taken] = []
    threads = [
        threading.Thread(target=lambda: taken.append(results.take(database, FLEET, sent, now()))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.new for one in taken) == [False] * 4 + [True]
    assert len(rows(database, tables.finding)) == 20


def test_a_later_attempt_of_a_scan_that_has_ended_is_ignored(database: Database) -> None:
    scan = ordered(database)
    first = results.take(database, FLEET, ended(scan, ScanState.FAILED), now())
    second = results.take(database, FLEET, result(scan, report([finding("a")]), attempt=2), now())
    assert second.scan == first.scan
    assert rows(database, tables.finding) == []


@pytest.mark.parametrize(
    ("fleet", "others", "status"),
    [
        pytest.param(FLEET, {"scan": "unknown"}, 404, id="unknown-scan"),
        pytest.param(OTHER, {}, 403, id="another-fleets"),
        pytest.param(FLEET, {"state": ScanState.RUNNING, "report": ""}, 422, id="not-ended"),
        pytest.param(FLEET, {"report": ""}, 422, id="done-without-report"),
        pytest.param(FLEET, {"state": ScanState.FAILED}, 422, id="failed-with-report"),
        pytest.param(FLEET, {"report": packed({})}, 422, id="no-report"),
    ],
)
def test_results_that_are_refused_change_nothing(
    database: Database, fleet: str, others: dict[str, Any], status: int
) -> None:
    scan = ordered(database)
    before = [rows(database, table) for table in tables.metadata.sorted_tables]
    with pytest.raises(Refused) as caught:
        results.take(database, fleet, result(**{"scan": scan, **others}), now())
    assert caught.value.status == status
    assert [rows(database, table) for table in tables.metadata.sorted_tables] == before


def test_by_an_older_version_of_the_policies_it_is_taken_and_marked(database: Database) -> None:
    with database.write() as connection:
        connection.execute(
            tables.policy_version.insert().values(version=5, etag="x", who="me", when=now(), message="", documents=b"")
        )
    taken = results.take(database, FLEET, result(ordered(database), report([finding("a")]), policy_version=3), now())
    assert "version 3" in taken.scan.detail and "5" in taken.scan.detail
    assert states(database) == {"a": "open"}


def test_open_fixed_and_open_again(database: Database) -> None:
    scanned(database, [finding("a"), finding("b")])
    (first, _) = rows(database, tables.finding)
    scanned(database, [finding("b")])
    assert states(database) == {"a": "fixed", "b": "open"}
    scanned(database, [finding("a"), finding("b")])
    assert states(database) == {"a": "open", "b": "open"}
    again = next(row for row in rows(database, tables.finding) if row.id == first.id)
    assert again.first_seen == first.first_seen < again.last_seen
    assert again.fixed is None


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({"gaps": [gap("machine")]}, id="machine"),
        pytest.param({"gaps": [gap("disk")]}, id="disk"),
        pytest.param({"gaps": [gap("volume")]}, id="volume"),
        pytest.param({"gaps": [gap(path=b"/etc/shadow")]}, id="file"),
        pytest.param({"volumes": []}, id="volume-is-gone"),
    ],
)
def test_a_gap_is_not_a_fix(database: Database, others: dict[str, Any]) -> None:
    scanned(database, [finding("a")])
    scanned(database, [], **others)
    assert states(database) == {"a": "open"}


@pytest.mark.parametrize("state", [ScanState.FAILED, ScanState.STOPPED, ScanState.MISSED, ScanState.GONE])
def test_a_scan_that_is_not_done_fixes_nothing(database: Database, state: ScanState) -> None:
    taken = scanned(database, [finding("a")], gaps=[gap()])
    results.take(database, FLEET, ended(ordered(database), state), now())
    assert states(database) == {"a": "open"}
    assert len(rows(database, tables.gap)) == 1
    (instance,) = rows(database, tables.instance)
    assert instance.last_scan == taken.scan.id


def test_gaps_are_those_of_the_last_scan(database: Database) -> None:
    scanned(database, gaps=[gap(path=b"/a"), gap(path=b"/b")])
    scanned(database, gaps=[gap(path=b"/c")])
    assert [row.where for row in rows(database, tables.gap)] == ["volume 0: /c"]


def accept(database: Database, until: datetime | None = None) -> None:
    with database.write() as connection:
        findings.accept(connection, key(), finding("a")["fingerprint"], AcceptIn(why="known", until=until), "me", now())


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param({"digest": "00", "count": 3, "ids": ["linux/b", "linux/c"]}, id="lacks-the-detector"),
        pytest.param({"digest": "00", "count": 3}, id="does-not-say"),
        pytest.param({"digest": "00", "count": 3, "ids": []}, id="none"),
    ],
)
def test_what_a_worker_could_not_find_is_not_fixed(database: Database, rules: dict[str, Any]) -> None:
    scanned(database, [finding("a"), finding("b")])
    sent = result(ordered(database), report([finding("b")], rules=rules))
    results.take(database, FLEET, sent, now())
    assert states(database) == {"a": "open", "b": "open"}
    scanned(database, [])
    assert states(database) == {"a": "fixed", "b": "fixed"}


@pytest.mark.parametrize("ids", ["linux/a", [1], {"linux/a": 1}, None])
def test_rules_that_are_no_list_of_texts(database: Database, ids: Any) -> None:
    sent = result(ordered(database), report(rules={"digest": "00", "count": 3, "ids": ids}))
    with pytest.raises(Refused, match="rules: ids"):
        results.take(database, FLEET, sent, now())


def test_accepted_stays_accepted_until_it_is_fixed(database: Database) -> None:
    scanned(database, [finding("a")])
    accept(database)
    scanned(database, [finding("a")])
    assert states(database) == {"a": "accepted"}
    scanned(database)
    assert states(database) == {"a": "fixed"}
    with pytest.raises(Refused) as caught:
        accept(database)
    assert caught.value.status == 409
    scanned(database, [finding("a")])
    assert states(database) == {"a": "open"}


def test_accepted_until_a_time(database: Database) -> None:
    scanned(database, [finding("a")])
    until = now() + timedelta(days=1)
    accept(database, until)
    with database.write() as connection:
        assert not findings.any_lapsed(connection, until - timedelta(seconds=1))
        assert findings.lapse(connection, until - timedelta(seconds=1)) == 0
        assert findings.any_lapsed(connection, until)
        assert findings.lapse(connection, until) == 1
    assert states(database) == {"a": "open"}
    with pytest.raises(Refused) as caught:
        accept(database, now() - timedelta(seconds=1))
    assert caught.value.status == 422


def test_opened_again_by_hand(database: Database) -> None:
    scanned(database, [finding("a")])
    accept(database)
    with database.write() as connection:
        opened = findings.reopen(connection, key(), finding("a")["fingerprint"], "me", now())
    assert (opened.state, opened.accepted_by, opened.accepted_why) == (FindingState.OPEN, "", "")
    with database.write() as connection, pytest.raises(Refused) as caught:
        findings.reopen(connection, key(), finding("a")["fingerprint"], "me", now())
    assert caught.value.status == 409


def test_an_older_result_that_comes_late_changes_no_newer_word(database: Database) -> None:
    older, newer = ordered(database), None
    with database.write() as connection:
        connection.execute(tables.scan.update().values(ordered=now() - timedelta(hours=2)))
    late = result(older, report([finding("a"), finding("c")]), started=now() - timedelta(hours=1))
    with database.write() as connection:  # a second scan, as if the first had ended
        connection.execute(tables.scan.update().values(why="schedule"))
    newer = ordered(database)
    results.take(database, FLEET, result(newer, report([finding("b")])), now())
    results.take(database, FLEET, late, now())
    assert states(database) == {
        "a": "open",
        "b": "open",
        "c": "open",
    }  # nobody looked for them since: a later scan fixes them
    (instance,) = rows(database, tables.instance)
    assert instance.last_scan == newer


@pytest.mark.parametrize(
    "time",
    [
        pytest.param(datetime(1, 1, 1, tzinfo=UTC), id="long-ago"),
        pytest.param(datetime(9999, 12, 31, tzinfo=UTC), id="far-away"),
    ],
)
def test_clocks_that_are_off_are_held_in(database: Database, time: datetime) -> None:
    before = now()
    taken = results.take(
        database, FLEET, result(ordered(database), report([finding("a")]), started=time, ended=time), now()
    )
    (row,) = rows(database, tables.finding)
    assert before <= row.first_seen <= now()
    assert taken.scan.ended is not None and before <= taken.scan.ended <= now()


def test_actions_of_the_built_in_policy(database: Database) -> None:
    scanned(database, [finding("a", severity="critical")])
    (row,) = rows(database, tables.finding)
    assert row.actions == ["alert"]


HOSTILE = [
    pytest.param("a\x00b", id="nul"),
    pytest.param("\ud800 and \udfff", id="lone-surrogates"),
    pytest.param("\u202e\x1b[31m", id="controls"),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_kept_and_shown(database: Database, text: str) -> None:
    fields = dict.fromkeys(("rule", "title", "subject", "remedy"), text)
    raw = text.encode("utf-8", "surrogatepass") + b"\xff\xfe"
    found = {**finding("a", path=raw), **fields, "evidence": {text: [text, {text: text}]}}
    scanned(database, [found], gaps=[gap(path=raw, detail=text)], volumes=None)
    (row,) = rows(database, tables.finding)
    assert (row.subject, row.rule, row.path, row.evidence) == (text, text, raw, {text: [text, {text: text}]})
    with database.read() as connection:
        findings.listed(connection, after="", state=None, severity=None, instance="", limit=1).model_dump_json()
        findings.gaps(connection, after="", instance="", limit=1).model_dump_json()


def test_a_result_of_many_findings(database: Database) -> None:
    many = [finding(str(number)) for number in range(3000)]
    scanned(database, many)
    scanned(database, many[:1500])
    counted = [row.state for row in rows(database, tables.finding)]
    assert (counted.count("open"), counted.count("fixed")) == (1500, 1500)


def test_pages_are_no_larger_than_an_answer_may_be(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deep folders with names that are no text: a thousand such paths would be more than any client reads."""
    monkeypatch.setattr("console.store.paging.MOST_PAGE_BYTES", 200_000, raising=False)
    deep = b"/\xff" * 8_000
    scanned(
        database,
        [finding(str(number), path=deep + b"%d" % number) for number in range(20)],
        gaps=[gap(path=deep + b"%d" % number) for number in range(20)],
    )
    for listed in (
        lambda connection, after: findings.listed(
            connection, after=after, state=None, severity=None, instance="", limit=10
        ),
        lambda connection, after: findings.gaps(connection, after=after, instance="", limit=10),
    ):
        after: str | None = ""
        count = 0
        while after is not None:
            with database.read() as connection:
                page = listed(connection, after)
            assert 1 <= len(page.items) <= 10 and len(page.model_dump_json()) < 300_000
            count += len(page.items)
            after = page.next
        assert count == 20
