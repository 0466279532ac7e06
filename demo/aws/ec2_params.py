"""Parameters of EC2 calls and the parts of their answers that many share."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from secrets import token_hex
from typing import Any, TypeVar

from demo.aws.errors import ApiError

Params = Mapping[str, Any]
T = TypeVar("T")


def new_id() -> str:
    return f"snap-{token_hex(9)[:17]}"


def time_of(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def is_true(value: Any) -> bool:
    return str(value).lower() == "true"


def any_like(facts: Iterable[str], values: Iterable[str]) -> bool:
    return any(fnmatchcase(fact, value) for value in values for fact in facts)


def filters_of(params: Params) -> dict[str, Any]:
    return {one["Name"]: one.get("Values", []) for one in params.get("Filters") or ()}


def tags_of(params: Params, kind: str) -> dict[str, str]:
    """The tags that a request has for resources of one kind. Raises `ApiError` for those no one may set."""
    tags: dict[str, str] = {}
    for entry in params.get("TagSpecifications") or ():
        if entry.get("ResourceType") == kind:
            tags |= {str(tag.get("Key")): str(tag.get("Value", "")) for tag in entry.get("Tags") or ()}
    if any(key.lower().startswith("aws:") for key in tags):
        raise ApiError("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
    if len(tags) > 50:
        raise ApiError("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
    return tags


def page_of(items: Sequence[T], params: Params, largest: int | None = None) -> tuple[Sequence[T], str]:
    """One page of `items` by MaxResults and NextToken, and the token for the next one, or nothing."""
    asked = params.get("MaxResults")
    size = int(asked) if asked is not None else largest
    start = 0
    if token := params.get("NextToken"):
        try:
            start = int(base64.b64decode(str(token), validate=True))
        except ValueError as error:
            raise ApiError("InvalidParameterValue", "Value for parameter NextToken is invalid.") from error
    if size is None:
        return items[start:], ""
    more = start + size < len(items)
    return items[start : start + size], base64.b64encode(str(start + size).encode()).decode() if more else ""
