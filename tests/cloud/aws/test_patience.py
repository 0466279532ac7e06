from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloud.aws.patience import Caller, GaveUp
from cloud.aws.transport import Broken
from cloud.pace import Cancelled, Pacer
from core.errors import CloudError, Throttled


def refusal(status: int, code: str, reason: str = "") -> ClientError:
    said: Any = {"Error": {"Code": code}, "Reason": reason, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(said, "GetSnapshotBlock")


def failing(*errors: Exception) -> Callable[[], str]:
    left: Iterator[Exception] = iter(errors)

    def make() -> str:
        for error in left:
            raise error
        return "done"

    return make


class Time:
    """Goes on by a second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def caller(seconds: float = 60) -> Caller:
    return Caller("snapshot snap-1", threading.Event(), patience_seconds=seconds, clock=Time())


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.aws.patience.backoff_seconds", lambda _: 0.0)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Broken("the connection failed"), id="connection"),
        pytest.param(refusal(500, "InternalServerException"), id="server"),
        pytest.param(refusal(503, "HTTP503"), id="busy"),
        pytest.param(refusal(400, "RequestThrottledException", "ACCOUNT_THROTTLED"), id="throttled"),
        pytest.param(refusal(400, "ThrottlingException"), id="throttling"),
    ],
)
def test_again_until_it_works_or_takes_too_long(error: Exception) -> None:
    assert caller().call(failing(error, error, error), "ebs:GetSnapshotBlock", Pacer(1e6)) == "done"
    with pytest.raises(GaveUp) as caught:
        caller(5).call(failing(*[error] * 100), "ebs:GetSnapshotBlock", Pacer(1e6))
    assert isinstance(caught.value.last, Throttled if "hrottl" in str(error) else CloudError)
    assert "snap-1" in str(caught.value)


@pytest.mark.parametrize("code", ["ValidationException", "AccessDeniedException", "ResourceNotFoundException"])
def test_what_no_retry_mends_goes_through(code: str) -> None:
    error = refusal(400, code)
    with pytest.raises(ClientError) as caught:
        caller().call(failing(error), "ebs:GetSnapshotBlock", Pacer(1e6))
    assert caught.value is error


@pytest.mark.parametrize(
    ("reason", "slower"),
    [
        ("ACCOUNT_THROTTLED", (True, False)),
        ("RESOURCE_LEVEL_THROTTLE", (False, True)),
        ("DEPENDENCY_REQUEST_THROTTLED", (True, True)),
        ("", (True, True)),
    ],
)
def test_the_quota_that_was_reached_is_the_one_that_slows_down(reason: str, slower: tuple[bool, bool]) -> None:
    account, snapshot = Pacer(1e6, clock=lambda: 1.0), Pacer(1e6, clock=lambda: 1.0)
    caller().call(failing(refusal(400, "RequestThrottledException", reason)), "x", account, snapshot)
    assert (account.rate < 1e6, snapshot.rate < 1e6) == slower


def test_it_stops_when_it_is_told_to() -> None:
    stop = threading.Event()

    def make() -> str:
        stop.set()
        raise Broken("closed")

    with pytest.raises(Cancelled):
        Caller("s", stop, patience_seconds=60).call(make, "x", Pacer(1e6))
    with pytest.raises(Cancelled):
        Caller("s", stop, patience_seconds=60).call(lambda: "never made", "x", Pacer(1e6))
