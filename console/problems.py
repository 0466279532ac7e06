"""What the API refuses, and with which status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from client.model import PolicyProblem
from core.errors import Error

STATUSES: Final = {
    401: "No token, or one that is not known or has expired.",
    403: "The token lacks the scope, or it is another fleet's.",
    404: "Not known.",
    409: "It does not fit what is there.",
    412: "It is another version now.",
    413: "The body is too large.",
    422: "The request is not as documented.",
    429: "Too many wrong tokens from this address, or too many requests at once; `Retry-After` says when to come again.",
    503: "The database cannot be reached or is busy; `Retry-After` says when to come again.",
}


class Refused(Error):
    """Becomes the answer to a request: a `Problem` with `status`, one of `STATUSES`. `str()` is shown to the caller."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        problems: tuple[PolicyProblem, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problems = problems
        self.headers = dict(headers or {})
