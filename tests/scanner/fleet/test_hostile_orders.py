"""Orders as a console gives them that somebody broke into: they fail or are bounded, and those of others go on."""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import boto3
import pytest
from sqlalchemy import func, select, update

from client.model import AccountIn, Order, Pull, ScanState, Why
from cloud.aws.accounts import Sessions
from core.errors import CloudError, ConfigError
from core.findings import GapReason
from scanner.fleet import admission, bases, inventory, orders
from scanner.fleet.context import Context
from scanner.fleet.look import blocks_per_second, options_of
from scanner.fleet.settings import PREFIX, Settings
from scanner.fleet.tables import outbox, scan
from tests.scanner.fleet.test_admission import HERE, Site, an_order
from tests.scanner.fleet.test_bases import keep

HUGE = 10**400
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def site(url: str) -> Iterator[Site]:
    made = Site(url)
    yield made
    made.database.close()


@pytest.mark.parametrize("value", [HUGE, -HUGE, 0, True, math.inf, math.nan, "x", None, [], {}])
@pytest.mark.parametrize("name", ["base_snapshots.max_age_seconds", "base_snapshots.keep"])
def test_settings_of_bases(site: Site, name: str, value: Any) -> None:
    keep(site, an_order("one", "i-1", settings={name: value}), 1, "snap-1")
    with site.database.read() as connection:
        assert bases.total(connection)[0] == 1


@pytest.mark.parametrize("value", [HUGE, -HUGE, 1e308, math.inf, -math.inf, math.nan, "x", [1], {"a": 1}])
def test_settings_of_scans(tmp_path: Path, value: Any) -> None:
    names = ("max_file_bytes", "scan_ends_bytes", "timeout_seconds", "file_timeout_seconds")
    order = an_order("one", settings={f"scan.{name}": value for name in names} | {"gaps.accepted": value})
    found = options_of(order, cast(Context, SimpleNamespace(jobs=1, folder=tmp_path)), tmp_path)
    for number in (found.max_file_bytes, found.ends_bytes):
        assert isinstance(number, int)
        assert 0 <= number <= 1 << 60
    assert all(0 <= one <= 31 * 86_400 for one in (found.timeout_seconds, found.file_timeout_seconds))
    assert found.accepted == frozenset()


@pytest.mark.parametrize("accepted", [5, "limit", {"limit": 1}, [["limit"]], [None, "limit"]])
def test_gaps_are_accepted_by_a_list_of_words_alone(tmp_path: Path, accepted: Any) -> None:
    order = an_order("one", settings={"gaps.accepted": accepted})
    found = options_of(order, cast(Context, SimpleNamespace(jobs=1, folder=tmp_path)), tmp_path).accepted
    assert found == ({GapReason.LIMIT} if accepted == [None, "limit"] else frozenset())


@pytest.mark.parametrize("scans", [HUGE, -HUGE, 0, "x"])
def test_blocks_per_second(scans: Any) -> None:
    for most in (HUGE, 10):
        found = blocks_per_second(
            an_order("one", settings={"limits.blocks_per_second": most, "limits.scans_per_account": scans})
        )
        assert found is not None
        assert 0.1 <= found <= 1 << 30


@pytest.mark.parametrize(
    "when",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=23))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=23))),
    ],
)
def test_times_at_the_ends_of_the_calendar(site: Site, when: datetime) -> None:
    site.order(an_order("good"), an_order("from", not_before=when), an_order("until", not_after=when))
    assert "good-1" in [site.claim() for _ in range(3)]
    for one in ("good", "from", "until"):
        site.do(admission.end, one, ScanState.STOPPED)
        assert site.result(one)


@pytest.mark.parametrize("offset_ms", [10**18, -(10**18), 10**15, 253_402_300_799_999])
def test_a_console_whose_clock_is_beyond_the_calendar(site: Site, offset_ms: int) -> None:
    """Workers that died of it, one after the other, would leave what they made."""
    pull = Pull(now=datetime.max.replace(tzinfo=UTC), orders=(), accounts=())
    orders.take(site.database, site.fences[0], pull, offset_ms)
    site.order(an_order("one"), an_order("two", not_after=NOW))
    site.claim()
    for one in ("one", "two"):
        site.do(admission.again, one, "why")
        site.do(admission.end, one, ScanState.STOPPED)
        assert site.result(one)
    site.do(admission.rescue)


