"""By what name a scanner tags what it makes in clouds: IAM policies are bound to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

from typer import Option

from core.errors import ConfigError
from core.text import printable
from scanner.ledger import FileLedger

_DATABASE: Final = "KUMOMORI_FLEET_DATABASE"
FleetData = Annotated[
    Path | None,
    Option(
        "--fleet-data",
        metavar="DIR",
        help="For a fleet, which has a name of its own: the --data of `kumomori up` or `kumomori worker`. "
        "[default: for `kumomori scan` here]",
        show_default=False,
    ),
]


def installation(data: Path, fleet_data: Path | None) -> str:
    """That of the commands whose ledger is in `data`, or of the fleet in `fleet_data`. Raises `ConfigError`, `Unavailable`.

    A fleet whose machines share a database of PostgreSQL has its name there: it is taken if the folder holds none.
    """
    if fleet_data is None:
        with FileLedger(data) as ledger:
            return ledger.installation
    return _of_fleet(fleet_data)


def _of_fleet(folder: Path) -> str:
    from scanner.fleet import kept
    from scanner.fleet.database import Database
    from scanner.fleet.migrations import upgrade

    path = folder.resolve() / "fleet.db"
    address = f"sqlite:///{path}" if path.is_file() else os.environ.get(_DATABASE, "")
    if not address:
        raise ConfigError(
            f"{printable(str(folder))}: holds no fleet; start `kumomori up` first and give its --data, or name the "
            f"fleet's database in {_DATABASE}"
        )
    database = Database(address)
    try:
        upgrade(database)
        return kept.installation(database)
    finally:
        database.close()
