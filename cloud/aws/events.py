"""Launches and state changes of instances: EventBridge puts them into an SQS queue, we fold them into what is known.

Events come twice, in any order, late, or not at all. So nothing is counted up: per instance the latest word wins,
"terminated" for good (EC2 never uses an id again), and the listing puts right what was lost.
Source: EventBridge events reference, "EC2 Instance State-change Notification"; CloudTrail, RunInstances; SQS API reference.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cloud.aws.errors import translated_errors
from core.errors import Corrupt
from core.estate import InstanceEvent, InstanceState, Place
from core.text import printable

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

MOST_BYTES: Final = 1 << 20  # SQS's own limit of a message
MOST_INSTANCES: Final = 1000  # of one RunInstances call
MOST_WAIT_SECONDS: Final = 20
_BATCH: Final = 10
_SOURCE: Final = "aws.ec2"
_STATE_CHANGE: Final = "EC2 Instance State-change Notification"
_API_CALL: Final = "AWS API Call via CloudTrail"
_INSTANCE: Final = re.compile(r"i-[0-9a-f]{8,17}")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}")
_EVENT: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_STATES: Final = {
    "pending": InstanceState.PENDING,
    "running": InstanceState.RUNNING,
    "stopping": InstanceState.STOPPED,
    "stopped": InstanceState.STOPPED,
    "shutting-down": InstanceState.TERMINATED,
    "terminated": InstanceState.TERMINATED,
}
_ORDER: Final = (
    InstanceState.UNKNOWN,
    InstanceState.PENDING,
    InstanceState.RUNNING,
    InstanceState.STOPPED,
    InstanceState.TERMINATED,
)
Key = tuple[Place, str]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message that was thrown away, and why."""

    message: str
    reason: str


@dataclass(slots=True)
class Received:
    """What one call of `receive` brought. `handles` are the receipts: they are for `EventQueue.done`, never for a log."""

    events: list[InstanceEvent] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    handles: list[str] = field(default_factory=list, repr=False)

    def reasons(self) -> Mapping[str, int]:
        """How many messages were dropped for which reason."""
        return Counter(one.reason for one in self.dropped)


def parse(body: str, accounts: Collection[str] | None = None) -> Sequence[InstanceEvent]:
    """The events of one message. `accounts`: those that may speak; None: all.

    Raises `Corrupt` with a short reason, of a fixed set, for what is not such an event.
    """
    raw = _decoded(body)
    if raw.get("source") != _SOURCE:
        raise Corrupt("not from EC2")
    account, region, event, detail = raw.get("account"), raw.get("region"), raw.get("id"), raw.get("detail")
    if not (_is(_ACCOUNT, account) and _is(_REGION, region) and _is(_EVENT, event) and isinstance(detail, dict)):
        raise Corrupt("account, region, id or detail missing or odd")
    if accounts is not None and account not in accounts:
        raise Corrupt("from an account that is not ours")
    place, time = Place("aws", str(account), str(region)), _time(raw.get("time"))
    if raw.get("detail-type") == _STATE_CHANGE:
        found, state = detail.get("instance-id"), _STATES.get(str(detail.get("state")))
        if not _is(_INSTANCE, found) or state is None:
            raise Corrupt("instance or state missing or odd")
        return [InstanceEvent(place, str(found), state, time, str(event))]
    if raw.get("detail-type") == _API_CALL and detail.get("eventName") == "RunInstances":
        return [InstanceEvent(place, one, InstanceState.PENDING, time, str(event)) for one in _launched(detail)]
    raise Corrupt("another kind of event")


def body(event: InstanceEvent) -> str:
    """A message of which `parse` makes `event` again, in the form of EventBridge's state-change notification.

    Raises `ValueError` for a state that EC2 has no word for.
    """
    if event.state is InstanceState.UNKNOWN:
        raise ValueError(f"{event.instance}: there is no event of an unknown state")
    raw = {
        "version": "0",
        "id": event.id,
        "detail-type": _STATE_CHANGE,
        "source": _SOURCE,
        "account": event.place.account,
        "time": event.time.isoformat(),
        "region": event.place.region,
        "resources": [],
        "detail": {"instance-id": event.instance, "state": event.state.value},
    }
    return json.dumps(raw, separators=(",", ":"))


