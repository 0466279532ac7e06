"""Words that a fleet keeps in its database by name: what it is called in clouds, how far its clock is off, what it has heard.

A transaction is the caller's; each function takes its connection.
"""

from __future__ import annotations

import secrets
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from core.errors import ConfigError
from scanner.fleet.database import Database
from scanner.fleet.tables import setting

INSTALLATION: Final = "installation"
FOLDER: Final = "folder"  # id that folders of manifests bear, see `binding.py`
CLOCK_OFFSET_MS: Final = "clock_offset_ms"  # the console's clock less ours
CURSOR: Final = "order_cursor"  # number of the last order that was written down
ACCOUNTS: Final = "accounts"  # JSON list of `client.model.AccountIn`, as the console told them last
_MOST_MS: Final = 250_000_000_000_000  # in the year 9892
TURN: Final = "turn"  # of the scans that are begun, see `admission.claim`
LAST: Final = "last_account"  # of which a scan was begun: JSON list of cloud and account


def read(connection: Connection, name: str, default: str = "") -> str:
    found = connection.execute(select(setting.c.value).where(setting.c.name == name)).scalar_one_or_none()
    return default if found is None else str(found)


def write(connection: Connection, name: str, value: str) -> None:
    """In a transaction of `Database.write`."""
    connection.execute(delete(setting).where(setting.c.name == name))
    connection.execute(insert(setting).values(name=name, value=value))


def now_ms(database: Database, connection: Connection) -> int:
    """The console's time, as far as it is known: what orders are reckoned by. Whatever it tells, it is one that can be written."""
    try:
        offset = int(read(connection, CLOCK_OFFSET_MS, "0"))
    except ValueError:
        offset = 0
    return min(max(database.now_ms(connection) + offset, 0), _MOST_MS)


def installation(database: Database, wanted: str = "") -> str:
    """The name by which all that this fleet makes is tagged: `wanted`, else made up, once.

    Raises `Unavailable`; `ConfigError` if it has another one already: what bears the old one nobody would take away any more.
    """
    with database.write() as connection:
        made_up = f"kumomori-{secrets.token_hex(6)}"
        database.insert_missing(connection, setting, [{"name": INSTALLATION, "value": wanted or made_up}])
        found = read(connection, INSTALLATION)
    if wanted and found != wanted:
        raise ConfigError(
            f"this fleet's database is that of the installation {found}, not of {wanted}; give it one of its own"
        )
    return found
