"""Sets of packages: shared by machines that have the same, and what is said of who has one."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from client.model import PackageHolders
from console.clock import now
from console.problems import Refused
from console.store import estate, packages, results, tables
from console.store.database import Database
from tests.console import made
from tests.console.made import key


def package(name: str, version: str = "1.0", **others: Any) -> dict[str, Any]:
    known = {"type": "deb", "architecture": "amd64", "source": name, "source_version": version, "distro": "debian-12"}
    return {"name": name, "version": version, "volume": 0, "path": "/var/lib/dpkg/status", **known, **others}


def scanned(database: Database, id_: str, *found: dict[str, Any], **others: Any) -> str:
    return made.scanned(database, id_=id_, packages=list(found), **others).scan.id


def who(database: Database, name: str, version: str = "", **more: Any) -> PackageHolders:
    with database.read() as connection:
        return packages.holders(connection, name, version, **{"after": "", "limit": 100, **more})


def keys(found: PackageHolders) -> list[tuple[str, str]]:
    return [(one.machine, one.version) for one in found.items]


def rows(database: Database, table: sa.Table) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_machines_with_the_same_packages_share_them(database: Database) -> None:
    made.enrol(database, "i-1", "i-2", "i-3", "i-4")
    same = [package(f"p{number}") for number in range(1500)]
    scan = scanned(database, "i-1", *same)
    scanned(database, "i-2", *reversed(same))
    scanned(database, "i-3", *same, package("p7", "2.0"))
    assert (rows(database, tables.package_set), rows(database, tables.package_set_item)) == (2, 1500 + 1501)
    assert rows(database, tables.package) == 1501
    found = who(database, "p7")
    assert keys(found) == [(key("i-1"), "1.0"), (key("i-2"), "1.0"), (key("i-3"), "1.0"), (key("i-3"), "2.0")]
    assert (found.instances, found.never, found.gaps, found.items[0].scan) == (4, 1, 0, scan)
    assert keys(who(database, "p7", "2.0")) == [(key("i-3"), "2.0")]
    assert keys(who(database, "p7", "3.0")) == keys(who(database, "nobody's")) == []


def test_by_the_source(database: Database) -> None:
    made.enrol(database, "i-1")
    scanned(database, "i-1", package("libssl3", "3.0+b1", source="openssl", source_version="3.0"))
    assert keys(who(database, "openssl")) == keys(who(database, "openssl", "3.0")) == [(key("i-1"), "3.0+b1")]
    assert keys(who(database, "openssl", "3.0+b1")) == []


def test_pages(database: Database) -> None:
    names = [f"i-{number}" for number in range(4)]
    made.enrol(database, *names)
    for name in names:
        scanned(database, name, package("a", "1"), package("a", "2"), package("b"))
    found: list[tuple[str, str]] = []
    after = ""
    while True:
        page = who(database, "a", after=after, limit=3)
        found += keys(page)
        if page.next is None:
            break
        after = page.next
    assert found == [(key(name), version) for name in names for version in ("1", "2")]
    with pytest.raises(Refused):
        who(database, "a", after="x")


def test_a_later_scan_takes_away_and_what_is_not_known_is_told(database: Database) -> None:
    made.enrol(database, "i-1", "i-2")
    scanned(database, "i-1", package("a"))
    scanned(database, "i-2", package("b"), gaps=[made.gap()])
    assert (who(database, "a").never, who(database, "a").gaps) == (0, 1)
    assert who(database, "b").gaps == 0
    scanned(database, "i-1", package("c"))
    assert keys(who(database, "a")) == []
    made.scanned(database, id_="i-1")  # no package manager, or a fleet that does not tell
    assert (keys(who(database, "c")), who(database, "c").never) == ([], 1)


def test_hostile_words(database: Database) -> None:
    made.enrol(database, "i-1")
    scanned(database, "i-1", package("a\0b", "\u202e1\ud800"), package("x" * 100_000))
    assert [one.version for one in who(database, "a\\x00b").items] == ["\\u202e1\\ud800"]
    assert len(who(database, "x" * 512).items) == 1


def test_a_report_of_an_older_fleet_has_none(database: Database) -> None:
    made.enrol(database, "i-1")
    document = made.report()
    del document["packages"]
    results.take(database, made.FLEET, made.result(made.ordered(database), document), now())
    assert who(database, "a").never == 1


@pytest.mark.parametrize("found", [{}, [1], [{"name": "a"}], [package("a") | {"version": 1}], None])
def test_packages_that_are_none_are_refused(database: Database, found: Any) -> None:
    made.enrol(database, "i-1")
    with pytest.raises(Refused):
        made.scanned(database, packages=found)


def test_what_no_machine_has_is_removed(database: Database) -> None:
    made.enrol(database, "i-1", "i-2")
    scanned(database, "i-1", package("a"), package("b"))
    scanned(database, "i-2", package("b"))
    assert packages.prune(database, now()) == 0
    scanned(database, "i-1", package("b"))
    assert packages.prune(database, now()) == 1
    assert (rows(database, tables.package), rows(database, tables.package_set)) == (1, 1)
    with database.write() as connection:
        estate.close(connection, [key("i-1"), key("i-2")], now())
    assert packages.prune(database, now()) == 0
    assert packages.prune(database, now() + timedelta(days=2)) == 1
    for table in (tables.package, tables.package_set, tables.package_set_item, tables.machine_packages):
        assert rows(database, table) == 0


@pytest.mark.slow
def test_many_results_and_pruning_at_once(database: Database) -> None:
    names = [f"i-{number}" for number in range(4)]
    made.enrol(database, *names)
    failed: list[BaseException] = []

    def told(work: Iterable[Any]) -> None:
        try:
            for _ in work:
                pass
        except BaseException as error:  # noqa: BLE001  told below
            failed.append(error)

    def scans(name: str) -> Iterable[Any]:
        for turn in range(8):
            yield scanned(database, name, *(package(f"p{(turn + one) % 9}") for one in range(5)))

    def prunes() -> Iterable[Any]:
        for _ in range(20):
            yield packages.prune(database, now())

    threads = [threading.Thread(target=told, args=(work,)) for work in (*map(scans, names), prunes())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    expected = {f"p{(7 + one) % 9}" for one in range(5)}
    for number in range(9):
        assert len(who(database, f"p{number}").items) == (4 if f"p{number}" in expected else 0)
