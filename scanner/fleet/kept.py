"""Words that a fleet keeps in its database by name: what it is called in clouds, how far its clock is off, what it has heard.

A transaction is the caller's; each function takes its connection.
"""

from __future__ import annotations

import secrets
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from scanner.fleet.database import Database
from scanner.fleet.tables import setting

INSTALLATION: Final = "installation"
CLOCK_OFFSET_MS: Final = "clock_offset_ms"  # the console's clock less ours
CURSOR: Final = "order_cursor"  # number of the last order that was written down
ACCOUNTS: Final = "accounts"  # JSON list of `client.model.AccountIn`, as the console told them last
TURN: Final = "turn"  # of the scans that are begun, see `admission.claim`


def read(connection: Connection, name: str, default: str = "") -> str:
    found = connection.execute(select(setting.c.value).where(setting.c.name == name)).scalar_one_or_none()
    return default if found is None else str(found)


def write(connection: Connection, name: str, value: str) -> None:
    """In a transaction of `Database.write`."""
    connection.execute(delete(setting).where(setting.c.name == name))
    connection.execute(insert(setting).values(name=name, value=value))


def now_ms(database: Database, connection: Connection) -> int:
    """The console's time, as far as it is known: what orders are reckoned by."""
    try:
        offset = int(read(connection, CLOCK_OFFSET_MS, "0"))
    except ValueError:
        offset = 0
    return database.now_ms(connection) + offset


def installation(database: Database) -> str:
    """The name by which all that this fleet makes is tagged; made up once. Raises `Unavailable`."""
    with database.write() as connection:
        database.insert_missing(
            connection, setting, [{"name": INSTALLATION, "value": f"kumomori-{secrets.token_hex(6)}"}]
        )
        return read(connection, INSTALLATION)
