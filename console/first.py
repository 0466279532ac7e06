"""`python -m console.first FILE`: the token of the first admin of a console, into a new file; once, while it has no token.

`-` in place of FILE prints it, where nobody reads the machine's files, as in a container.

The database is that of the settings (`KUMOMORI_CONSOLE_DATABASE`), whether a console runs on it or not. Who may reach it may do all
anyway, so nobody is asked for anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from console.settings import from_environment
from console.store import tokens
from console.store.database import Database
from console.store.migrate import upgrade
from core.errors import ConfigError, Error
from core.text import printable


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """0: the token is in the file; 2: it could not be made, and one line says why."""
    try:
        if len(arguments) != 1 or (arguments[0].startswith("-") and arguments[0] != "-"):
            raise ConfigError("say into which new file: python -m console.first FILE, or - to print it")
        if arguments[0] == "-":
            sys.stdout.write(f"{_first(environment) or _none()}\n")
            return 0
        if not write(Path(arguments[0]), environment):
            _none()
    except Error as error:
        sys.stderr.write(f"kumomori console: {printable(str(error))}\n")
        return 2
    sys.stdout.write(f"the token of the first admin is in {printable(arguments[0])}\n")
    return 0


def write(path: Path, environment: Mapping[str, str]) -> bool:
    """Whether there was no token yet, and one is in the new file `path` now. The file comes first: a token that could not be
    written would be lost. Raises `ConfigError`."""
    from_environment(environment)  # a setting that is wrong leaves no file
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be made: {error.strerror or error}") from None
    made = False
    try:
        with os.fdopen(number, "w") as out:
            if secret := _first(environment):
                out.write(secret + "\n")
        made = bool(secret)
    finally:
        if not made:
            with suppress(OSError):
                path.unlink()
    return made


def _first(environment: Mapping[str, str]) -> str | None:
    database = Database(from_environment(environment).database.get_secret_value())
    try:
        upgrade(database)
        return tokens.first_admin(database)
    finally:
        database.close()


def _none() -> NoReturn:
    raise ConfigError("there are tokens already: `kumomori token create`, with one of scope admin, makes more of them")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
