"""What serverless.yml declares, read without osls: its own resources, and the statements of its roles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
PARTS = ("events.yml", "scan-on.yml")


def resources() -> dict[str, dict[str, Any]]:
    """By logical name, those that serverless.yml itself names; what osls makes of functions is in its compiled template."""
    found: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        read = yaml.safe_load((ROOT / "infra" / "serverless" / part).read_text())
        found |= read.get("Resources") or read["resources"]["Resources"]
    return found


def statements(role: str, *, installation: str = "acme", region: str = "us-east-1") -> list[dict[str, Any]]:
    """Of the policies of `role`, as plain IAM: what CloudFormation fills in is a wildcard, but region and installation."""
    policies = resources()[role]["Properties"]["Policies"]
    found = [one for policy in policies for one in policy["PolicyDocument"]["Statement"]]
    text = json.dumps([_plain(one, region) for one in found])
    return list(json.loads(text.replace("${param:installation}", installation)))


def _plain(value: Any, region: str) -> Any:
    if isinstance(value, list):
        return [_plain(one, region) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Ref"}:
        return region if value["Ref"] == "AWS::Region" else "*"
    if set(value) == {"Fn::GetAtt"}:
        return "*"
    if set(value) == {"Fn::Sub"}:
        filled = str(value["Fn::Sub"]).replace("${AWS::Partition}", "aws").replace("${AWS::Region}", region)
        return filled.replace("${AWS::AccountId}", "*")
    return {key: _plain(one, region) for key, one in value.items()}


def functions() -> dict[str, dict[str, Any]]:
    """By name, those with all parameters on."""
    read = yaml.safe_load((ROOT / "serverless.yml").read_text())["functions"]
    scan = yaml.safe_load((ROOT / "infra" / "serverless" / "scan-on.yml").read_text())["functions"]
    return {**next(one for one in read if isinstance(one, dict)), **scan}


def fixed_names() -> list[tuple[str, str]]:
    """Types of CloudFormation and, as patterns, names in AWS: of our own resources and of those that osls makes of functions.

    Rules of schedules and roles are named by CloudFormation after the stack.
    """
    stage = "[A-Za-z0-9-]+"
    found = [
        (
            one["Type"],
            one["Properties"]["QueueName"].replace("${self:service}", "kumomori").replace("${sls:stage}", stage),
        )
        for one in resources().values()
        if "QueueName" in one["Properties"]
    ]
    for name, one in functions().items():
        found.append(("AWS::Lambda::Function", f"kumomori-{stage}-{name}"))
        found.append(("AWS::Logs::LogGroup", f"/aws/lambda/kumomori-{stage}-{name}"))
        if any("eventBridge" in event for event in one["events"]):
            found.append(("AWS::Events::Rule", f"kumomori-{stage}-{name}-rule-1"))
    return found
