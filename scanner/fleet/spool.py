"""The instances of one listing, on disk: memory holds their ids, digests and offsets, some 300 bytes for each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from pydantic import TypeAdapter

from client.digest import digest
from client.model import MOST_COMPARED
from core.errors import ConfigError, LimitExceeded
from core.estate import Instance, Place
from core.text import printable

_INSTANCE: Final = TypeAdapter(Instance)


class _At(NamedTuple):
    offset: int
    length: int
    digest: str


class Spool:
    """A file without a name in `folder`, gone when the block is left."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file: Final = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by `__exit__`
        self._places: Final[dict[Place, dict[str, _At]]] = {}
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, instance: Instance) -> None:
        """One that was added before is replaced. Raises `LimitExceeded` for a place with too many, `ConfigError` for text that
        is no Unicode or a folder that cannot be written."""
        known = self._places.setdefault(instance.place, {})
        if len(known) >= MOST_COMPARED and instance.id not in known:
            raise LimitExceeded(f"{instance.place}: more than {MOST_COMPARED:,} instances")
        try:
            raw = _INSTANCE.dump_json(instance)
            self._file.seek(self._end)
            self._file.write(raw)
            known[instance.id] = _At(self._end, len(raw), digest(instance))
        except ValueError:
            raise ConfigError(f"{printable(str(instance))[:200]}: it has text that is no Unicode") from None
        except OSError as error:
            raise ConfigError(
                f"the listing cannot be written to the data folder ({error.strerror}): make room"
            ) from None
        self._end += len(raw)

    def places(self) -> Iterable[Place]:
        return self._places.keys()

    def digests(self, place: Place) -> Mapping[str, str]:
        return {name: at.digest for name, at in self._places.get(place, {}).items()}

    def take(self, place: Place, ids: Iterable[str]) -> Iterator[Instance]:
        """Those of `ids` that are in it."""
        known = self._places.get(place, {})
        for name in ids:
            if at := known.get(name):
                self._file.seek(at.offset)
                yield _INSTANCE.validate_json(self._file.read(at.length))
