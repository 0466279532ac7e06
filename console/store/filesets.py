"""Which contents machines hold: sets of SHA-256, named by their digest, what many share stored once.

A set is stored whole, or as what it has more and less than one that is (its base): never further from it than one step, so that who holds
a content is found by looking into one shard. What a fleet sends becomes a set only when all of it is there and has the digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from client.model import MOST_SET_HASHES, FileHolder, FileHolders, FileSetIn, FileSetOut
from console.problems import Refused
from console.store import tables
from console.store.database import Database

HASH_BYTES: Final = 32
_SHARDS: Final = 256
_AT_ONCE: Final = 16  # shards read in one statement
_MOST_OFFERS: Final = 100  # of one fleet; the oldest goes
_MOST_PRUNED: Final = 200  # sets in one turn
_UNUSED: Final = timedelta(days=1)  # how long what nobody uses stays: a result may be under way
_WHOLE: Final = FileSetOut(state="whole")
Hashes = set[bytes]


def offer(database: Database, fleet: str, digest: str, wanted: FileSetIn, now: datetime) -> FileSetOut:
    """Make it a set if all pieces are there. Raises `Refused` (422) if they do not give it: then they are forgotten."""
    try:
        with database.write() as connection:
            return _offer(connection, fleet, digest, wanted, now)
    except Refused:
        with database.write() as connection:
            _forget(connection, fleet, digest)
        raise


def _offer(connection: Connection, fleet: str, digest: str, wanted: FileSetIn, now: datetime) -> FileSetOut:
    if _touched(connection, digest, now) is not None:
        _forget(connection, fleet, digest)
        return _WHOLE
    base = _touched(connection, wanted.base, now) if wanted.base else None
    if wanted.base and base is None:
        _forget(connection, fleet, digest)
        return FileSetOut(state="unknown")
    _write_down(connection, fleet, digest, wanted, now)
    piece = tables.file_set_piece
    mine = (piece.c.fleet == fleet, piece.c.digest == digest)
    have = set(connection.execute(sa.select(piece.c.number).where(*mine)).scalars())
    missing = tuple(number for number in range(wanted.pieces) if number not in have)
    if missing:
        return FileSetOut(state="wanted", missing=missing)
    rows = connection.execute(sa.select(piece).where(*mine).order_by(piece.c.number)).all()
    added, removed = b"".join(row.added for row in rows), b"".join(row.removed for row in rows)
    _assemble(connection, digest, wanted.count, base, (_by_shard(added), _by_shard(removed)), now)
    _forget(connection, fleet, digest)
    return _WHOLE


def put_piece(connection: Connection, fleet: str, digest: str, number: int, added: bytes, removed: bytes) -> None:
    """Raises `Refused`: 404 for a set that this fleet has not offered, 422 for a piece that it does not have."""
    table, piece = tables.file_set_offer, tables.file_set_piece
    row = connection.execute(
        sa.select(table.c.document).where(table.c.fleet == fleet, table.c.digest == digest)
    ).first()
    if row is None:
        raise Refused(404, "the set was not offered, or long ago: offer it again")
    if number >= row.document["pieces"]:
        raise Refused(422, "number: the set does not have so many pieces")
    values = {"added": added, "removed": removed}
    insert = _insert(connection, piece).values(fleet=fleet, digest=digest, number=number, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=["fleet", "digest", "number"], set_=values))


def _touched(connection: Connection, digest: str, now: datetime) -> Any:
    """The set of that name, marked as used, so that it stays until a result names it."""
    table = tables.file_set
    return connection.execute(
        table.update().where(table.c.digest == digest).values(used=now).returning(table.c.id, table.c.base)
    ).first()


def _forget(connection: Connection, fleet: str, digest: str) -> None:
    table = tables.file_set_offer
    connection.execute(table.delete().where(table.c.fleet == fleet, table.c.digest == digest))


def _write_down(connection: Connection, fleet: str, digest: str, wanted: FileSetIn, now: datetime) -> None:
    """Pieces of another offer of the same set do not fit this one."""
    table = tables.file_set_offer
    mine = (table.c.fleet == fleet, table.c.digest == digest)
    document = wanted.model_dump(mode="json")
    row = connection.execute(sa.select(table.c.document).where(*mine).with_for_update()).first()
    if row is not None and row.document == document:
        connection.execute(table.update().where(*mine).values(offered=now))
        return
    connection.execute(table.delete().where(*mine))
    old = (
        sa.select(table.c.digest)
        .where(table.c.fleet == fleet)
        .order_by(table.c.offered.desc())
        .offset(_MOST_OFFERS - 1)
    )
    gone = connection.execute(old.limit(_MOST_OFFERS)).scalars().all()
    connection.execute(table.delete().where(table.c.fleet == fleet, table.c.digest.in_(gone)))
    insert = _insert(connection, table).values(fleet=fleet, digest=digest, document=document, offered=now)
    connection.execute(insert.on_conflict_do_nothing())


def _by_shard(joined: bytes) -> list[Hashes]:
    """Raises `Refused` (422) for what is not ascending, and for too many."""
    hashes = _split(joined)
    if len(hashes) > MOST_SET_HASHES:
        raise Refused(422, f"the set changes by more than {MOST_SET_HASHES:,} contents")
    if any(one >= other for one, other in pairwise(hashes)):
        raise Refused(422, "the hashes are not in ascending order")
    shards: list[Hashes] = [set() for _ in range(_SHARDS)]
    for one in hashes:
        shards[one[0]].add(one)
    return shards


def _split(joined: bytes) -> list[bytes]:
    return [joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)]


def _assemble(
    connection: Connection,
    digest: str,
    count: int,
    base: Any,
    change: tuple[Sequence[Hashes], Sequence[Hashes]],
    now: datetime,
) -> None:
    hashed = hashlib.sha256()
    size = different = 0
    whole: list[dict[str, Any]] = []
    delta: list[dict[str, Any]] = []
    for shard, root, before in _members(connection, base):
        members = (before | change[0][shard]) - change[1][shard]
        more, less = members - root, root - members
        joined = b"".join(sorted(members))
        hashed.update(joined)
        size += len(members)
        different += len(more) + len(less)
        if members:
            whole.append({"shard": shard, "added": joined, "removed": b""})
        if more or less:
            delta.append({"shard": shard, "added": b"".join(sorted(more)), "removed": b"".join(sorted(less))})
    if hashed.hexdigest() != digest or size != count:
        raise Refused(422, "the pieces do not give the set that was named")
    near = base is not None and different <= size // 2
    table = tables.file_set
    made = connection.execute(
        _insert(connection, table)
        .values(digest=digest, base=(base.base or base.id) if near else None, count=size, used=now)
        .on_conflict_do_nothing()
        .returning(table.c.id)
    ).scalar()
    rows = [{"file_set": made, **row} for row in (delta if near else whole)]
    if made is not None and rows:  # else another fleet was faster with the same
        connection.execute(tables.file_set_shard.insert(), rows)


def _members(connection: Connection, base: Any) -> Iterator[tuple[int, Hashes, Hashes]]:
    """For each shard what the whole set at the bottom has, and what the base has; nothing, if there is none."""
    if base is None:
        yield from ((shard, set(), set()) for shard in range(_SHARDS))
        return
    table = tables.file_set_shard
    root = base.base or base.id
    for start in range(0, _SHARDS, _AT_ONCE):
        where = (table.c.shard >= start, table.c.shard < start + _AT_ONCE, table.c.file_set.in_({root, base.id}))
        rows = {(row.shard, row.file_set): row for row in connection.execute(sa.select(table).where(*where))}
        for shard in range(start, start + _AT_ONCE):
            bottom = rows.get((shard, root))
            all_of_it = set(_split(bottom.added)) if bottom is not None else set()
            change = rows.get((shard, base.id)) if base.id != root else None
            if change is None:
                yield shard, all_of_it, all_of_it
            else:
                yield shard, all_of_it, (all_of_it | set(_split(change.added))) - set(_split(change.removed))


def attach(connection: Connection, machine: str, kind: str, digest: str, scan: str, seen: datetime) -> None:
    """What the machine's last scan left; an empty `digest`: nothing is known of its files any more."""
    table = tables.machine_files
    connection.execute(table.delete().where(table.c.machine == machine))
    if digest:
        connection.execute(table.insert().values(machine=machine, kind=kind, digest=digest, scan=scan, seen=seen))


