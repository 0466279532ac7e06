"""Which permissions a call needs: on each resource that it touches, with the tags that it asks for and finds.

Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon EC2", "… Amazon EBS", "… AWS KMS".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moto.ec2.models import ec2_backends

from demo.aws.ec2_params import Params, tags_of
from demo.aws.policy import Context, Policy
from demo.aws.rules import Call, Caller, Rules

_FREE = {"sts:GetCallerIdentity"}  # allowed to everybody
_NEW_SNAPSHOT = {"CreateSnapshot", "CreateSnapshots", "CopySnapshot"}
_LISTS = ("Describe", "List")


@dataclass(frozen=True, slots=True)
class Need:
    """A permission for `action` on `resource` (an ARN, or `*`) in a context that conditions may look at."""

    action: str
    resource: str
    context: Context


def needs(call: Call, params: Params) -> Iterator[Need]:
    """All that must be allowed for a call to go on; `params` are those of an EC2 call, else empty."""
    if call.action in _FREE:
        return
    caller = call.caller
    asked = _request_tags(tags_of(params, "snapshot") or _plain_tags(params))
    here: dict[str, list[str]] = {"aws:requestedregion": [caller.region]}
    if call.service == "ec2" and call.operation.startswith(_LISTS):
        yield Need(call.action, "*", here)
        return
    resources = list(call.resources)
    if call.operation == "CreateSnapshots":
        resources += [_volume_arn(caller, name) for name in _volumes(caller, resources)]
    for resource in resources:
        old = _resource_tags(resource, caller)
        yield Need(call.action, resource, here | old | (asked if call.operation == "CreateTags" else {}))
    if call.service == "ec2" and call.operation in _NEW_SNAPSHOT:
        new = f"arn:aws:ec2:{caller.region}::snapshot/new"
        yield Need(call.action, new, here | asked)
        if asked:
            yield Need("ec2:CreateTags", new, here | asked | {"ec2:createaction": [call.operation]})
    elif not resources:
        yield Need(call.action, "*", here | asked)


def refusal(rules: Rules, caller: Caller, wanted: Iterator[Need]) -> Need | None:
    """The first need that the policies of the caller do not allow; None if they do, or if it has none."""
    policies = [policy for pattern, policy in rules.policies if caller.is_like(pattern)]
    if not policies:
        return None
    return next((need for need in wanted if not allowed(policies, need)), None)


def allowed(policies: list[Policy], need: Need) -> bool:
    return any(policy.allows(need.action, need.resource, need.context) for policy in policies)


def _plain_tags(params: Params) -> dict[str, str]:
    """Those of CreateTags."""
    return {str(tag.get("Key")): str(tag.get("Value", "")) for tag in params.get("Tags") or ()}


def _request_tags(tags: Mapping[str, str]) -> dict[str, list[str]]:
    if not tags:
        return {}
    context = {f"aws:requesttag/{key.lower()}": [value] for key, value in tags.items()}
    return context | {"aws:tagkeys": list(tags)}


def _resource_tags(resource: str, caller: Caller) -> dict[str, list[str]]:
    """Tags of what an account has itself, under both names that conditions have for them."""
    if not resource.startswith("arn:aws:ec2:"):
        return {}
    tags: dict[str, Any] = ec2_backends[caller.account][caller.region].tags.get(resource.rpartition("/")[2], {})
    context: dict[str, list[str]] = {}
    for key, value in tags.items():
        context[f"aws:resourcetag/{key.lower()}"] = context[f"ec2:resourcetag/{key.lower()}"] = [str(value)]
    return context


def _volumes(caller: Caller, resources: list[str]) -> list[str]:
    backend = ec2_backends[caller.account][caller.region]
    wanted = {resource.rpartition("/")[2] for resource in resources if ":instance/" in resource}
    found = [instance for instance in backend.all_instances() if instance.id in wanted]
    return [mapping.volume_id for instance in found for mapping in instance.block_device_mapping.values()]


def _volume_arn(caller: Caller, name: str) -> str:
    return f"arn:aws:ec2:{caller.region}:{caller.account}:volume/{name}"