def take(site: Site, *given: Order) -> list[str]:
    return orders.take(site.database, site.fences[0], Pull(now=NOW, orders=given, accounts=()), 0)[1]


def test_an_order_in_place_of_one_that_runs(site: Site) -> None:
    take(site, Order(number=1, kind="scan", order=an_order("one")))
    assert site.claim() == "one-1"
    other = an_order("one", "i-other", why=Why.MANUAL, settings={"limits.scans_per_account": 1000})
    take(site, Order(number=2, kind="scan", order=other))
    with site.database.read() as connection:
        assert admission.order_of(connection, "one").machine == f"{HERE}/i-one"
    assert site.claim() is None
    assert admission.held(site.database, site.fences[0]) == ["one-1"]


def test_ids_that_could_be_taken_for_attempts_at_others(site: Site) -> None:
    """`a-1` is a scan's id and the first attempt at `a`: what they make is told apart all the same."""
    take(site, *(Order(number=n, kind="scan", order=an_order(name)) for n, name in enumerate(("a", "a-1", "a-1-1"), 1)))
    tokens = {site.claim() for _ in range(3)}
    assert tokens == {"a-1", "a-1-1", "a-1-1-1"}
    with site.database.write() as connection:
        admission.end(site.database, connection, "a", ScanState.STOPPED)
        assert not admission.is_live(connection, "a-1")
        assert admission.is_live(connection, "a-1-1")


def test_orders_that_say_nothing_or_too_much(site: Site) -> None:
    long = an_order("long", place=type(HERE)("aws", "1" * 201, "r"))
    told = take(
        site,
        Order(number=1, kind="scan"),
        Order(number=2, kind="stop"),
        Order(number=3, kind="scan", order=long),
        Order(number=10**30, kind="scan", order=an_order("good")),
        Order(number=10**30, kind="stop", scan="nobody"),
    )
    assert len(told) == 3
    with site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(scan)).scalar_one() == 1
        assert orders.cursor(connection) == 10**30


