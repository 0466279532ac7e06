"""Changes of a fleet's tables, one module a change, in `versions`; `upgrade` carries out those that are due, `check` none."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text

from core.errors import ConfigError, Unavailable
from scanner.fleet.database import Database

VERSION_TABLE: Final = "fleet_version"
_FOLDER: Final = Path(__file__).parent
_LOCK: Final = 0x6B756D6F  # of PostgreSQL, for as long as the transaction


def upgrade(database: Database) -> None:
    """Bring the tables up to date, in one transaction; of several processes one does it and the others wait.

    Raises `Unavailable`, and `ConfigError` if the tables are those of a newer version.
    """
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config = Config()
        config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigError(f"the fleet's database is of another version of Kumomori ({error})") from error


def check(database: Database) -> None:
    """For one that is the fleet's guest and may not change its tables, since the fleet's own workers could not go on with them.

    Raises `Unavailable` if the tables are those of an older version, or none, as long as the fleet is not upgraded; `ConfigError`
    if they are those of a newer one.
    """
    script = ScriptDirectory(str(_FOLDER))
    ours = script.get_current_head()
    with database.read() as connection:
        found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    if found == ours:
        return
    words = f"the fleet's database is of another version of Kumomori ({found or 'empty'}, not {ours})"
    if found is None or found in {one.revision for one in script.walk_revisions()}:
        raise Unavailable(f"{words}: upgrade the fleet first, nothing is done until then")
    raise ConfigError(f"{words}: upgrade this, the fleet is newer")
