"""Making one EBS direct call until it succeeds, cannot succeed, or has taken too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from botocore.exceptions import ClientError

from cloud.aws.errors import translated
from cloud.aws.transport import Broken
from cloud.pace import Cancelled, Pacer, backoff_seconds
from core.errors import CloudError, Error, Throttled

PATIENCE_SECONDS: Final = 40.0  # less than one file may take, so that its gap says what was wrong
_ACCOUNT: Final = "ACCOUNT_THROTTLED"
_SNAPSHOT: Final = "RESOURCE_LEVEL_THROTTLE"
T = TypeVar("T")


class GaveUp(CloudError):
    """The same call failed again and again for `PATIENCE_SECONDS`; `last` says how the last time."""

    def __init__(self, last: Error) -> None:
        super().__init__(str(last))
        self.last = last


class Caller:
    """Calls about one snapshot, within the quotas of its account. Safe for many threads.

    Source: Amazon EBS direct APIs reference, GetSnapshotBlock: "You should always retry requests that receive server (5xx)
    error responses, and ThrottlingException and RequestThrottledException client error responses."
    """

    def __init__(
        self,
        subject: str,
        stop: threading.Event,
        *,
        patience_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subject = subject
        self._stop = stop
        self._patience_seconds = patience_seconds
        self._clock = clock

    def call(self, make: Callable[[], T], permission: str, account: Pacer, snapshot: Pacer | None = None) -> T:
        """Raises `ClientError` for what no retry mends, `GaveUp`, and `Cancelled` when it is to stop."""
        deadline = self._clock() + self._patience_seconds
        attempt = 0
        while True:
            for pacer in (account, snapshot):
                if pacer is not None:
                    pacer.wait(self._stop)
            try:
                return make()
            except ClientError as error:
                problem = translated(error, permission, self._subject)
                if isinstance(problem, Throttled):
                    _slower(error, account, snapshot)
                elif _status(error) < 500:
                    raise
            except Broken as error:
                problem = CloudError(f"{self._subject}: {permission}: {error}")
            attempt += 1
            wait = backoff_seconds(attempt)
            if self._stop.is_set():
                raise Cancelled
            if self._clock() + wait > deadline:
                raise GaveUp(problem)
            if self._stop.wait(wait):
                raise Cancelled


def _slower(error: ClientError, account: Pacer, snapshot: Pacer | None) -> None:
    reason = reason_of(error)
    if snapshot is not None and reason != _ACCOUNT:
        snapshot.throttled()
    if snapshot is None or reason != _SNAPSHOT:
        account.throttled()


def reason_of(error: ClientError) -> str:
    """The `Reason` member of an EBS direct error."""
    return str(error.response.get("Reason") or "")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
