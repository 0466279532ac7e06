"""Alembic's side of `upgrade`: runs on the connection that it is given, in that connection's transaction."""

from __future__ import annotations

from alembic import context

from scanner.fleet.migrations import VERSION_TABLE
from scanner.fleet.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
