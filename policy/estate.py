"""Instances from a file: what `kumomori instances --format jsonl` prints, or an operator's own list of the same shape."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from core.errors import ConfigError
from core.estate import Disk, Instance, InstanceState, Place
from core.text import printable
from policy.document import At, Problem, Refused, bounded_text

MOST_INSTANCE_BYTES: Final = 1 << 20
MOST_INSTANCES: Final = 1_000_000
MOST_DISKS: Final = 200
_WORDS: Final = ("name", "image", "os", "architecture", "kind", "owner", "zone", "network", "subnet", "excluded")


def read_instance(path: Path) -> Instance:
    """One instance. Raises `Refused`."""
    text = bounded_text(path, MOST_INSTANCE_BYTES)
    try:
        return instance(_loaded(text))
    except (ValueError, RecursionError) as error:
        raise Refused([Problem(_at(path, error), f"is no instance: {_words(error)}")]) from None


def read_estate(path: Path) -> Iterator[Instance]:
    """One instance a line.

    Two lines of one instance, or a line that is none, raise `Refused`; no file, or one without instances, `ConfigError`.
    """
    seen: dict[str, int] = {}
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(iter(lambda: stream.readline(MOST_INSTANCE_BYTES + 1), b""), 1):
                if not raw.strip():
                    continue
                at = At(str(path), number, 1)
                if len(raw) > MOST_INSTANCE_BYTES:
                    raise Refused([Problem(at, f"is longer than {MOST_INSTANCE_BYTES:,} bytes")])
                try:
                    found = instance(_loaded(raw.decode("utf-8-sig")))
                except (ValueError, RecursionError) as error:
                    raise Refused([Problem(at, f"is no instance: {_words(error)}")]) from None
                first = seen.setdefault(str(found), number)
                if first != number:
                    raise Refused([Problem(at, f"{printable(str(found))} stands in line {first} already")])
                if len(seen) > MOST_INSTANCES:
                    raise Refused([Problem(at, f"holds more than {MOST_INSTANCES:,} instances")])
                yield found
    except OSError as error:
        raise ConfigError(f"{printable(str(path))}: cannot be read: {error.strerror or error}") from None
    if not seen:
        raise ConfigError(
            f"{printable(str(path))}: holds no instances; write one a line, as `kumomori instances --format jsonl` prints them"
        )


def instance(row: Any) -> Instance:
    """`row` needs `place` and `id`; names that are not known are left aside. Raises `ValueError`."""
    if not isinstance(row, dict):
        raise ValueError("an object with `place` and `id` is expected")  # noqa: TRY004  one kind of error for all that a row may be
    place = row.get("place")
    if not isinstance(place, dict):
        raise ValueError("`place` is missing: an object with `cloud`, `account` and `region`")  # noqa: TRY004
    name = _text(row, "id")
    if not name:
        raise ValueError("`id` is missing")
    cloud, account, region = (_text(place, key) for key in ("cloud", "account", "region"))
    if not cloud:
        raise ValueError("`place.cloud` is missing")
    state = _text(row, "state") or InstanceState.UNKNOWN.value
    if state not in set(InstanceState):
        raise ValueError(f"`state` is none of {', '.join(InstanceState)}")
    tags = {} if row.get("tags") is None else row["tags"]
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise ValueError("`tags` is not an object of words")
    words: dict[str, Any] = {key: _text(row, key) for key in _WORDS}
    here = Place(cloud, account, region)
    return Instance(
        place=here,
        id=name,
        state=InstanceState(state),
        addresses=_texts(row, "addresses"),
        security_groups=_texts(row, "security_groups"),
        tags=tags,
        launched=_time(row, "launched"),
        disks=tuple(_disk(raw, here, name) for raw in _list(row, "disks")),
        **words,
    )


def _disk(raw: Any, place: Place, instance: str) -> Disk:
    if not isinstance(raw, dict) or not _text(raw, "id"):
        raise ValueError("`disks` has something without an `id`")
    size = raw.get("size_bytes", 0)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise ValueError("`size_bytes` of a disk is no size")
    for key in ("boot", "encrypted"):
        if not isinstance(raw.get(key, False), bool):
            raise ValueError(f"`{key}` of a disk is neither true nor false")  # noqa: TRY004
    return Disk(
        place=place,
        id=_text(raw, "id"),
        instance=instance,
        device=_text(raw, "device"),
        size_bytes=size,
        boot=raw.get("boot", False),
        kind=_text(raw, "kind"),
        encrypted=raw.get("encrypted", False),
        key=_text(raw, "key"),
        obstacle=_text(raw, "obstacle"),
    )


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = [] if row.get(key) is None else row[key]
    if not isinstance(value, list) or len(value) > MOST_DISKS:
        raise ValueError(f"`{key}` is not a list of at most {MOST_DISKS}")
    return value


def _time(row: Mapping[str, Any], key: str) -> datetime | None:
    text = _text(row, key)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"`{key}` is no time: write it as 2026-01-31T08:00:00+00:00") from None


def _loaded(text: str) -> Any:
    """Raises `ValueError`, also for half a character (`\\ud800`), which could not be told to anybody else."""
    row = json.loads(text, object_pairs_hook=_once)
    if "\\ud" in text.lower():
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("an escape in it stands for no character") from None
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a name that stands twice, readers differ in which counts."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"`{key}` stands twice")
        found[key] = value
    return found


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"`{key}` is no word")  # noqa: TRY004
    return value


def _texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = [] if row.get(key) is None else row[key]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"`{key}` is not a list of words")
    return tuple(value)


def _at(path: Path, error: Exception) -> At:
    if isinstance(error, json.JSONDecodeError):
        return At(str(path), error.lineno, error.colno)
    return At(str(path), 1, 1)


def _words(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON ({error.msg})"
    return printable(str(error))[:200] if isinstance(error, ValueError) else "nested too deep"
