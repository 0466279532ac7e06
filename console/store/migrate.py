"""The tables brought to what this version needs; run at start, by one process at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import alembic.command
import alembic.config
import alembic.util
import sqlalchemy as sa

from console.store.database import Database
from core.errors import ConfigError

_FOLDER: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x6B756D6F  # of PostgreSQL's advisory locks; any number that is always the same


def upgrade(database: Database) -> None:
    """All steps up to now, in one transaction. Raises `ConfigError` if the database is of a newer version."""
    _run(database, "head")


def downgrade(database: Database, revision: str) -> None:
    """Back to `revision`; `base` is an empty database."""
    _run(database, revision, down=True)


def _run(database: Database, revision: str, *, down: bool = False) -> None:
    with database.write() as connection:  # which locks SQLite as a whole
        if not database.sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        config = alembic.config.Config()
        config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        try:
            (alembic.command.downgrade if down else alembic.command.upgrade)(config, revision)
        except alembic.util.CommandError as error:
            raise ConfigError(f"the database does not fit this version of Kumomori: {error}") from error