def holders(connection: Connection, sha256: str, *, after: str, limit: int) -> FileHolders:
    """Images, and instances that are open, by key."""
    held, instance, file_set, gap = tables.machine_files, tables.instance, tables.file_set, tables.gap
    holding = _holding(connection, bytes.fromhex(sha256))
    known = held.join(file_set, file_set.c.digest == held.c.digest)
    is_open = sa.select(sa.literal(1)).where(instance.c.key == held.c.machine, instance.c.closed.is_(None)).exists()
    query = (
        sa.select(held.c.machine, held.c.kind, held.c.scan, held.c.seen)
        .select_from(known)
        .where(holding, sa.or_(held.c.kind == "image", is_open), held.c.machine > after)
        .order_by(held.c.machine)
        .limit(limit + 1)
    )
    rows = connection.execute(query).all()
    count = sa.select(sa.func.count())
    instances = connection.execute(count.select_from(instance).where(instance.c.closed.is_(None))).scalar_one()
    looked = count.select_from(known).where(held.c.kind == "instance", is_open)
    has_gap = sa.select(sa.literal(1)).where(gap.c.instance == held.c.machine).exists()
    whole = connection.execute(looked).scalar_one()
    return FileHolders(
        sha256=sha256,
        items=tuple(
            FileHolder(machine=row.machine, kind=row.kind, scan=row.scan, seen=row.seen) for row in rows[:limit]
        ),
        instances=instances,
        never=instances - whole,
        gaps=connection.execute(looked.where(has_gap, sa.not_(holding))).scalar_one(),
        next=rows[limit - 1].machine if len(rows) > limit else None,
    )


