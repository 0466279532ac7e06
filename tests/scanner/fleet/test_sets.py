"""Sets of contents on the fleet's side: sorted in little memory, sent as differences if they can be, and before the result."""

from __future__ import annotations

import base64
import hashlib
import random
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from client.model import FilePieceIn, FileSetIn, FileSetOut, ResultIn, ScanState
from core.errors import LimitExceeded
from scanner.fleet import admission, sets
from scanner.fleet.context import Context
from scanner.fleet.sets import Sorted
from scanner.fleet.tables import file_piece, file_set, outbox
from scanner.manifest.block import Row, encode
from scanner.manifest.file import Writer
from tests.scanner.fleet.console import FakeConsole, problem, scan_order, served
from tests.scanner.fleet.duties import Desk, until


def content(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def name_of(hashes: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()


@contextmanager
def sorted_(folder: Path, hashes: Iterable[bytes]) -> Iterator[Sorted]:
    made = Sorted(folder)
    for one in hashes:
        made.add(one)
    yield made
    made.close()


def row(inode: int, sha256: bytes, mode: int = 0o100644) -> Row:
    return Row(inode, (b"/f%d" % inode,), mode, 0, 0, 1, 0, 1, False, sha256, b"", (), (), True, b"")


def manifest(path: Path, *volumes: Iterable[Row]) -> Path:
    with path.open("wb") as stream:
        writer = Writer(stream)
        for number, rows in enumerate(volumes):
            some = list(rows)
            for start in range(0, len(some), 1000):
                part = some[start : start + 1000]
                writer.add(number, part[0].inode, part[-1].inode, len(part), encode(part))
        writer.finish({})
    return path


def test_only_files_and_only_what_was_hashed(tmp_path: Path) -> None:
    path = manifest(
        tmp_path / "m",
        [row(1, content("a")), row(2, b""), row(3, content("target"), 0o120777), row(4, content("b"))],
        [row(1, content("a")), row(9, content("c"))],
    )
    with sorted_(tmp_path, ()) as found:
        sets.read([path], [found])
        assert list(found) == sorted(map(content, "abc"))


def test_two_manifests_do_not_mix(tmp_path: Path) -> None:
    old = manifest(tmp_path / "old", [row(1, content("a")), row(2, content("b"))])
    new = manifest(tmp_path / "new", [row(1, content("a")), row(2, content("c"))])
    with sorted_(tmp_path, ()) as one, sorted_(tmp_path, ()) as other:
        sets.read([new, old], [one, other])
        assert (list(one), list(other)) == (sorted(map(content, "ac")), sorted(map(content, "ab")))
        assert list(sets.differences(other, one)) == [(content("c"), content("b"))]


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_differences_lead_from_one_to_the_other(tmp_path_factory: Any, old: set[int], new: set[int]) -> None:
    folder = tmp_path_factory.getbasetemp()
    with sorted_(folder, map(content, old)) as before, sorted_(folder, map(content, new)) as after:
        added, removed = set[bytes](), set[bytes]()
        for more, less in sets.differences(before, after):
            added |= {more[at : at + 32] for at in range(0, len(more), 32)}
            removed |= {less[at : at + 32] for at in range(0, len(less), 32)}
        assert added == {content(one) for one in new - old}
        assert removed == {content(one) for one in old - new}
        assert sets.name_of(after) == sets.Name(name_of(map(content, new)), len(new))


@pytest.mark.slow
def test_a_million_files_in_little_memory(tmp_path: Path) -> None:
    chance = random.Random(1)
    tracemalloc.start()
    with sorted_(tmp_path, ()) as found:
        for _ in range(1000):
            found.add(chance.randbytes(32 * 1000))
        name = sets.name_of(found)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert name.count == 1_000_000
    assert peak < 64 << 20


def test_too_many_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "MOST_SET_HASHES", 10)
    with sorted_(tmp_path, map(content, range(11))) as found, pytest.raises(LimitExceeded):
        sets.name_of(found)
    path = manifest(tmp_path / "manifest", [row(number + 1, content(number)) for number in range(11)])
    assert sets.made(None, tmp_path, path, tmp_path / "base") == ""  # type: ignore[arg-type]  # nothing is written


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"x", b"KUMOMANI"])
def test_a_damaged_manifest_gives_no_set(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "manifest").write_bytes(damage)
    assert sets.made(None, tmp_path, tmp_path / "manifest", tmp_path / "base") == ""  # type: ignore[arg-type]


# on the way to the console


