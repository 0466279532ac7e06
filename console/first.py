"""`python -m console.first`: prints the first admin's token, once, where the console runs by itself (`kumomori up` does it alone).

Uses the console's own settings from the environment. Exits 0: it was printed; 1: there are tokens already; 2: no database.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from console.settings import from_environment
from console.store import tokens
from console.store.database import Database
from console.store.migrate import upgrade
from core.errors import Error


def main(environment: Mapping[str, str]) -> int:
    try:
        database = Database(from_environment(environment).database.get_secret_value())
        try:
            upgrade(database)
            secret = tokens.first_admin(database)
        finally:
            database.close()
    except Error as error:
        sys.stderr.write(f"kumomori console: {error}\n")
        return 2
    if secret is None:
        sys.stderr.write("there are tokens already: `kumomori token create`, with one of scope admin, makes more\n")
        return 1
    sys.stdout.write(f"{secret}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
