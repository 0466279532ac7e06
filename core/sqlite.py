"""What every SQLite file of ours that several processes write has to be told."""

from __future__ import annotations

import sqlite3
import time
from typing import Final

_PAUSE_SECONDS: Final = 0.02


def write_ahead(connection: sqlite3.Connection, seconds: float) -> None:
    """Turn the write-ahead log on, waiting for others that open the file up to `seconds`.

    While the journal mode changes SQLite does not ask its busy handler: of two processes that open a new file at once one
    is refused at once, whatever its `timeout` (https://sqlite.org/wal.html#sometimes_queries_return_sqlite_busy_in_wal_mode).
    Raises `sqlite3.OperationalError` when the time is over, or for any other reason.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # the error's code is known from Python 3.11 on only
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return
