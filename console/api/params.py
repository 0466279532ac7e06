"""What stands in addresses, bounded and checked."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator

from client.model import PAGE


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has characters that cannot be printed")
    return text


_Printable = AfterValidator(_printable)
_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"

After = Annotated[str, _Printable, Query(max_length=2_000, description="The `next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=PAGE, description="Rows on a page.")]
Text = Annotated[str, _Printable, Query(max_length=512)]
KeyQuery = Annotated[str, _Printable, Query(min_length=1, max_length=512)]
OptionalKey = Annotated[str, _Printable, Query(max_length=512)]
FindingId = Annotated[str, Query(pattern=r"^[0-9a-f]{64}$")]
NameInPath = Annotated[str, Path(pattern=_NAME)]
ScanInPath = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
WordInPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
VersionInPath = Annotated[int, Path(ge=1, le=2**31 - 1)]