def _holding(connection: Connection, wanted: bytes) -> sa.ColumnElement[bool]:
    """Whether a `file_set` has this content. A match across two neighbours would take 2^128 tries to make: none is looked for."""
    shard, file_set = tables.file_set_shard, tables.file_set

    def within(column: sa.Column[Any]) -> sa.ColumnElement[bool]:
        find = sa.func.instr if connection.dialect.name == "sqlite" else sa.func.pg_catalog.position
        return find(column, sa.literal(wanted, sa.LargeBinary)) > 0

    def sets(column: sa.Column[Any]) -> sa.Select[Any]:
        return sa.select(shard.c.file_set).where(shard.c.shard == wanted[0], within(column))

    inherits = file_set.c.base.in_(sets(shard.c.added)) & file_set.c.id.not_in(sets(shard.c.removed))
    return file_set.c.id.in_(sets(shard.c.added)) | (file_set.c.base.is_not(None) & inherits)


def prune(database: Database, now: datetime) -> int:
    """Remove what nobody uses; how many sets that were. Machines that were closed for a day use none."""
    held, instance, table, shard = tables.machine_files, tables.instance, tables.file_set, tables.file_set_shard
    offers = tables.file_set_offer
    old = now - _UNUSED
    closed = sa.select(instance.c.key).where(instance.c.closed < old)
    derived = table.alias("derived")
    unused = (
        sa.select(table.c.id)
        .where(
            table.c.used < old,
            ~sa.select(held.c.machine).where(held.c.digest == table.c.digest).exists(),
            ~sa.select(derived.c.id).where(derived.c.base == table.c.id).exists(),
        )
        .limit(_MOST_PRUNED)
    )
    gone = sa.or_(
        unused.exists(),
        sa.select(offers.c.digest).where(offers.c.offered < old).exists(),
        sa.select(held.c.machine).where(held.c.machine.in_(closed)).exists(),
    )
    with database.read() as connection:
        if not connection.execute(sa.select(gone)).scalar():
            return 0
    with database.write() as connection:
        connection.execute(held.delete().where(held.c.machine.in_(closed)))
        connection.execute(offers.delete().where(offers.c.offered < old))
        ids = connection.execute(unused.with_for_update()).scalars().all()
        connection.execute(shard.delete().where(shard.c.file_set.in_(ids)))
        connection.execute(table.delete().where(table.c.id.in_(ids)))
    return len(ids)


def _insert(connection: Connection, table: sa.Table) -> Any:
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
