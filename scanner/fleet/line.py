"""The console as a duty of the fleet sees it: the token as its file has it now, and what to tell a person when it cannot be had."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from typing import Final

from client.api import Console
from client.transport import MOST_TOKEN_CHARACTERS
from core.errors import AccessDenied, ConfigError, Error
from core.text import printable
from scanner.fleet import kept
from scanner.fleet.database import Database
from scanner.fleet.settings import Settings

_MOST_WORDS: Final = 300
_NUMBERS: Final = re.compile(r"[0-9a-f]{8,}|[0-9]+")
_MOST_OLD: Final = 4


class Line:
    """Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._token = ""
        self._console: Console | None = None
        self._old: list[Console] = []  # a call of another thread may be under way

    def console(self) -> Console:
        """Raises `ConfigError` if there is no token."""
        token = self._read()
        with self._lock:
            if self._console is None or token != self._token:
                settings = self._settings
                self._old += [] if self._console is None else [self._console]
                while len(self._old) > _MOST_OLD:
                    self._old.pop(0).close()
                self._console = Console(settings.console, token, ca=settings.ca, allow_http=settings.allow_http)
                self._token = token
            return self._console

    def close(self) -> None:
        with self._lock:
            for one in (*self._old, self._console):
                if one is not None:
                    one.close()
            self._old, self._console = [], None

    def words(self, error: Error) -> str:
        """What is wrong, and what to do about it."""
        if isinstance(error, AccessDenied) and not error.permission.count(":"):
            return (
                f"{error}. Make a token for this fleet at the console and write it to {printable(str(self._settings.token_file))}; "
                "scans go on meanwhile"
            )
        return str(error)

    def _read(self) -> str:
        path = self._settings.token_file
        shown = printable(str(path))
        try:
            with path.open("rb") as stream:
                raw = stream.read(MOST_TOKEN_CHARACTERS + 16)
        except OSError as error:
            raise ConfigError(f"{shown}: the console's token cannot be read ({error.strerror})") from None
        token = raw.decode("ascii", "replace").strip()
        if not token:
            raise ConfigError(f"{shown}: is empty; write the fleet's token there")
        return token


class Said:
    """Problems of one duty by subject: each is told once, and kept for the fleet's status until it is over."""

    def __init__(self, duty: str, *, say: Callable[[str], None] | None = None) -> None:
        self._duty = duty
        self._say = say or _to_stderr
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}
        self._written = ""

    def problem(self, subject: str, words: str) -> None:
        words = printable(words)[:_MOST_WORDS]
        with self._lock:
            before, self._problems[subject] = self._problems.get(subject, ""), words
        if _NUMBERS.sub("", before) != _NUMBERS.sub("", words):  # of requests, say
            self._say(f"{self._duty}: {words}")

    def over(self, subject: str) -> None:
        with self._lock:
            before = self._problems.pop(subject, None)
        if before is not None:
            self._say(f"{self._duty}: over: {before}")

    def note(self, words: str) -> None:
        self._say(f"{self._duty}: {printable(words)[:1000]}")

    def words(self) -> str:
        with self._lock:
            return "; ".join(self._problems.values())

    def keep(self, database: Database) -> None:
        """For the status that `link` sends. Raises `Unavailable`."""
        words = self.words()
        if words != self._written:
            with database.write() as connection:
                kept.write(connection, f"problem:{self._duty}", words[:1000])
            self._written = words


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
