"""Where manifests are kept: a folder, S3, Azure Blob or GCS, by `obstore`; each sealed before it leaves (`sealing.py`).

Put whole or not at all. Credentials of clouds come from the environment, by the names in docs/console.md.
https://developmentseed.org/obstore/latest/ and the lists of keys in https://docs.rs/object_store/latest/object_store/
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, from_url

from core.errors import CloudError, ConfigError, Gone, LimitExceeded
from core.text import printable
from scanner.fleet.sealing import Keys
from scanner.reports.files import NewFile

MOST_BYTES: Final = 16 << 30  # of one object
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_MOST_NAMES: Final = 10_000_000
_open: Any = from_url  # its options depend on the URL
_TIMES: Final = {"timeout": "300s", "connect_timeout": "10s"}
_MAY_BE_HTTP: Final = {"s3": "AWS_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
_NOWHERE: Final = re.compile("<Code>(ContainerNotFound|NoSuchBucket)</Code>")
_REFUSED: Final = re.compile(r"status code: 40[13] |\(code: 40[13]\)")  # of a call, of one part of a batch


class Objects:
    """Sealed files by name. Names have letters, digits and `._-`. Methods raise `CloudError` if the store cannot be used."""

    def __init__(self, where: Path | str, keys: Keys, *, scratch: Path, owner: str = "", **config: Any) -> None:
        """`where`: a folder or a URL; `scratch` takes what is under way. `config` goes to the store. Raises `ConfigError`.

        `owner`: of several that share a store, each sees its own alone; their scans may have the same ids.
        """
        self._keys = keys
        self._prefix = f"{owner}." if owner else ""
        self._scratch = scratch
        self._folder = where if isinstance(where, Path) else None
        try:
            scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            if isinstance(where, Path):
                where.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._store: Any = LocalStore(where)
            else:
                options = _TIMES | _http(where, config) | config.pop("client_options", {})
                self._store = _open(where, client_options=options, **config)
        except (OSError, BaseError, ValueError, TypeError) as error:
            raise ConfigError(f"{printable(str(where))}: manifests cannot be kept there ({_words(error)})") from error

    def put(self, name: str, source: Path) -> int:
        """Seal `source` under `name`, in place of what had it; its size there, in bytes. `LimitExceeded` if it is too large."""
        name = self._named(name)
        if source.stat().st_size > MOST_BYTES:
            raise LimitExceeded(f"a manifest of more than {MOST_BYTES:,} bytes is not kept")
        try:
            if self._folder is not None:
                with source.open("rb") as plain, NewFile(self._folder / name, 0o600) as new:
                    with os.fdopen(new.fd, "wb", closefd=False) as stream:
                        size = self._keys.seal(name, plain, stream)
                    new.commit()
                return size
            with self._temporary() as sealed:
                with source.open("rb") as plain:
                    size = self._keys.seal(name, plain, sealed)
                sealed.seek(0)
                obstore.put(self._store, name, sealed)
                return size
        except (OSError, BaseError) as error:
            raise _failed(name, error) from error

    def get(self, name: str, target: Path) -> None:
        """Write what was put as `name` to `target`. Raises `Gone`, `Corrupt` if it is not that, `LimitExceeded`."""
        name = self._named(name)
        try:
            found = obstore.get(self._store, name)
            if found.meta["size"] > MOST_BYTES + (MOST_BYTES >> 8):
                raise LimitExceeded(f"{name}: the object has more than {MOST_BYTES:,} bytes")
            with target.open("wb") as plain:
                self._keys.unseal(name, io.BufferedReader(_Stream(found.stream())), plain, MOST_BYTES)
        except (NotFoundError, FileNotFoundError) as error:
            if _NOWHERE.search(str(error)):
                raise _failed(name, error) from error
            raise Gone(f"{name}: the object is not there any more") from error
        except (OSError, BaseError) as error:
            raise _failed(name, error) from error

    def delete(self, name: str) -> None:
        """Of one that is not there, nothing."""
        name = self._named(name)
        try:
            obstore.delete(self._store, name)
        except (NotFoundError, FileNotFoundError):
            pass
        except (OSError, BaseError) as error:
            raise _failed(name, error) from error

    def names(self) -> Iterator[str]:
        count = 0
        try:
            for some in obstore.list(self._store):
                for one in some:
                    count += 1
                    if count > _MOST_NAMES:
                        raise CloudError("the store of manifests has too many objects")
                    name = one["path"].removeprefix(self._prefix)
                    if _NAME.fullmatch(name) and one["path"] == self._prefix + name:
                        yield name
        except (OSError, BaseError) as error:
            raise _failed("list", error) from error

    def _named(self, name: str) -> str:
        """As the store has it."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"no name of an object: {name!r}")
        return self._prefix + name

    @contextmanager
    def _temporary(self) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile(dir=self._scratch) as stream:
            yield stream


class _Stream(io.RawIOBase):
    """Pieces that come as they like, as a file."""

    def __init__(self, pieces: Any) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(bytes(piece))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _http(where: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Whether there may be no TLS. Options that are given replace those of the environment, so what it says of this is given, too."""
    if "endpoint" in config or where.startswith("http:"):
        return {"allow_http": True}
    said = os.environ.get(_MAY_BE_HTTP.get(where.partition(":")[0], ""))
    return {"allow_http": said} if said else {}


def _words(error: BaseException) -> str:
    """What comes after the first line is the server's answer, and the library's own view."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0][:300])


def _failed(name: str, error: BaseException) -> CloudError:
    words = _words(error)
    if _NOWHERE.search(str(error)):
        words = "it has no such bucket or container: make it, or mend the name in KUMOMORI_FLEET_OBJECTS"
    elif _REFUSED.search(str(error)):
        words = f"it refuses these credentials, see “Where manifests are kept” in docs/console.md: {words}"
    return CloudError(f"{name}: the store of manifests cannot be used ({words})")
