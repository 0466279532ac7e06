"""State changes of instances, from the bus into a queue."""

from __future__ import annotations

import json
from typing import Any

from demo.aws import ACCOUNT, REGION, EmulatedAws
from tests.demo.aws.tools import run


def received(aws: EmulatedAws, url: str) -> list[dict[str, Any]]:
    sqs = aws.client("sqs")
    found = []
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            found.append(json.loads(message["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found


def test_events_of_an_instance_reach_the_queue(aws: EmulatedAws, ec2: Any) -> None:
    url = aws.queue()
    instance, _ = run(aws)
    assert received(aws, url) == []  # not announced
    sent = aws.state_changed(instance, "running")
    assert received(aws, url) == [sent]
    assert sent["detail"] == {"instance-id": instance, "state": "running"}
    assert sent["resources"] == [f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{instance}"]
    aws.client("sqs").send_message(QueueUrl=url, MessageBody=json.dumps(sent))  # at least once means twice at times
    assert received(aws, url) == [sent]
    aws.announce()
    other, _ = run(aws)
    ec2.stop_instances(InstanceIds=[instance])
    ec2.terminate_instances(InstanceIds=[other])
    aws.announce(on=False)
    ec2.start_instances(InstanceIds=[instance])
    told = [(event["detail"]["instance-id"], event["detail"]["state"]) for event in received(aws, url)]
    assert told == [
        (other, "pending"),
        (other, "running"),
        (instance, "stopping"),
        (instance, "stopped"),
        (other, "shutting-down"),
        (other, "terminated"),
    ]
