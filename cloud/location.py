"""How a person names something in a cloud: `aws://ACCOUNT/REGION/ID`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from core.errors import ConfigError
from core.estate import Place
from core.text import printable

CLOUDS: Final = ("aws",)
_PART: Final = r"[A-Za-z0-9._-]{1,128}"
_LOCATION: Final = re.compile(rf"({'|'.join(CLOUDS)})://({_PART})/({_PART})(?:/({_PART}))?")


@dataclass(frozen=True, slots=True)
class Location:
    """`id` is empty if a whole account and region is meant."""

    place: Place
    id: str = ""

    @classmethod
    def parse(cls, text: str, *kinds: str) -> Self:
        """`kinds`: what the id has to begin with; without any there must be none. Raises `ConfigError`."""
        found = _LOCATION.fullmatch(text)
        wanted = " or ".join(f"aws://ACCOUNT/REGION/{kind}…" for kind in kinds) or "aws://ACCOUNT/REGION"
        if not found:
            raise ConfigError(f"{printable(text)[:200]}: names nothing in a cloud; write {wanted}")
        cloud, account, region, id_ = found.groups(default="")
        if (kinds and not id_.startswith(kinds)) or (id_ and not kinds):
            raise ConfigError(f"{printable(text)[:200]}: write {wanted}")
        return cls(Place(cloud, account, region), id_)

    def __str__(self) -> str:
        return f"{self.place}/{self.id}" if self.id else str(self.place)