def fold(known: Mapping[Key, InstanceEvent], events: Iterable[InstanceEvent]) -> dict[Key, InstanceEvent]:
    """The last word on each instance. The same result for any order and any number of repetitions of the same events."""
    latest = dict(known)
    for event in events:
        key = (event.place, event.instance)
        before = latest.get(key)
        if before is None or _rank(event) > _rank(before):
            latest[key] = event
    return latest


@dataclass(frozen=True, slots=True)
class EventQueue:
    """Our queue. A message is deleted after it was handled, so a crash means that it comes again."""

    sqs: SQSClient
    url: str
    accounts: Collection[str] | None = None

    def receive(self, wait_seconds: float = MOST_WAIT_SECONDS) -> Received:
        """At most 10 messages; waits `wait_seconds` (at most 20) for the first. Raises `AccessDenied`, `CloudError`."""
        wait = int(min(max(wait_seconds, 0), MOST_WAIT_SECONDS))
        with translated_errors("sqs:ReceiveMessage", "event queue"):
            answer = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=wait)
        received = Received()
        for message in answer.get("Messages", ())[:_BATCH]:
            if handle := message.get("ReceiptHandle"):
                received.handles.append(handle)
            try:
                received.events += parse(message.get("Body", ""), self.accounts)
            except Corrupt as error:
                received.dropped.append(Dropped(printable(str(message.get("MessageId", "")))[:100], str(error)))
        return received

    def done(self, received: Received) -> int:
        """Delete what was handled or dropped; how many AWS did not delete, which come again. Raises as `receive`."""
        left = 0
        for start in range(0, len(received.handles), _BATCH):
            some = received.handles[start : start + _BATCH]
            with translated_errors("sqs:DeleteMessage", "event queue"):
                answer = self.sqs.delete_message_batch(
                    QueueUrl=self.url,
                    Entries=[{"Id": str(at), "ReceiptHandle": handle} for at, handle in enumerate(some)],
                )
            left += len(answer.get("Failed", ()))
        return left

    def poll(
        self,
        handle: Callable[[Sequence[InstanceEvent]], None],
        *,
        wait_seconds: float = MOST_WAIT_SECONDS,
        most_messages: int = 1000,
    ) -> Received:
        """Hand events to `handle` until the queue is empty or `most_messages` were read; deleted only once it returned.

        Bounded in time by `wait_seconds` for the first message and one short look for each batch. What `handle` raises
        goes on to the caller; the messages of that batch come again.
        """
        everything = Received()
        while len(everything.handles) < most_messages:
            some = self.receive(0 if everything.handles else wait_seconds)
            if not some.handles:
                break
            handle(some.events)
            self.done(some)
            everything.events += some.events
            everything.dropped += some.dropped
            everything.handles += some.handles
        return everything


def _decoded(body: object) -> Mapping[str, Any]:
    if not isinstance(body, str) or not body:
        raise Corrupt("empty")
    if len(body) > MOST_BYTES:
        raise Corrupt("too large")
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        raise Corrupt("not JSON") from None
    if not isinstance(raw, dict):
        raise Corrupt("not an object")
    return raw


def _launched(detail: Mapping[str, Any]) -> list[str]:
    items: Any = detail
    for key in ("responseElements", "instancesSet", "items"):
        items = items.get(key) if isinstance(items, dict) else None
    if not isinstance(items, list):
        raise Corrupt("a launch that failed or names no instance")
    found = [one.get("instanceId") for one in items[:MOST_INSTANCES] if isinstance(one, dict)]
    launched = [str(one) for one in found if _is(_INSTANCE, one)]
    if not launched:
        raise Corrupt("a launch that failed or names no instance")
    return launched


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _time(raw: object) -> datetime:
    try:
        found = datetime.fromisoformat(raw if isinstance(raw, str) else "")
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Corrupt("time missing or odd") from None


def _rank(event: InstanceEvent) -> tuple[bool, datetime, int, str]:
    """Terminated beats all; then the later; of one second what comes later in an instance's life."""
    return event.state is InstanceState.TERMINATED, event.time, _ORDER.index(event.state), event.id
