"""Functions of AWS Lambda that `serverless.yml` deploys into a protected account: events, reconciliation, a safety net.

* `on_instance`: EventBridge's event of an instance → the queue that a fleet reads.
* `reconcile`: on a schedule, launches of the last time are told again, for those whose event was lost.
* `sweep`: on a schedule, what this installation made, nobody took away, and has expired is deleted.

All may run twice, or at once, and change nothing more. Each writes one line of JSON of what it did, without any secret. Nothing is
needed but boto3, which the runtime brings.
Source: AWS Lambda developer guide, "Python context object", "Asynchronous invocation"; SQS API reference, SendMessageBatch.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

from cloud.aws.accounts import Sessions
from cloud.aws.connector import connect
from cloud.aws.errors import translated_errors
from cloud.aws.events import body, parse
from cloud.aws.inventory import Rules
from cloud.aws.listing import list_without_disks
from cloud.aws.tags import plain
from cloud.expired import delete_each
from core.errors import CloudError, ConfigError, Corrupt
from core.estate import Instance, InstanceEvent, InstanceState, Place
from core.text import printable

Answer = dict[str, Any]
T = TypeVar("T")

RESERVE_SECONDS: Final = 20.0  # for the call under way and the last words, before the runtime ends us
_PREFIX: Final = "KUMOMORI_"
_BATCH: Final = 10  # SQS's maximum of messages and, with our short ones, far below its maximum of bytes
_TRIES: Final = 3
_MOST_ERRORS: Final = 10  # in a line of the log
_MOST_SECONDS: Final = 366 * 86_400
_LOOK_BACK_SECONDS: Final = 3_600
_GRACE_SECONDS: Final = 86_400
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}")
_URL: Final = re.compile(r"https?://[^\s@?#]{1,500}")


class Context(Protocol):
    """What the runtime tells of this run."""

    def get_remaining_time_in_millis(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """From the environment of the function. `queue` is an SQS URL; `installation` whose things are swept.

    `look_back_seconds`: how old a launch may be that `reconcile` tells again. `grace_seconds`: how long `sweep` leaves alone what has
    expired, so that a fleet, which knows more, comes first.
    """

    place: Place
    queue: str = ""
    installation: str = ""
    look_back_seconds: int = _LOOK_BACK_SECONDS
    grace_seconds: int = _GRACE_SECONDS

    @classmethod
    def read(cls, environment: Mapping[str, str], *needed: str) -> Settings:
        """Raises `ConfigError` that names the variable, never its value."""
        account, region = environment.get(f"{_PREFIX}ACCOUNT", ""), environment.get("AWS_REGION", "")
        _check("AWS_REGION", region, _REGION, "the name of a region")
        _check(f"{_PREFIX}ACCOUNT", account, _ACCOUNT, "an account's 12 digits")
        queue, installation = environment.get(f"{_PREFIX}QUEUE", ""), environment.get(f"{_PREFIX}INSTALLATION", "")
        if "queue" in needed:
            _check(f"{_PREFIX}QUEUE", queue, _URL, "the URL of an SQS queue")
        if "installation" in needed:
            if not installation:
                raise ConfigError(f"{_PREFIX}INSTALLATION is not set")
            plain(f"{_PREFIX}INSTALLATION", installation)
        return cls(
            Place("aws", account, region),
            queue,
            installation,
            _seconds(environment, "LOOK_BACK_SECONDS", _LOOK_BACK_SECONDS, 60),
            _seconds(environment, "GRACE_SECONDS", _GRACE_SECONDS, 0),
        )


# the functions


def on_instance(event: object, _: Context) -> Answer:
    """An event of EventBridge into the queue. What is none is counted and dropped: it would not become one by trying again.

    Raises `CloudError` if the queue did not take it: Lambda then tries again, and gives what still fails to the dead letters.
    """
    settings = Settings.read(os.environ, "queue")
    try:
        events = parse(json.dumps(event), {settings.place.account})
    except (Corrupt, TypeError, ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, Corrupt) else "not JSON"
        return _said("on_instance", sent=0, dropped={reason: 1})
    sent, failed = _send(settings, events, lambda: True)
    answer = _said("on_instance", sent=sent, dropped={}, failed=failed)
    _complete(failed)
    return answer


def reconcile(_: object, context: Context) -> Answer:
    """Tell the queue of every instance that was launched in the last `look_back_seconds` and has not been terminated.

    Each message says that the instance was *pending* at its launch: true whatever became of it since, so that no later word is
    overruled; and it is the same each time. Stops in time before the runtime does. Raises `CloudError`.
    """
    settings = Settings.read(os.environ, "queue")
    has_time = _deadline(context)
    since = datetime.now(UTC) - timedelta(seconds=settings.look_back_seconds)
    seen: Counter[str] = Counter()
    ec2 = _client("ec2", settings.place.region)
    instances = _while(has_time, list_without_disks(ec2, settings.place, Rules()), seen)
    found = (_launch(one) for one in instances if _is_launched(one, since))
    sent, failed = _send(settings, found, has_time)
    complete = not seen["left"] and has_time()
    answer = _said("reconcile", instances=seen["taken"], sent=sent, failed=failed, complete=complete)
    _complete(failed)
    return answer


def sweep(_: object, context: Context) -> Answer:
    """Delete what carries this installation's tag and mark and expired `grace_seconds` ago, and nothing else; see `Ours.owns`.

    In no order, so that many that cannot be deleted keep none from its turn for long. Stops in time before the runtime does;
    what is left is deleted the next time. Raises `CloudError` if it cannot list.
    """
    settings = Settings.read(os.environ, "installation")
    has_time = _deadline(context)
    sessions = Sessions()
    place = settings.place
    connector = connect(sessions, sessions.base, place.account, place.region, settings.installation)
    deleted: list[str] = []
    errors: list[str] = []
    seen: Counter[str] = Counter()
    before = datetime.now(UTC) - timedelta(seconds=settings.grace_seconds)
    expired = [one for one in _while(has_time, connector.owned(), seen) if one.expires <= before]
    random.shuffle(expired)
    for resource, error in delete_each(connector, expired if has_time() else ()):
        if error is None:
            deleted.append(resource.id)
        else:
            errors.append(printable(str(error))[:300])
        if not has_time():
            break
    return _said(
        "sweep",
        installation=settings.installation,
        deleted=deleted[:1000],
        failed=len(errors),
        errors=errors[:_MOST_ERRORS],
        complete=not seen["left"] and len(deleted) + len(errors) == len(expired),
    )


# what they are made of


def _is_launched(instance: Instance, since: datetime) -> bool:
    return (
        instance.state is not InstanceState.TERMINATED and instance.launched is not None and instance.launched >= since
    )


def _launch(instance: Instance) -> InstanceEvent:
    assert instance.launched is not None
    name = f"listed-{instance.id}-{int(instance.launched.timestamp())}"
    return InstanceEvent(instance.place, instance.id, InstanceState.PENDING, instance.launched, name)


def _send(settings: Settings, events: Iterable[InstanceEvent], has_time: Callable[[], bool]) -> tuple[int, int]:
    """How many messages SQS took, and how many it did not after some tries. Raises `CloudError`."""
    sqs = _client("sqs", settings.place.region)
    sent = failed = 0
    left = iter(events)
    while some := list(islice(left, _BATCH)):
        bodies = [body(one) for one in some]
        for _ in range(_TRIES):
            with translated_errors("sqs:SendMessage", "event queue"):
                answer = sqs.send_message_batch(
                    QueueUrl=settings.queue,
                    Entries=[{"Id": str(at), "MessageBody": one} for at, one in enumerate(bodies)],
                )
            refused = {str(one.get("Id")) for one in answer.get("Failed", ())}
            sent += sum(str(at) not in refused for at in range(len(bodies)))
            bodies = [one for at, one in enumerate(bodies) if str(at) in refused]
            if not bodies or not has_time():
                break
        failed += len(bodies)
    return sent, failed


def _while(has_time: Callable[[], bool], listed: Iterator[T], seen: Counter[str]) -> Iterator[T]:
    """As long as there is time; `seen` tells how many were `taken`, and of one that was `left`."""
    for one in listed:
        if not has_time():
            seen["left"] += 1
            return
        seen["taken"] += 1
        yield one


def _deadline(context: Context) -> Callable[[], bool]:
    return lambda: context.get_remaining_time_in_millis() > RESERVE_SECONDS * 1000


def _complete(failed: int) -> None:
    """Raises `CloudError`, so that the run counts as failed and is made again."""
    if failed:
        raise CloudError(f"the event queue did not take {failed} messages")


@functools.cache
def _client(service: str, region: str) -> Any:
    """One for all runs in this process. Sending twice is harmless here, so the SDK may repeat it."""
    sessions = Sessions()
    return sessions.client(sessions.base, service, region)


def _said(function: str, **what: Any) -> Answer:
    sys.stdout.write(json.dumps({"function": function, **what}, separators=(",", ":")) + "\n")
    sys.stdout.flush()
    return what


def _check(name: str, value: str, pattern: re.Pattern[str], expected: str) -> None:
    if not value:
        raise ConfigError(f"{name} is not set")
    if not pattern.fullmatch(value):
        raise ConfigError(f"{name} is not {expected}")


def _seconds(environment: Mapping[str, str], name: str, default: int, least: int) -> int:
    raw = environment.get(_PREFIX + name, str(default))
    if not (raw.isascii() and raw.isdigit() and len(raw) < 10 and least <= int(raw) <= _MOST_SECONDS):
        raise ConfigError(f"{_PREFIX}{name} is not a number of seconds from {least} to {_MOST_SECONDS}")
    return int(raw)