def test_orders_without_an_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that find no room are told to the console as failed, once; if it does not take that either, they are left aside."""
    monkeypatch.setattr(admission, "MOST_WAITING", 3)
    monkeypatch.setattr(admission, "MOST_UNSENT", 2)
    given = [Order(number=n, kind="scan", order=an_order(f"s-{n}", settings={"x": "y"})) for n in range(1, 8)]
    told = take(site, *given[:2], *given[:1], *given[2:])
    assert told == [
        "orders of scans refused: 2, as 3 wait already",
        "orders of scans left aside: 2, as 3 wait already and the console does not take the 2 results before them",
    ]
    states = {f"s-{n}": site.row(f"s-{n}").state for n in range(1, 6)}
    assert states == dict.fromkeys(("s-1", "s-2", "s-3"), "waiting") | dict.fromkeys(("s-4", "s-5"), "failed")
    assert site.result("s-4").state == ScanState.FAILED
    assert "3 scans wait" in site.result("s-4").detail
    again = [one.model_copy(update={"number": one.number + 10}) for one in given[:5]]
    assert not any("refused" in words for words in take(site, *again)), "once"
    site.do(admission.pause, "s-1")
    site.do(admission.stop, "s-2")
    with site.database.write() as connection:
        connection.execute(update(outbox).values(sent_ms=1))
    more = [Order(number=n, kind="scan", order=an_order(f"s-{n}")) for n in (20, 21)]
    assert take(site, *more) == ["orders of scans refused: 1, as 3 wait already"], "paused ones are counted"
    assert (site.row("s-20").state, site.row("s-21").state) == ("waiting", "failed")


@pytest.mark.parametrize("cloud", ["azure", "file", ""])
def test_a_place_that_no_worker_serves_holds_up_nobody(site: Site, cloud: str) -> None:
    take(
        site,
        Order(number=1, kind="scan", order=an_order("theirs", place=type(HERE)(cloud, "a", "r"), why=Why.MANUAL)),
        Order(number=2, kind="scan", order=an_order("ours")),
    )
    assert site.claim(clouds=("aws",), regions=("eu-central-1",)) == "ours-1"
    assert site.claim(clouds=("aws",), regions=("eu-central-1",)) is None


@pytest.mark.parametrize(
    "path", ["relative", "../up", "", "/dev/zero", "/dev/stdin", "/", "/proc/self/environ", "/etc/passwd", "fifo", "socket"]
)  # fmt: skip
def test_a_file_of_machines_that_is_none(tmp_path: Path, path: str) -> None:
    """None of it is told, and none of it holds up the listing of the others."""
    if path == "fifo":
        os.mkfifo(tmp_path / path)
        path = str(tmp_path / path)
    with socket.socket(socket.AF_UNIX) as bound:
        if path == "socket":
            path = str(tmp_path / path)
            bound.bind(path)
        with pytest.raises(ConfigError) as refused:
            list(inventory.machines(AccountIn(cloud="file", account="site", instances_file=path)))
    assert "root:" not in str(refused.value)
    assert "PATH" not in str(refused.value).replace(path, "")


@pytest.mark.parametrize("regions", [(), ("eu-central-1",), ("evil.example/",), ("a@evil.example:80/x",), ("x#",)])
@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/x",
        "https://evil.example/111122223333/queue",
        "https://sqs.eu-west-1.amazonaws.com@evil.example/111122223333/queue",
        "https://sqs.evil.example#.amazonaws.com/1/q",
        "https://evil.example/../a",
        "file:///etc/passwd/x",
    ],
)
def test_no_address_of_the_console_s_choice_is_asked(tmp_path: Path, url: str, regions: tuple[str, ...]) -> None:
    """A request carries the session's token: whatever a queue is called, AWS is who is asked for it."""
    words = {"DATABASE": "sqlite:///x", "DATA": str(tmp_path), "CONSOLE": "http://127.0.0.1:9", "TOKEN_FILE": "token"}
    settings = Settings.from_environment({f"{PREFIX}{name}": value for name, value in words.items()})
    asked: list[str] = []

    def seen(request: Any, **_: Any) -> None:
        asked.append(urlsplit(request.url).hostname or "")
        raise RuntimeError("not sent")

    sessions = Sessions(boto3.Session("AKIA", "secret", region_name="us-east-1"))
    account = AccountIn(cloud="aws", account="111122223333", queue_url=url, regions=regions)
    try:
        queue = inventory.Inventory(settings, sessions).queue(url, [account])
    except (ConfigError, CloudError):
        return
    queue.sqs.meta.events.register("before-send.sqs", seen)
    with pytest.raises((RuntimeError, CloudError)):
        queue.receive(0)
    assert asked
    assert all(re.fullmatch(r"sqs\.[a-z0-9-]+\.amazonaws\.com", one) for one in asked), asked


def test_files_of_machines_lie_where_the_fleet_s_operator_said(tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    line = '{"id": "m-1", "place": {"cloud": "file", "account": "site"}}\n'
    for name in ("sites/good", "other"):
        (tmp_path / name).write_text(line)
    (tmp_path / "sites" / "link").symlink_to(tmp_path / "other")
    sites = [tmp_path / "nowhere", tmp_path / "sites"]

    def listed(name: str, *where: Path) -> int:
        account = AccountIn(cloud="file", account="site", instances_file=f"{tmp_path}/{name}")
        return len(list(inventory.machines(account, where)))

    assert listed("sites/good", *sites) == listed("other") == 1
    for name in ("other", "sites/link", "sites/../other", "sites"):
        with pytest.raises(ConfigError, match="KUMOMORI_FLEET_SITES"):
            listed(name, *sites)
