"""The tables of a fleet's database, the same for SQLite and PostgreSQL. Times are milliseconds since 1970 in UTC (`_ms`)."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, MetaData, String, Table

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
