"""Run by Alembic, on the connection that `console.store.migrate` opened and locked."""

from __future__ import annotations

from alembic import context

from console.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
