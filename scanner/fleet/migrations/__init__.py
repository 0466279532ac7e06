"""Changes of a fleet's tables, one module a change, in `versions`; `upgrade` carries out those that are due."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import text

from core.errors import ConfigError
from scanner.fleet.database import Database

_LOCK: Final = 0x6B756D6F  # of PostgreSQL, for as long as the transaction


def upgrade(database: Database) -> None:
    """Bring the tables up to date, in one transaction; of several processes one does it and the others wait.

    Raises `Unavailable`, and `ConfigError` if the tables are those of a newer version.
    """
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigError(f"the fleet's database is of another version of Kumomori ({error})") from error
