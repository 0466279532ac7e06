"""From what people type to what the console calls it: instances by name or id, findings and scans by the beginning of theirs."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

from typer import Option

from core.errors import ConfigError
from core.text import printable

if TYPE_CHECKING:
    from client.api import Console as Api
    from client.model import FindingOut

OfInstance = Annotated[
    str, Option(metavar="INSTANCE", help="Only of this one: its name, id or whole address.", show_default=False)
]
_SHOWN: Final = 5
_LEAST: Final = 6  # characters of the beginning of a long id
_MOST_LOOKED_AT: Final = 5_000


def instance_key(api: Api, word: str) -> str:
    """The key of the instance with this key, id or name. Raises `ConfigError` if there is none, or more than one."""
    if "://" in word:
        return word
    found = [
        one for one in islice(api.instances(text=word), _MOST_LOOKED_AT) if word in {one.instance.id, one.instance.name}
    ]
    if not found:
        raise ConfigError(f"{printable(word)}: no instance has this name or id; `kumomori estate` lists them")
    if len(found) > 1:
        names = ", ".join(printable(one.key) for one in found[:_SHOWN])
        raise ConfigError(f"{printable(word)}: {len(found)} instances are called so; say which: {names}")
    return found[0].key


def finding(api: Api, word: str, instance: str) -> FindingOut:
    """The finding whose id begins so, of `instance` if that is given. Raises `ConfigError` if there is none, or more than one."""
    if len(word) < _LEAST:
        raise ConfigError(f"{printable(word)}: is too short; give at least {_LEAST} characters of the finding's id")
    key = instance_key(api, instance) if instance else ""
    found = [one for one in api.findings(state=None, instance=key) if one.id.startswith(word)]
    if not found:
        raise ConfigError(f"{printable(word)}: no finding's id begins so; `kumomori findings --state all` lists them")
    if len(found) > 1:
        where = ", ".join(printable(f"{one.id[:12]} of {one.instance}") for one in found[:_SHOWN])
        raise ConfigError(
            f"{printable(word)}: {len(found)} findings begin so; give more of the id, or --instance: {where}"
        )
    return found[0]


def short(key: str) -> str:
    """The id at the end of a key: lists have no room for where it is."""
    return key.rpartition("/")[2]


def scan_id(api: Api, word: str) -> str:
    """The id that begins so, with or without the kind before it, among the latest scans. Raises `ConfigError` if more than one does."""
    latest = (one.id for one in islice(api.scans(), _MOST_LOOKED_AT))
    found = [one for one in latest if one.startswith(word) or one.rpartition("-")[2].startswith(word)]
    if word in found or not found:
        return word
    if len(found) > 1:
        shown = ", ".join(printable(one) for one in found[:_SHOWN])
        raise ConfigError(f"{printable(word)}: {len(found)} scans' ids begin so; give more of it: {shown}")
    return found[0]