class SetsConsole(FakeConsole):
    """Keeps sets as the console does, in memory; `sent` counts the hashes that came, `early` results whose set was not there."""

    def __init__(self) -> None:
        super().__init__()
        self.sets: dict[str, set[bytes]] = {}
        self.pieces: dict[str, dict[int, FilePieceIn]] = {}
        self.sent = 0
        self.early: list[str] = []

    def answer(self, name: str, fleet: str, query: dict[str, str], body: bytes) -> Any:
        if name == "results":
            result = ResultIn.model_validate_json(body)
            if result.file_set and result.file_set not in self.sets:
                self.early.append(result.scan)
        return super().answer(name, fleet, query, body)

    def answer_path(self, parts: list[str], body: bytes) -> Any:
        digest = parts[4]
        if len(parts) > 5:
            piece = FilePieceIn.model_validate_json(body)
            self.pieces.setdefault(digest, {})[int(parts[6])] = piece
            self.sent += sum(len(base64.b64decode(one)) // 32 for one in (piece.added, piece.removed))
            return None
        wanted = FileSetIn.model_validate_json(body)
        if digest in self.sets:
            return FileSetOut(state="whole")
        if wanted.base and wanted.base not in self.sets:
            return FileSetOut(state="unknown")
        have = self.pieces.get(digest, {})
        if missing := tuple(one for one in range(wanted.pieces) if one not in have):
            return FileSetOut(state="wanted", missing=missing)
        members = set(self.sets.get(wanted.base, ()))
        for piece in have.values():
            members = (members | _split(piece.added)) - _split(piece.removed)
        assert (name_of(members), len(members)) == (digest, wanted.count)
        self.sets[digest] = members
        return FileSetOut(state="whole")


def _split(text: str) -> set[bytes]:
    raw = base64.b64decode(text)
    return {raw[at : at + 32] for at in range(0, len(raw), 32)}


@pytest.fixture
def console() -> SetsConsole:
    return SetsConsole()


@pytest.fixture
def desk(url: str, tmp_path: Path, console: SetsConsole) -> Iterator[Desk]:
    with served(console) as address:
        made = Desk(url, tmp_path, address)
        yield made
        made.database.close()


def finished(desk: Desk, folder: Path, scan: str, names: Iterable[object], base: Iterable[object] | None = None) -> str:
    """A scan that found these contents, with its result in the outbox."""
    context = Context(desk.database, desk.fence(f"slot-{scan}"), None, None, None, folder, 1)  # type: ignore[arg-type]  # what sets need of it
    new = manifest(folder / "manifest", [row(at + 1, content(name)) for at, name in enumerate(names)])
    old = folder / "base"
    old.unlink(missing_ok=True)
    if base is not None:
        manifest(old, [row(at + 1, content(name)) for at, name in enumerate(base)])
    digest = sets.made(context, folder, new, old)
    assert digest
    with desk.database.write() as connection:
        admission.write_down(desk.database, connection, scan_order(scan))
        admission.end(desk.database, connection, scan, ScanState.DONE, file_set=digest)
    return digest


def left(desk: Desk) -> int:
    with desk.database.read() as connection:
        return sum(
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (file_set, file_piece)
        )


@pytest.mark.slow
def test_differences_are_sent_and_before_the_result(desk: Desk, console: SetsConsole, tmp_path: Path) -> None:
    image = range(2000)
    first = finished(desk, tmp_path, "s-1", image)
    second = finished(desk, tmp_path, "s-2", [*range(1, 2000), "own"], image)
    third = finished(desk, tmp_path, "s-3", image, image)
    with desk.linked():
        until(lambda: not desk.unsent())
    assert [console.results[name][0].file_set for name in ("s-1", "s-2", "s-3")] == [first, second, third]
    assert console.sets[second] == {content(one) for one in (*range(1, 2000), "own")}
    assert (first, console.early, console.sent) == (third, [], 2000 + 2)
    assert left(desk) == 0


def test_a_base_that_the_console_does_not_have(desk: Desk, console: SetsConsole, tmp_path: Path) -> None:
    digest = finished(desk, tmp_path, "s-1", range(1, 100), range(100))
    with desk.linked():
        until(lambda: not desk.unsent())
    assert console.sets[digest] == {content(one) for one in range(1, 100)}


@pytest.mark.slow
def test_nothing_is_lost_while_the_console_fails(desk: Desk, console: SetsConsole, tmp_path: Path) -> None:
    """Each request fails once before it is heard, or after."""
    seen: set[tuple[str, bytes]] = set()
    lock = threading.Lock()

    def fault(name: str, body: bytes) -> tuple[int, bytes] | None:
        with lock:
            if name not in {"file-sets", "results"} or (name, body) in seen:
                return None
            seen.add((name, body))
        return 500, b"{}"

    console.faults.append(fault)
    digest = finished(desk, tmp_path, "s-1", range(20_000))
    with desk.linked():
        until(lambda: not desk.unsent(), 60)
    assert (len(console.sets[digest]), console.early) == (20_000, [])


def test_a_set_that_is_refused_keeps_no_result_back(desk: Desk, console: SetsConsole, tmp_path: Path) -> None:
    console.faults.append(lambda name, _: problem(422, "no") if name == "file-sets" else None)
    finished(desk, tmp_path, "s-1", range(10))
    with desk.linked():
        until(lambda: not desk.unsent())
    assert console.results["s-1"][0].file_set == ""
    assert any("refused by the console: no" in line for line in desk.lines)


def test_what_a_lost_scan_left_goes(desk: Desk, console: SetsConsole, tmp_path: Path) -> None:
    finished(desk, tmp_path, "s-1", range(10))
    with desk.database.write() as connection:
        connection.execute(outbox.delete())
    desk.clock = 3 * 86_400
    finished(desk, tmp_path, "s-2", range(5))
    with desk.database.write() as connection:
        sets.forget(connection, "", desk.database.now_ms(connection) + 3 * 86_400_000)
    with desk.database.read() as connection:
        assert connection.execute(select(file_set.c.count)).scalars().all() == [5]
