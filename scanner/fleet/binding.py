"""A folder of manifests belongs to one fleet's database: both keep the same id, so that no other one takes its manifests away.

A folder without the mark (an older one, or one whose mark was lost) becomes that of the first who asks. To give a folder to
another database, a person deletes the mark: from then on what that database does not name is deleted there.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from core.errors import ConfigError
from core.text import printable
from scanner.fleet import kept
from scanner.fleet.database import Database
from scanner.fleet.tables import setting

MARK: Final = ".database"  # no name of an object begins with a dot
_ID: Final = re.compile(rb"[0-9a-f]{32}\n")
_MOST_BYTES: Final = 64


def bind(database: Database, folder: Path) -> None:
    """`folder` is that of `database`, from now on or already. It is made if it is not there.

    Raises `Unavailable`; `ConfigError` if it is another one's, or cannot be written.
    """
    with database.write() as connection:
        database.insert_missing(connection, setting, [{"name": kept.FOLDER, "value": secrets.token_hex(16)}])
        mine = kept.read(connection, kept.FOLDER).encode() + b"\n"
    mark = folder / MARK
    shown = printable(str(folder))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = _read(mark)
        if found is None:
            _make(mark, mine)
            found = _read(mark)
    except OSError as error:
        raise ConfigError(f"{shown}: manifests cannot be kept there ({error.strerror})") from error
    if found == mine:
        return
    whose = "are those of another fleet's database" if found and _ID.fullmatch(found) else "have a mark that is damaged"
    raise ConfigError(
        f"{shown}: the manifests there {whose}, which would be deleted as needed by none: give this fleet its own folder of data, "
        f"or the database that belongs to this one. If that database is gone for good, delete {printable(str(mark))}"
    )


def _read(mark: Path) -> bytes | None:
    try:
        with mark.open("rb") as stream:
            return stream.read(_MOST_BYTES)
    except FileNotFoundError:
        return None


def _make(mark: Path, words: bytes) -> None:
    """Of several processes, one makes it: a link is made whole or not at all."""
    new = mark.with_name(f"{MARK}-{secrets.token_hex(8)}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, words)
        os.fsync(fd)
        with suppress(FileExistsError):
            os.link(new, mark)
    finally:
        os.close(fd)
        new.unlink()
