"""The tags by which we know what is ours. AWS: a key has at most 128 characters, a value 256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from core.errors import ConfigError

PREFIX: Final = "kumomori:"
INSTALLATION: Final = "kumomori:installation"
TOKEN: Final = "kumomori:token"  # noqa: S105  a tag's name
EXPIRES: Final = "kumomori:expires"
INSTANCE: Final = "kumomori:instance"
OF: Final = "kumomori:of"  # on a copy: the snapshot it was made of
EXCLUDE: Final = "kumomori:exclude"  # set by operators on what is to be left alone
MOST_KEY: Final = 128
MOST_VALUE: Final = 256
_MOST_TAGS: Final = 100  # AWS allows 50
_PLAIN: Final = re.compile(r"[A-Za-z0-9._:/=+@-]{1,200}")


def plain(name: str, value: str) -> str:
    """`value` if it may stand in a tag and in a filter, where `*`, `?` and `\\` are wildcards. Raises `ConfigError`."""
    if not _PLAIN.fullmatch(value):
        raise ConfigError(f"the {name} may have 1 to 200 letters, digits and ._:/=+@-, not {value[:40]!r}")
    return value


def mark(installation: str, token: str) -> str:
    """Ends the description of what we make. Whoever may tag can forge a tag; a description nobody can change afterwards."""
    return f"[kumomori {hashlib.sha256(f'{installation} {token}'.encode()).hexdigest()[:32]}]"


def tag_list(tags: Mapping[str, str]) -> list[Any]:
    """As the EC2 API wants them; empty ones are left out."""
    return [{"Key": key, "Value": value} for key, value in tags.items() if value]


def to_tags(raw: object) -> dict[str, str]:
    """Tags of an answer: at most 100, keys and values cut to AWS's own limits."""
    if not raw or not isinstance(raw, list):
        return {}
    found: dict[str, str] = {}
    for one in raw[:_MOST_TAGS]:
        if isinstance(one, dict):
            key, value = one.get("Key"), one.get("Value")
            if isinstance(key, str) and isinstance(value, str):
                found[key[:MOST_KEY]] = value[:MOST_VALUE]
    return found


def tag_filter(key: str, value: str) -> Any:
    return {"Name": f"tag:{key}", "Values": [value]}


def to_time(text: str) -> datetime | None:
    """What `EXPIRES` says, in UTC; None if somebody wrote something else there."""
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the latter: in UTC it is before the year 1, or after 9999
        return None
