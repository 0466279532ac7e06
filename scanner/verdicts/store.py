"""The database of verdicts in a folder, shared by many processes.

`current` names the database in use. A damaged one is never repaired: under a lock `current` is pointed to a new, empty one,
and processes that still have the old one open go on with it by themselves until they end. SQLite: https://sqlite.org/wal.html.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from core.errors import ConfigError
from core.text import printable
from scanner.verdicts.bloom import Bloom, size_for

_SCHEMA_VERSION: Final = 1
_BUSY_SECONDS: Final = 30.0
VERDICT_BYTES: Final = 110  # about what one takes in the database
_NAME: Final = "verdicts-"
_DATABASE: Final = re.compile(r"verdicts-[0-9a-f]+\.sqlite")
_ABANDONED_SECONDS: Final = 3600  # nobody takes that long to make one of these files
_SCHEMA: Final = """
CREATE TABLE context (id INTEGER PRIMARY KEY, engine TEXT NOT NULL, options TEXT NOT NULL, UNIQUE (engine, options));
CREATE TABLE generation (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, namespaces TEXT NOT NULL);
CREATE TABLE scan (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, machine TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE whole (context INTEGER NOT NULL, generation INTEGER NOT NULL, PRIMARY KEY (context, generation)) WITHOUT ROWID;
CREATE TABLE verdict (key BLOB NOT NULL, context INTEGER NOT NULL, generation INTEGER NOT NULL, scan INTEGER NOT NULL,
  used INTEGER NOT NULL, findings BLOB, sum BLOB NOT NULL, PRIMARY KEY (key, context)) WITHOUT ROWID;
CREATE TABLE revoked (machine TEXT, scan TEXT, since REAL, until REAL, at REAL NOT NULL);
"""


class Damaged(Exception):
    """The database, or a value in it, is not what was written."""


class Store:
    """One open database and its filter. Methods raise `Damaged`, and `sqlite3.OperationalError` for a full disk or a lock."""

    def __init__(self, folder: Path, most_bytes: int, warn: Callable[[str], None]) -> None:
        """Raises `ConfigError` if the folder cannot be used."""
        self.folder = folder
        self.most_bytes = most_bytes
        self.warn = warn
        self.connection: sqlite3.Connection | None = None
        self.bloom: Bloom | None = None
        self._path = folder
        self._prepare()
        self.open()

    def _prepare(self) -> None:
        shown = printable(str(self.folder))
        try:
            self.folder.mkdir(mode=0o700, parents=False, exist_ok=True)
            if self.folder.stat().st_mode & stat.S_IWOTH:
                raise ConfigError(
                    f"{shown}: everybody may write there, and could call anything clean; give a folder of your own"
                )
            others = [path.name for path in self.folder.iterdir() if not _is_ours(path.name)]
            if others:
                raise ConfigError(
                    f"{shown}: holds other files than a cache ({printable(others[0])}); give a folder of its own"
                )
            os.close(self._open_lock())
        except FileNotFoundError as error:
            raise ConfigError(f"{shown}: the folder above it does not exist; make it first") from error
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"{shown}: is not a folder; the cache needs one of its own") from error
        except OSError as error:
            raise ConfigError(
                f"{shown}: cannot be used for the cache ({error.strerror}); give a folder you may write"
            ) from error

    def _open_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(self.folder / "lock", flags, 0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = self._open_lock()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def open(self) -> None:
        """Open the current database, or a new one if there is none or it is damaged; without one if that fails, too."""
        for _ in range(2):
            try:
                with self._locked():
                    self._path = self._current() or self._make()
                    self._remove_abandoned()
                self._connect()
            except Damaged as error:
                self.drop(str(error))
            except sqlite3.OperationalError as error:
                if not self.is_no_damage(error):
                    self.drop(str(error))
                    continue
                self.close()
                self.warn(f"the cache cannot be used, the scan goes on without it: {error}")
                return
            except OSError as error:
                self.close()
                self.warn(f"the cache cannot be used, the scan goes on without it: {error}")
                return
            else:
                return

    def _current(self) -> Path | None:
        try:
            # it may be anything by now: a pipe or an endless device must not hold us up
            fd = os.open(self.folder / "current", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            name = os.read(fd, 200).decode("ascii").strip() if stat.S_ISREG(os.fstat(fd).st_mode) else ""
        except (OSError, UnicodeDecodeError):
            return None
        finally:
            os.close(fd)
        path = self.folder / name
        return path if _DATABASE.fullmatch(name) and path.is_file() else None

    def _remove_abandoned(self) -> None:
        """What a writer that was killed left half made."""
        for pattern in ("current-*", f"{_NAME}*.bloom-*"):
            for path in self.folder.glob(pattern):
                if time.time() - path.lstat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)

    def _make(self) -> Path:
        """A new database, which `current` names only when it is whole."""
        path = self.folder / f"{_NAME}{secrets.token_hex(8)}.sqlite"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_SCHEMA_VERSION}; COMMIT;")
        finally:
            connection.close()
        before = self._current()
        hidden = self.folder / f"current-{secrets.token_hex(4)}"
        hidden.write_text(path.name, "ascii")
        hidden.replace(self.folder / "current")
        for old in self.folder.glob(f"{_NAME}*"):
            if not old.name.startswith(path.stem) and (before is None or not old.name.startswith(before.stem)):
                old.unlink(missing_ok=True)
        return path

    def _connect(self) -> None:
        try:
            self.connection = sqlite3.connect(self._path, isolation_level=None, timeout=_BUSY_SECONDS)
            self.connection.execute("PRAGMA synchronous=NORMAL")
            (found,) = self.connection.execute("PRAGMA user_version").fetchone()
            if found != _SCHEMA_VERSION:
                raise Damaged(f"it has version {found}, not {_SCHEMA_VERSION}")
            self.connection.execute("SELECT key FROM verdict LIMIT 1").fetchone()
        except sqlite3.OperationalError as error:
            if "no such" in str(error):
                raise Damaged(str(error)) from error
            raise
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:  # SQLite's own message may hold damaged text
            raise Damaged(str(error)) from error
        self._open_bloom()

    def _open_bloom(self) -> None:
        path = self._path.with_suffix(".bloom")
        try:
            self.bloom = Bloom(path, size_for(self.most_bytes // VERDICT_BYTES))
        except (OSError, ValueError):
            self.bloom = None  # the database alone knows everything; the next eviction makes a new filter
            path.unlink(missing_ok=True)

    def rebuild_bloom(self) -> None:
        """A filter of what is there now. Others keep theirs until they end: at worst they search a content again."""
        assert self.connection is not None
        path = self._path.with_suffix(".bloom")
        fresh = path.with_suffix(f".bloom-{secrets.token_hex(4)}")
        try:
            bloom = Bloom(fresh, size_for(self.most_bytes // VERDICT_BYTES))
            bloom.add(key for (key,) in self.connection.execute("SELECT key FROM verdict") if len(key) >= 16)
            fresh.replace(path)
        except (OSError, ValueError):
            fresh.unlink(missing_ok=True)
            return
        if self.bloom is not None:
            self.bloom.close()
        self.bloom = bloom

    def drop(self, reason: str) -> None:
        """Leave a damaged database for good; the next `open` finds a new one."""
        self.close()
        self.warn(f"the cache is damaged and was dropped, contents are searched again: {reason}")
        try:
            with self._locked():
                if self._current() == self._path:
                    (self.folder / "current").unlink(missing_ok=True)
                    for old in self.folder.glob(f"{self._path.stem}*"):
                        old.unlink(missing_ok=True)
        except OSError as error:
            self.warn(f"the damaged cache cannot be removed: {error}")

    def is_no_damage(self, error: sqlite3.OperationalError) -> bool:
        """A lock, a full disk, an I/O error or a read-only folder says nothing about what is written."""
        if "readonly" in str(error) and os.access(self._path, os.W_OK):
            return False  # a damaged header says so, too
        words = ("locked", "busy", "full", "readonly", "disk I/O", "unable to open")
        return any(word in str(error) for word in words)

    def close(self) -> None:
        if self.connection is not None:
            try:
                self.connection.close()
            except sqlite3.Error:
                pass
            self.connection = None
        if self.bloom is not None:
            self.bloom.close()
            self.bloom = None

    def trim(self, most_bytes: int) -> int:
        """Delete what was not used for the longest time until it takes at most `most_bytes`; returns how many."""
        assert self.connection is not None
        gone = 0
        while (size := self.size_bytes()) > most_bytes:
            (count,) = self.connection.execute("SELECT count(*) FROM verdict").fetchone()
            excess = max(1000, int(count * (1 - 0.9 * most_bytes / size)))
            done = self.connection.execute(
                "DELETE FROM verdict WHERE (key, context) IN (SELECT key, context FROM verdict ORDER BY used LIMIT ?)",
                (excess,),
            ).rowcount
            # keys are random, so that what is deleted leaves every page half empty: only a rewrite gives the room back
            self.connection.execute("VACUUM")
            gone += done
            if not done:
                break
        if gone:
            self.rebuild_bloom()
        return gone

    def size_bytes(self) -> int:
        assert self.connection is not None
        pages, free, size = (
            self.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)


def _is_ours(name: str) -> bool:
    return name in {"lock", "current"} or name.startswith((_NAME, "current-"))


def load_json(raw: str | bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Damaged("a value is not JSON") from error
