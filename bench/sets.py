"""File sets of many machines of one image: what they take in the console's database, and how soon it is known who holds a content."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from bench.measure import median
from bench.page import Section, seconds
from client.model import MOST_PIECE_HASHES, AccountIn, FileHolders, FileSetIn, Sighting
from console.store import accounts, estate, filesets
from console.store.database import Database
from console.store.migrate import upgrade
from core.estate import Instance, Place

GOAL_SECONDS: Final = 1.0
_FLEET: Final = "default"
_PLACE: Final = Place("aws", "123456789012", "eu-west-1")
_NOW: Final = datetime(2027, 1, 1, tzinfo=UTC)
_ASKED: Final = 7  # times each question


@dataclass(frozen=True, slots=True)
class Shape:
    """Each machine has the `shared` contents of its image and `own` ones that no other has."""

    machines: int = 1000
    shared: int = 50_000
    own: int = 50


@dataclass(frozen=True, slots=True)
class Outcome:
    """`image_bytes` is the growth by the image's set, `machine_bytes` by those of all machines together."""

    image_bytes: int
    machine_bytes: int
    image_seconds: float
    machine_seconds: float  # each, to take its set in
    own_seconds: float  # to answer about a content of one machine
    shared_seconds: float  # … of all of them, first page
    nobody_seconds: float


def _content(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def simulate(url: str, shape: Shape) -> Outcome:
    """Raises `AssertionError` if an answer is wrong."""
    database = Database(url)
    upgrade(database)
    names = [f"i-{number:05}" for number in range(shape.machines)]
    keys = [str(Instance(_PLACE, name)) for name in names]
    with database.write() as connection:
        accounts.put(connection, AccountIn(cloud="aws", account=_PLACE.account, fleet=_FLEET), "bench", _NOW)
    for start in range(0, len(names), 500):
        some = tuple(Instance(_PLACE, name) for name in names[start : start + 500])
        estate.sight(database, _FLEET, Sighting(instances=some, seen=_NOW), _NOW)
    image = {_content(f"shared {number}") for number in range(shape.shared)}
    empty = _bytes(database)
    start_time = time.perf_counter()
    base = _put(database, sorted(image), sorted(image), "")
    image_seconds = time.perf_counter() - start_time
    after_image = _bytes(database)
    times = []
    for name, key in zip(names, keys, strict=True):
        own = sorted(_content(f"{name} {number}") for number in range(shape.own))
        whole = sorted([*image, *own])
        start_time = time.perf_counter()
        digest = _put(database, whole, own, base)
        with database.write() as connection:
            filesets.attach(connection, key, "instance", digest, f"scan-{name}", _NOW)
        times.append(time.perf_counter() - start_time)
    after = _bytes(database)
    ask = (f"{names[-1]} 0", "shared 0", "nobody's")
    own_seconds, shared_seconds, nobody_seconds = (_asked(database, name) for name in ask)
    assert [one.machine for one in _holders(database, ask[0]).items] == [keys[-1]]
    assert [one.machine for one in _holders(database, ask[1]).items] == keys[:1000]
    assert _holders(database, ask[2]).items == ()
    database.close()
    return Outcome(
        after_image - empty,
        after - after_image,
        image_seconds,
        median(times),
        own_seconds,
        shared_seconds,
        nobody_seconds,
    )


def _put(database: Database, whole: list[bytes], added: list[bytes], base: str) -> str:
    digest = hashlib.sha256(b"".join(whole)).hexdigest()
    pieces = [added[at : at + MOST_PIECE_HASHES] for at in range(0, len(added), MOST_PIECE_HASHES)]
    offer = FileSetIn(count=len(whole), base=base, pieces=len(pieces))
    filesets.offer(database, _FLEET, digest, offer, _NOW)
    for number, piece in enumerate(pieces):
        with database.write() as connection:
            filesets.put_piece(connection, _FLEET, digest, number, b"".join(piece), b"")
    assert filesets.offer(database, _FLEET, digest, offer, _NOW).state == "whole"
    return digest


def _bytes(database: Database) -> int:
    """Of the whole database; of SQLite's file what is in use."""
    with database.engine.connect() as connection:
        if database.sqlite:
            pages, free, size = (
                connection.exec_driver_sql(f"PRAGMA {one}").scalar_one()
                for one in ("page_count", "freelist_count", "page_size")
            )
            return int((pages - free) * size)
        return int(connection.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one())


def _holders(database: Database, name: str) -> FileHolders:
    with database.read() as connection:
        return filesets.holders(connection, _content(name).hex(), after="", limit=1000)


def _asked(database: Database, name: str) -> float:
    times = []
    for _ in range(_ASKED):
        start = time.perf_counter()
        _holders(database, name)
        times.append(time.perf_counter() - start)
    return median(times)


def sets(postgres_url: str, shape: Shape) -> Section:
    with tempfile.TemporaryDirectory(prefix="kumomori-bench-") as folder:
        path = Path(folder) / "console.sqlite"
        found = {"SQLite": simulate(f"sqlite:///{path}", shape), "PostgreSQL": simulate(postgres_url, shape)}
    return Section(
        f"{shape.machines:,} machines of one image",
        f"{shape.shared:,} contents in the image, which every machine has, and {shape.own} of its own in each. A machine's set comes as the "
        "difference from its image's, is put together, checked by its digest, and given to the machine. All questions by the store's "
        "function, first page of 1,000; on the right in seconds.",
        (
            "",
            "image MB",
            "machines MB",
            "bytes a machine",
            "take image",
            "take machine",
            "ask own",
            "ask shared",
            "ask nobody's",
        ),
        [[name, *_row(one, shape)] for name, one in found.items()],
        (
            f"Stored flat, {shape.machines * (shape.shared + shape.own):,} hashes of 32 bytes would be "
            f"{shape.machines * (shape.shared + shape.own) * 32 / 1e6:,.0f} MB.",
            f"Goal: an answer in {GOAL_SECONDS:g} s.",
        ),
    )


def _row(one: Outcome, shape: Shape) -> Iterable[str]:
    sizes = (
        f"{one.image_bytes / 1e6:.1f}",
        f"{one.machine_bytes / 1e6:.1f}",
        f"{one.machine_bytes // shape.machines:,}",
    )
    times = (one.image_seconds, one.machine_seconds)
    answers = (one.own_seconds, one.shared_seconds, one.nobody_seconds)
    return (*sizes, *(seconds(time_) for time_ in times), *(f"{time_:.3f}" for time_ in answers))
