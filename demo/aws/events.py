"""What happens to instances, as EventBridge tells it to an SQS queue. moto has the bus and the queue, but no events.

Source: EC2 User Guide, "Automate Amazon EC2 using EventBridge" (EC2 instance state-change notification).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from moto.events.models import events_backends
from moto.sqs.models import sqs_backends

from demo.aws.clock import Clock
from demo.aws.rules import Call

SOURCE = "aws.ec2"
STATE_CHANGE = "EC2 Instance State-change Notification"
_STATES = {
    "RunInstances": ("pending", "running"),
    "StartInstances": ("pending", "running"),
    "StopInstances": ("stopping", "stopped"),
    "TerminateInstances": ("shutting-down", "terminated"),
}


def state_change(instance: str, state: str, *, account: str, region: str, clock: Clock) -> dict[str, Any]:
    """One event as it arrives in the queue; `state` is in EC2's words, such as `running`."""
    return {
        "version": "0",
        "id": str(uuid4()),
        "detail-type": STATE_CHANGE,
        "source": SOURCE,
        "account": account,
        "time": clock.today().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [f"arn:aws:ec2:{region}:{account}:instance/{instance}"],
        "detail": {"instance-id": instance, "state": state},
    }


def publish(event: dict[str, Any]) -> None:
    """Put an event on the account's default bus; the queues of all rules that match it get it, whole.

    moto would leave the account out of what it sends.
    """
    bus = events_backends[event["account"]][event["region"]].describe_event_bus("default")
    message: Any = event
    for rule in list(bus.rules.values()):
        if rule.state != "ENABLED" or not rule.event_pattern.matches_event(message):
            continue
        for target in rule.targets:
            _, _, service, region, account, queue = target["Arn"].split(":", 5)
            if service == "sqs":
                sqs_backends[account][region].send_message(queue_name=queue, message_body=json.dumps(event))


class Announcer:
    """Publishes the state changes that successful calls bring about, while `on`."""

    def __init__(self, clock: Clock) -> None:
        self.on = False
        self._clock = clock

    def told(self, call: Call, instances: Iterable[str]) -> None:
        """An EC2 call that concerned `instances` was answered."""
        if not self.on:
            return
        for state in _STATES.get(call.operation, ()):
            for instance in instances:
                caller = call.caller
                event = state_change(instance, state, account=caller.account, region=caller.region, clock=self._clock)
                publish(event)
