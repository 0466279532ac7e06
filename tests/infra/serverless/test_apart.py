"""No resource stands in both serverless.yml and the Pulumi components: an account has what one of them makes, or both side by side."""

from __future__ import annotations

import re

from infra.aws.policies import event_pattern
from tests.infra.aws import components
from tests.infra.aws.graph import Made
from tests.infra.serverless.declared import ROOT, fixed_names, functions, resources

KINDS = {
    "AWS::Events::Rule": "aws:cloudwatch/eventRule:EventRule",
    "AWS::IAM::Role": "aws:iam/role:Role",
    "AWS::Lambda::Function": "aws:lambda/function:Function",
    "AWS::Logs::LogGroup": "aws:cloudwatch/logGroup:LogGroup",
    "AWS::SQS::Queue": "aws:sqs/queue:Queue",
}


def pulumi_resources() -> list[Made]:
    """All that the components make, each as plain and as full as it can be."""
    found = [
        one
        for kind in components.CLASSES
        for graph in (components.plain(kind), components.full(kind))
        for one in graph.made
    ]
    assert {KINDS[kind] for kind in KINDS if kind != "AWS::Lambda::Function"} <= {one.type for one in found}
    return found


def test_names_are_apart() -> None:
    """By type and name in AWS. One without a fixed name is called by Pulumi, or CloudFormation, after its own stack."""
    theirs: dict[str, set[str]] = {}
    for one in pulumi_resources():
        name = one.inputs.get("name") or one.inputs.get("namePrefix")
        theirs.setdefault(one.type, set()).add(str(name or one.name))
    for kind, pattern in fixed_names():
        for name in theirs.get(KINDS[kind], ()):
            assert not re.fullmatch(pattern, name), f"{kind} {name} stands in both"


def test_logical_names_are_apart() -> None:
    assert not {one.name for one in pulumi_resources()} & set(resources())


def test_functions_are_of_serverless_only() -> None:
    """Neither makes the other's kind of thing: no function, and no schedule, is Pulumi's."""
    for one in pulumi_resources():
        assert not one.type.startswith(("aws:lambda/", "aws:scheduler/")), one.type
        assert not one.inputs.get("scheduleExpression"), one.name


def test_both_hear_the_same_events() -> None:
    """So an account with both would hear each twice, which is harmless (`fold`), and needs one of them only (docs/iac.md)."""
    rules = [one for one in pulumi_resources() if one.type == KINDS["AWS::Events::Rule"]]
    patterns = [one.inputs.get("eventPattern") for one in rules]
    assert any(event_pattern()["source"][0] in str(one) for one in patterns)


def test_the_set_of_serverless() -> None:
    """What the comparison rests on: seen here, so that it cannot become empty."""
    assert {pattern for kind, pattern in fixed_names() if kind == "AWS::SQS::Queue"} == {
        "kumomori-[A-Za-z0-9-]+-events",
        "kumomori-[A-Za-z0-9-]+-dead-events",
    }
    assert {kind for kind, _ in fixed_names()} == set(KINDS) - {"AWS::IAM::Role"}
    assert set(resources()) == {
        *("EventsQueue", "DeadEventsQueue", "EventsQueuePolicy"),
        *("OnInstanceRole", "ReconcileRole", "SweepRole", "ScanRole"),
    }


def test_no_queue_is_reached_without_tls() -> None:
    queues = {name for name, one in resources().items() if one["Type"] == "AWS::SQS::Queue"}
    policy = resources()["EventsQueuePolicy"]["Properties"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert {one["Ref"] for one in policy["Queues"]} == {one["Fn::GetAtt"][0] for one in statement["Resource"]} == queues
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", ["sqs:*"])
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_every_parameter_is_documented() -> None:
    text = (ROOT / "docs" / "iac.md").read_text()
    files = [ROOT / "serverless.yml", *(ROOT / "infra" / "serverless").glob("*.yml")]
    asked = {name for file in files for name in re.findall(r"\$\{param:([A-Za-z]+)", file.read_text())}
    assert len(asked) > 10
    assert not [name for name in sorted(asked) if name not in text]
    listed = text.partition("| `--param=…` | |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in listed.splitlines() if row.count("|") > 2]
    told = {name for row in rows for name in re.findall(r"`([A-Za-z]+)", row)}
    assert {"scanImage", "database"} <= told <= asked, "the table names what nobody asks for"
    names = [*functions(), "kumomori-STAGE-dead-events"]
    assert not [name for name in names if f"`{name}`" not in text]
