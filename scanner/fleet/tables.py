"""The tables of a fleet's database, the same for SQLite and PostgreSQL. Times are milliseconds since 1970 in UTC (`_ms`)."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

metadata: Final = MetaData()

# A worker's place, leased by one process at a time. `epoch` grows with each taking: what carries an older one is stale.
slot: Final = Table(
    "slot",
    metadata,
    Column("name", String(64), primary_key=True),  # also the name of the engine that runs the slot's scans
    Column("holder", String(36)),  # of one process; NULL: given back
    Column("worker", String(200), nullable=False, server_default=""),  # where it runs, for a person to read
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("lease_ends_ms", BigInteger, nullable=False, server_default="0"),
    Column("heartbeat_ms", BigInteger, nullable=False, server_default="0"),
)

# A scan that was ordered. `order` is its `client.model.ScanOrder` as JSON; the columns beside it are what is searched by.
# Who writes an order down inserts it as `waiting`; what comes after is the business of `admission.py`.
scan: Final = Table(
    "scan",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("order", Text, nullable=False),
    Column("kind", String(16), nullable=False),  # client.model.ScanKind
    Column("machine", String(512), nullable=False),
    Column("cloud", String(40), nullable=False),
    Column("account", String(200), nullable=False),
    Column("region", String(200), nullable=False),
    Column("placement", String(512), nullable=False, server_default=""),  # the host it runs on; empty: unknown
    Column("priority", SmallInteger, nullable=False),  # place of the order's `why` in `client.model.Why`: 0 comes first
    Column("not_before_ms", BigInteger, nullable=False),  # moved on when it is tried again
    Column("not_after_ms", BigInteger),  # it starts until then or is missed
    Column("most_per_host", Integer),  # limits of its policy; NULL: none
    Column("most_per_account", Integer),
    Column("state", String(16), nullable=False),  # client.model.ScanState
    Column("step", String(40), nullable=False, server_default=""),
    Column("detail", String(1000), nullable=False, server_default=""),  # why it is tried again
    Column("slot", String(64)),  # whose it is while it runs
    Column("attempt", Integer, nullable=False, server_default="0"),  # how often it was begun
    Column("failures", Integer, nullable=False, server_default="0"),  # … and failed for a reason that may pass
    Column("stop", Boolean, nullable=False, server_default="0"),
    Column("pause", Boolean, nullable=False, server_default="0"),
    Column("written_ms", BigInteger, nullable=False),
    Column("progress_ms", BigInteger),  # the last sign of life of a running one
    Column("started_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Index("scan_by_turn", "state", "priority", "not_before_ms"),
    Index("scan_by_machine", "machine", "state"),
    Index("scan_by_slot", "slot", "state"),
)

# The ledger: what was made in clouds, or is about to be, and was not taken away yet. See `cloud.Ledger`.
resource: Final = Table(
    "resource",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("cloud", String(40), nullable=False),
    Column("account", String(200), nullable=False),
    Column("region", String(200), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("id", String(256), nullable=False),  # empty: only the intention is known
    Column("token", String(200), nullable=False),  # the attempt at a scan that it is for, see `admission.token`
    Column("installation", String(200), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("of", String(256), nullable=False),
    Column("size_bytes", BigInteger, nullable=False, server_default="0"),
    Column("kept_for", String(63)),  # the base that it belongs to; it stays as long as that does
    Column("made_ms", BigInteger, nullable=False),
    Column("evidence_until_ms", BigInteger),  # it stays until then, whatever else becomes of it
    Index("resource_by_token", "token"),
    Index("resource_by_place", "cloud", "account", "region"),
)

# What the next scan of a machine begins from. `object` names the manifest, `snapshots` is a JSON list of `core.estate.Snapshot`:
# those that it was made of, ours (in `resource`, with `kept_for`) or an image's own.
base: Final = Table(
    "base",
    metadata,
    Column("scan", String(63), primary_key=True),
    Column("machine", String(512), nullable=False),
    Column("object", String(200), nullable=False),
    Column("snapshots", Text, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),  # by the policy of its scan
    Column("bytes", BigInteger, nullable=False),  # of snapshots and manifest
    Column("usd_month", Float, nullable=False),
    Index("base_by_machine", "machine", "made_ms"),
)

# What a running scan found, until it ends: a worker that dies loses nothing of it.
draft: Final = Table(
    "draft",
    metadata,
    Column("scan", String(63), primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("facts", Text, nullable=False),  # JSON, see `workflow.Found`
    Column("report", Text, nullable=False),  # as in `client.model.ResultIn`
)

# Results for the console, each a `client.model.ResultIn` as JSON; `sent_ms` is when the console had it.
outbox: Final = Table(
    "outbox",
    metadata,
    Column("scan", String(63), primary_key=True),
    Column("result", Text, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    Column("sent_ms", BigInteger),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("try_ms", BigInteger, nullable=False, server_default="0"),  # not again before
    Column("refused", String(1000)),  # why the console will never take it
    Column("file_set", String(64), nullable=False, server_default=""),  # which goes to the console before
    Index("outbox_by_turn", "sent_ms", "made_ms"),
)

# The distinct contents of a machine's files, until the console has them: see `sets.py`.
file_set: Final = Table(
    "file_set",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("base", String(64), nullable=False),  # of the machine's base; empty: none
    Column("pieces", Integer, nullable=False),
    Column("base_pieces", Integer, nullable=False),  # of how it differs from its base
    Column("made_ms", BigInteger, nullable=False),
)

file_piece: Final = Table(
    "file_piece",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("base", String(64), primary_key=True),  # from which it differs so; empty: it is all of the set
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("added", LargeBinary, nullable=False),
    Column("removed", LargeBinary, nullable=False),
)

# Words that must outlive every process, by name: see `kept.py`.
setting: Final = Table(
    "setting", metadata, Column("name", String(100), primary_key=True), Column("value", Text, nullable=False)
)
