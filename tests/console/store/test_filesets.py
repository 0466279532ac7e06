"""Sets of contents: whole, as differences, never half; and what is said of who holds one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.model import FileHolders, FileSetIn, FileSetOut
from console.clock import now
from console.problems import Refused
from console.store import estate, filesets, results, tables
from console.store.database import Database
from tests.console import made
from tests.console.made import FLEET, key

Set = frozenset[bytes]


def content(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def contents(*names: object) -> Set:
    return frozenset(content(name) for name in names)


def name_of(hashes: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()


def put(
    database: Database, fleet: str, digest: str, number: int, added: Iterable[bytes], removed: Iterable[bytes]
) -> None:
    with database.write() as connection:
        filesets.put_piece(connection, fleet, digest, number, b"".join(sorted(added)), b"".join(sorted(removed)))


def offered(database: Database, wanted: Set, base: Set | None = None, fleet: str = FLEET) -> FileSetOut:
    """As a fleet does it, in one piece."""
    digest = name_of(wanted)
    offer = FileSetIn(count=len(wanted), base="" if base is None else name_of(base), pieces=1)
    answer = filesets.offer(database, fleet, digest, offer, now())
    if answer.state != "wanted":
        return answer
    known = base or frozenset()
    put(database, fleet, digest, 0, wanted - known, known - wanted)
    return filesets.offer(database, fleet, digest, offer, now())


def scanned(database: Database, wanted: Set, id_: str = "i-1", gaps: Iterable[Any] = ()) -> str:
    scan = made.ordered(database, id_)
    report = made.report(gaps=list(gaps))
    results.take(database, FLEET, made.result(scan, report, file_set=name_of(wanted)), now())
    return scan


def who(database: Database, name: object, **more: Any) -> FileHolders:
    with database.read() as connection:
        return filesets.holders(connection, content(name).hex(), **{"after": "", "limit": 100, **more})


def keys(found: FileHolders) -> list[str]:
    return [one.machine for one in found.items]


def rows(database: Database, table: sa.Table) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_what_many_share_is_stored_once(database: Database) -> None:
    made.enrol(database, "i-1", "i-2", "i-3", "i-4")
    image = contents(*range(1000))
    first, second = image | contents("own"), (image | contents("other")) - contents(5)
    assert offered(database, image).state == "whole"
    assert offered(database, first, image).state == offered(database, second, image).state == "whole"
    before = rows(database, tables.file_set_shard)
    assert before <= 256 + 3
    assert offered(database, image).state == "whole"  # a clone without differences: nothing but a name
    assert rows(database, tables.file_set_shard) == before
    scan = scanned(database, first)
    scanned(database, second, "i-2")
    scanned(database, image, "i-3")
    found = who(database, 5)
    assert keys(found) == [key("i-1"), key("i-3")]
    assert (found.items[0].scan, found.instances, found.never, found.gaps) == (scan, 4, 1, 0)
    assert keys(who(database, "own")) == [key("i-1")]
    assert keys(who(database, "other")) == [key("i-2")]
    assert keys(who(database, 6)) == [key("i-1"), key("i-2"), key("i-3")]
    assert keys(who(database, "nobody's")) == []


def test_pages(database: Database) -> None:
    names = [f"i-{number}" for number in range(7)]
    made.enrol(database, *names)
    offered(database, contents("a"))
    for name in names:
        scanned(database, contents("a"), name)
    found, after = [], ""
    while True:
        page = who(database, "a", after=after, limit=3)
        assert len(page.items) <= 3
        found += keys(page)
        if page.next is None:
            break
        after = page.next
    assert found == [key(name) for name in names]


def test_gaps_and_machines_that_were_never_looked_at_are_told(database: Database) -> None:
    made.enrol(database, "i-1", "i-2", "i-3", "i-4")
    offered(database, contents("a"))
    scanned(database, contents("a"), "i-1", [made.gap()])
    scanned(database, contents("a"), "i-2")
    found = who(database, "a")
    assert (len(found.items), found.never, found.gaps) == (2, 2, 0)
    found = who(database, "b")
    assert (len(found.items), found.never, found.gaps) == (0, 2, 1)
    made.scanned(database, id_="i-2")  # a scan that leaves no set: what was known is of a disk that is no more
    assert (keys(who(database, "a")), who(database, "a").never) == ([key("i-1")], 3)


def test_a_set_that_is_not_there_counts_when_it_is(database: Database) -> None:
    made.enrol(database, "i-1")
    wanted = contents("a", "b")
    offer = FileSetIn(count=2, pieces=2)
    assert filesets.offer(database, FLEET, name_of(wanted), offer, now()).missing == (0, 1)
    first, second = sorted(wanted)
    put(database, FLEET, name_of(wanted), 1, [second], [])
    scanned(database, wanted)
    assert (who(database, "a").items, who(database, "a").never) == ((), 1)
    assert filesets.offer(database, FLEET, name_of(wanted), offer, now()).missing == (0,)
    put(database, FLEET, name_of(wanted), 0, [first], [])
    put(database, FLEET, name_of(wanted), 0, [first], [])  # sent again
    assert filesets.offer(database, FLEET, name_of(wanted), offer, now()).state == "whole"
    assert (keys(who(database, "a")), who(database, "a").never) == ([key("i-1")], 0)
    assert rows(database, tables.file_set_piece) == rows(database, tables.file_set_offer) == 0


@pytest.mark.parametrize(
    ("added", "count"),
    [
        ([content("a")], 2),  # one is missing
        ([content("a"), content("b")], 3),  # the count is wrong
        ([content("a"), content("b"), content("c")], 3),
        ([], 0),
    ],
)
def test_what_does_not_give_the_digest_is_no_set(database: Database, added: list[bytes], count: int) -> None:
    digest = name_of(contents("a", "b"))
    offer = FileSetIn(count=count, pieces=1)
    filesets.offer(database, FLEET, digest, offer, now())
    put(database, FLEET, digest, 0, added, [])
    with pytest.raises(Refused, match="do not give"):
        filesets.offer(database, FLEET, digest, offer, now())
    assert rows(database, tables.file_set) == rows(database, tables.file_set_piece) == 0
    assert offered(database, contents("a", "b")).state == "whole"  # whoever sends it well is not hindered


def test_hashes_out_of_order_are_refused(database: Database) -> None:
    digest = name_of(contents("a", "b"))
    offer = FileSetIn(count=2, pieces=2)
    filesets.offer(database, FLEET, digest, offer, now())
    for number, one in enumerate(sorted(contents("a", "b"), reverse=True)):
        put(database, FLEET, digest, number, [one], [])
    with pytest.raises(Refused, match="order"):
        filesets.offer(database, FLEET, digest, offer, now())


def test_pieces_that_nobody_asked_for(database: Database) -> None:
    with pytest.raises(Refused) as refused:
        put(database, FLEET, name_of(contents("a")), 0, contents("a"), [])
    assert refused.value.status == 404
    filesets.offer(database, FLEET, name_of(contents("a")), FileSetIn(count=1, pieces=1), now())
    with pytest.raises(Refused) as refused:
        put(database, FLEET, name_of(contents("a")), 1, contents("a"), [])
    assert refused.value.status == 422
    for number in range(150):
        filesets.offer(database, FLEET, name_of(contents(number)), FileSetIn(count=1, pieces=1), now())
    assert rows(database, tables.file_set_offer) <= 100


def test_two_fleets_with_one_set(database: Database) -> None:
    """What one sends wrong, or by another way, does not mix with what the other sends."""
    wanted, base = contents("a", "b", "c"), contents("a", "b")
    offered(database, base)
    digest = name_of(wanted)
    filesets.offer(database, "other", digest, FileSetIn(count=3, pieces=1), now())
    put(database, "other", digest, 0, contents("x"), [])
    assert offered(database, wanted, base).state == "whole"
    assert filesets.offer(database, "other", digest, FileSetIn(count=3, pieces=1), now()).state == "whole"
    assert rows(database, tables.file_set_piece) == 0


def test_another_way_to_the_same_set_begins_anew(database: Database) -> None:
    wanted, base = contents("a", "b", "c"), contents("a", "b")
    digest = name_of(wanted)
    offer = FileSetIn(count=3, base=name_of(base), pieces=1)
    assert filesets.offer(database, FLEET, digest, offer, now()).state == "unknown"
    offered(database, base)
    assert filesets.offer(database, FLEET, digest, offer, now()).state == "wanted"
    put(database, FLEET, digest, 0, wanted - base, [])
    assert offered(database, wanted).state == "whole"


def test_what_nobody_uses_is_removed(database: Database) -> None:
    made.enrol(database, "i-1", "i-2")
    image, own = contents(*range(50)), contents(*range(50), "own")
    offered(database, image)
    offered(database, own, image)
    offered(database, contents("unused"))
    filesets.offer(database, FLEET, name_of(contents("half")), FileSetIn(count=1, pieces=1), now())
    scanned(database, own)
    scanned(database, own, "i-2")
    assert filesets.prune(database, now()) == 0  # results may be under way
    later = now() + timedelta(days=2)
    assert filesets.prune(database, later) == 1
    assert rows(database, tables.file_set_offer) == 0
    assert keys(who(database, 7)) == [key("i-1"), key("i-2")]  # the image's is the base of one that is used
    with database.write() as connection:
        estate.close(connection, [key("i-1"), key("i-2")], now())
    assert keys(who(database, 7)) == []
    assert filesets.prune(database, later) == 1  # then what it was the base of is gone
    assert filesets.prune(database, later) == 1
    for table in (tables.file_set, tables.file_set_shard, tables.machine_files):
        assert rows(database, table) == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.integers(0, 30), max_size=31), min_size=1, max_size=6), st.data())
def test_any_chain_of_differences_says_what_the_sets_say(
    database: Database, chain: list[set[int]], data: st.DataObject
) -> None:
    with database.write() as connection:
        for table in (tables.machine_files, tables.file_set_shard, tables.file_set_offer, tables.file_set):
            connection.execute(table.update().values(base=None) if table is tables.file_set else table.delete())
        connection.execute(tables.file_set.delete())
    before: list[Set] = []
    for number, names in enumerate(chain):
        wanted = contents(*names)
        base = data.draw(st.sampled_from([None, *before]))
        assert offered(database, wanted, base).state == "whole"
        before.append(wanted)
        with database.write() as connection:
            filesets.attach(connection, f"image-{number}", "image", name_of(wanted), "s", now())
    for name in range(31):
        expected = [f"image-{number}" for number, names in enumerate(chain) if name in names]
        assert keys(who(database, name)) == expected
