"""Events from EventBridge by SQS: parsed, folded, thrown away with a reason."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.aws.accounts import Sessions
from cloud.aws.events import EventQueue, fold, parse
from core.errors import CloudError, Corrupt, Gone
from core.estate import InstanceEvent, InstanceState, Place

PLACE = Place("aws", "111122223333", "eu-central-1")
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def change(state: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "7bf73129-1428-4cd3-a780-95db273d1602",
        "detail-type": "EC2 Instance State-change Notification",
        "source": "aws.ec2",
        "account": "111122223333",
        "time": "2026-11-28T12:00:00Z",
        "region": "eu-central-1",
        "resources": ["arn:aws:ec2:eu-central-1:111122223333:instance/i-0123456789abcdef0"],
        "detail": {"instance-id": "i-0123456789abcdef0", "state": state},
        **more,
    }


def launch(items: Any) -> dict[str, Any]:
    detail = {"eventName": "RunInstances", "responseElements": {"instancesSet": {"items": items}}}
    return {**change(), "detail-type": "AWS API Call via CloudTrail", "detail": detail}


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("pending", InstanceState.PENDING),
        ("running", InstanceState.RUNNING),
        ("stopping", InstanceState.STOPPED),
        ("stopped", InstanceState.STOPPED),
        ("shutting-down", InstanceState.TERMINATED),
        ("terminated", InstanceState.TERMINATED),
    ],
)
def test_state_changes(state: str, found: InstanceState) -> None:
    (event,) = parse(json.dumps(change(state)))
    assert event == InstanceEvent(PLACE, "i-0123456789abcdef0", found, NOON, "7bf73129-1428-4cd3-a780-95db273d1602")


def test_launches() -> None:
    items = [{"instanceId": "i-00000001"}, {"instanceId": "i-00000002"}, {"instanceId": "../x"}, 7]
    events = parse(json.dumps(launch(items)))
    assert [(event.instance, event.state) for event in events] == [
        ("i-00000001", InstanceState.PENDING),
        ("i-00000002", InstanceState.PENDING),
    ]


MALFORMED = [
    pytest.param("", "empty", id="empty"),
    pytest.param("{", "not JSON", id="cut"),
    pytest.param("[" * 100_000, "not JSON", id="deep"),
    pytest.param('"text"', "not an object", id="text"),
    pytest.param("[]", "not an object", id="list"),
    pytest.param("x" * (2 << 20), "too large", id="too-large"),
    pytest.param(json.dumps(change(source="my.app")), "not from EC2", id="other-source"),
    pytest.param(json.dumps(change(account="1")), "account, region, id or detail missing or odd", id="odd-account"),
    pytest.param(json.dumps(change(account=111122223333)), "account, region, id or detail missing or odd", id="account-is-a-number"),
    pytest.param(json.dumps(change(region="../../etc")), "account, region, id or detail missing or odd", id="odd-region"),
    pytest.param(json.dumps(change(region="eu-central-\u0661")), "account, region, id or detail missing or odd", id="digits-of-another-script"),
    pytest.param(json.dumps(change(id="x" * 999)), "account, region, id or detail missing or odd", id="odd-id"),
    pytest.param(json.dumps(change(detail=None)), "account, region, id or detail missing or odd", id="no-detail"),
    pytest.param(json.dumps(change(time="now")), "time missing or odd", id="odd-time"),
    pytest.param(json.dumps(change(time=None)), "time missing or odd", id="no-time"),
    pytest.param(json.dumps(change(time="0001-01-01T00:00:00+23:59")), "time missing or odd", id="time-before-time"),
    pytest.param(json.dumps(change("dancing")), "instance or state missing or odd", id="odd-state"),
    pytest.param(json.dumps(change(detail={"instance-id": "i-1; rm", "state": "running"})), "instance or state missing or odd", id="odd-instance"),
    pytest.param(json.dumps(change(detail={"state": ["running"]})), "instance or state missing or odd", id="state-is-a-list"),
    pytest.param(json.dumps({**change(), "detail-type": "EC2 Spot Instance Interruption Warning"}), "another kind of event", id="other-event"),
    pytest.param(json.dumps(launch(None)), "a launch that failed or names no instance", id="failed-launch"),
    pytest.param(json.dumps(launch([{}])), "a launch that failed or names no instance", id="launch-of-nothing"),
    pytest.param(json.dumps(change(account="999999999999")), "from an account that is not ours", id="foreign-account"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "reason"), MALFORMED)
def test_malformed(body: str, reason: str) -> None:
    with pytest.raises(Corrupt, match=f"^{reason}$"):
        parse(body, {"111122223333"})


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.dictionaries(
            st.sampled_from(
                [*change(), "instance-id", "state", "eventName", "responseElements", "instancesSet", "items"]
            ),
            inner,
        ),
    )
)
def test_any_message(raw: Any) -> None:
    try:
        parse(json.dumps({**change(), **raw} if isinstance(raw, dict) else raw))
    except Corrupt:
        pass


def event(state: InstanceState, second: int, instance: str = "i-1", id: str = "e") -> InstanceEvent:  # noqa: A002
    return InstanceEvent(PLACE, instance, state, NOON + timedelta(seconds=second), f"{id}{second}")


LIFE = [
    event(InstanceState.PENDING, 0),
    event(InstanceState.RUNNING, 10),
    event(InstanceState.STOPPED, 20),
    event(InstanceState.RUNNING, 30),
    event(InstanceState.TERMINATED, 40),
    event(InstanceState.PENDING, 5, "i-2"),
    event(InstanceState.RUNNING, 5, "i-2"),
    event(InstanceState.RUNNING, 50, "i-1", "late"),
]


@pytest.mark.parametrize("seed", range(20))
def test_disorder_and_repetition_change_nothing(seed: int) -> None:
    luck = random.Random(seed)
    shuffled = LIFE + luck.choices(LIFE, k=10)
    luck.shuffle(shuffled)
    cut = luck.randrange(len(shuffled))
    found = fold(fold({}, shuffled[:cut]), shuffled[cut:])
    assert found == fold({}, LIFE)
    assert {key[1]: one.state for key, one in found.items()} == {
        "i-1": InstanceState.TERMINATED,
        "i-2": InstanceState.RUNNING,
    }


def test_a_lost_event_leaves_the_last_word() -> None:
    assert next(iter(fold({}, LIFE[:1] + LIFE[3:4]).values())).state is InstanceState.RUNNING
    known = fold({}, LIFE[:2])
    assert fold(known, []) == known


@pytest.fixture
def queue(backdoor: Callable[[str], Any], sessions: Callable[[str], Sessions]) -> EventQueue:
    url = backdoor("sqs").create_queue(QueueName="kumomori")["QueueUrl"]
    of = sessions("events")
    return EventQueue(of.client(of.base, "sqs", "eu-central-1"), url, {"111122223333"})


def test_queue(queue: EventQueue, backdoor: Callable[[str], Any]) -> None:
    sqs = backdoor("sqs")
    bodies = [
        json.dumps(change("pending")),
        json.dumps(change("running")),
        "garbage",
        json.dumps(change(account="999999999999")),
    ]
    for body in bodies:
        sqs.send_message(QueueUrl=queue.url, MessageBody=body)
    handled: list[InstanceEvent] = []
    result = queue.poll(handled.extend, wait_seconds=0)
    assert sorted(one.state for one in handled) == ["pending", "running"]
    assert result.reasons() == {"not JSON": 1, "from an account that is not ours": 1}
    assert all(one.message for one in result.dropped)
    assert "handles" not in repr(result)
    assert queue.poll(handled.extend, wait_seconds=0).handles == []
    assert len(handled) == 2


def test_events_of_a_rule(queue: EventQueue, backdoor: Callable[[str], Any]) -> None:
    from infra.aws.policies import event_pattern

    arn = backdoor("sqs").get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    events = backdoor("events")
    events.put_rule(Name="instances", EventPattern=json.dumps(event_pattern()))
    events.put_targets(Rule="instances", Targets=[{"Id": "q", "Arn": arn}])
    events.put_events(
        Entries=[
            {"Source": "aws.ec2", "DetailType": change()["detail-type"], "Detail": json.dumps(change()["detail"])},
            {"Source": "aws.ec2", "DetailType": "something else", "Detail": "{}"},
        ]
    )
    received = backdoor("sqs").receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10)["Messages"]
    (body,) = [json.loads(one["Body"]) for one in received]
    (found,) = parse(json.dumps({"account": "111122223333", **body}))  # moto leaves the account out
    assert found.instance == "i-0123456789abcdef0"


def test_a_failed_handler_loses_nothing(queue: EventQueue, backdoor: Callable[[str], Any]) -> None:
    sqs = backdoor("sqs")
    sqs.set_queue_attributes(QueueUrl=queue.url, Attributes={"VisibilityTimeout": "0"})
    sqs.send_message(QueueUrl=queue.url, MessageBody=json.dumps(change()))

    def crash(_: Sequence[InstanceEvent]) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        queue.poll(crash, wait_seconds=0)
    handled: list[InstanceEvent] = []
    queue.poll(handled.extend, wait_seconds=0)
    assert len(handled) == 1


def test_more_than_one_batch_and_a_bound(queue: EventQueue, backdoor: Callable[[str], Any]) -> None:
    sqs = backdoor("sqs")
    for start in range(0, 30, 10):
        entries = [{"Id": str(at), "MessageBody": json.dumps(change(id=f"e-{at}"))} for at in range(start, start + 10)]
        sqs.send_message_batch(QueueUrl=queue.url, Entries=entries)
    handled: list[InstanceEvent] = []
    first = queue.poll(handled.extend, wait_seconds=0, most_messages=15)
    assert 15 <= len(first.handles) < 25
    queue.poll(handled.extend, wait_seconds=0)
    assert {one.id for one in handled} == {f"e-{at}" for at in range(30)}


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (5.9, 5), (600, 20), (-3, 0)])
def test_waiting_is_bounded(asked: float, given: int) -> None:
    calls: list[Any] = []

    class Sqs:
        def receive_message(self, **asked: Any) -> Any:
            calls.append(asked)
            return {}

    EventQueue(Sqs(), "q").receive(asked)  # type: ignore[arg-type]
    assert calls[0]["WaitTimeSeconds"] == given


def test_what_aws_did_not_delete_is_counted() -> None:
    class Sqs:
        def receive_message(self, **_: Any) -> Any:
            return {"Messages": [{"ReceiptHandle": "h", "Body": "x"}, {"Body": "no handle"}, {"MessageId": "\x1b[0m"}]}

        def delete_message_batch(self, **_: Any) -> Any:
            return {"Failed": [{"Id": "0"}]}

    queue = EventQueue(Sqs(), "q")  # type: ignore[arg-type]
    received = queue.receive(0)
    assert [one.reason for one in received.dropped] == ["not JSON", "not JSON", "empty"]
    assert queue.done(received) == 1


def test_queue_that_is_gone(queue: EventQueue, backdoor: Callable[[str], Any]) -> None:
    backdoor("sqs").delete_queue(QueueUrl=queue.url)
    with pytest.raises(Gone):
        queue.receive(0)
    assert issubclass(Gone, CloudError)
