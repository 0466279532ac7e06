"""What the components make, held to what must be so for all of them at once: private, encrypted, tagged, no right too many."""

from __future__ import annotations

import inspect
import ipaddress
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from infra.aws.common import MOST_NAME
from tests.infra.aws.components import CLASSES, full, make, plain
from tests.infra.aws.graph import Graph, Made, run

GOLDEN = Path(__file__).with_name("resources.json")
GRAPHS = [pytest.param(of(kind), id=f"{of.__name__}-{kind}") for kind in CLASSES for of in (plain, full)]
# Suffix that Pulumi adds to a name, and the limits of AWS: IAM, ELB, RDS, ECS, S3, SQS, Auto Scaling, EC2, CloudFormation.
_ADDED = 8
LIMITS = {
    "Role": 64,
    "RolePolicy": 128,
    "InstanceProfile": 128,
    "LoadBalancer": 32,
    "TargetGroup": 32,
    "Instance": 63,
    "SubnetGroup": 255,
    "ParameterGroup": 255,
    "Cluster": 255,
    "Service": 255,
    "Bucket": 63,
    "Queue": 80,
    "Group": 255,
    "LaunchTemplate": 128,
    "SecurityGroup": 255,
    "StackSet": 128,
    "LogGroup": 512,
    "Secret": 512,
}


def test_golden() -> None:
    """A resource more or less is seen in review. To renew: `python -m tests.infra.aws.renew`."""
    assert json.loads(GOLDEN.read_text()) == golden()


def golden() -> dict[str, Any]:
    return {kind: {"plain": plain(kind).types(), "full": full(kind).types()} for kind in CLASSES}


def every(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All that stands anywhere in the inputs of a resource, with where."""
    yield path, value
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from every(one, f"{path}.{key}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from every(one, f"{path}[{number}]")


@pytest.mark.parametrize("graph", GRAPHS)
def test_nothing_is_public(graph: Graph) -> None:
    for one in graph.made:
        for path, value in every(one.inputs):
            last = path.rpartition(".")[2].lower()
            if "public" in last:
                is_right = (
                    value in (True, "true")
                    if one.type.endswith("BucketPublicAccessBlock")
                    else value in (False, "false")
                )
                assert is_right or last == "restrictpublicbuckets", f"{one.name}{path}"
            assert last not in ("acl", "website", "corsrules"), f"{one.name}{path}"
    for balancer in graph.of("LoadBalancer"):
        assert balancer.inputs["internal"] is True
    for service in graph.of("Service"):
        assert service.inputs["networkConfiguration"]["assignPublicIp"] is False
    for template in graph.of("LaunchTemplate"):
        assert [card["associatePublicIpAddress"] for card in template.inputs["networkInterfaces"]] == ["false"]
        assert "keyName" not in template.inputs
    for bucket in graph.of("Bucket"):
        assert graph.one("BucketPublicAccessBlock").inputs["bucket"] == f"{bucket.name}-id"


@pytest.mark.parametrize("graph", GRAPHS)
def test_networks(graph: Graph) -> None:
    """Nothing comes in but from groups of ours and private networks; nothing goes out but HTTPS and to groups of ours."""
    for group in graph.of("SecurityGroup"):
        assert not group.inputs.get("ingress")
        assert not group.inputs.get("egress")
    for rule in graph.of("SecurityGroupIngressRule"):
        source = rule.inputs.get("cidrIpv4")
        assert (source is None) != ("referencedSecurityGroupId" not in rule.inputs)
        assert source is None or ipaddress.ip_network(source).is_private
    for rule in [*graph.of("SecurityGroupIngressRule"), *graph.of("SecurityGroupEgressRule")]:
        assert rule.inputs["ipProtocol"] == "tcp"
        assert rule.inputs["fromPort"] == rule.inputs["toPort"]
        assert "cidrIpv6" not in rule.inputs
    for rule in graph.of("SecurityGroupEgressRule"):
        if "cidrIpv4" in rule.inputs:
            assert rule.inputs["fromPort"] == 443


def test_nothing_comes_into_a_fleet() -> None:
    for of in (plain, full):
        groups = {rule.name for rule in of("fleet").of("SecurityGroupIngressRule")}
        assert groups <= {"prod-dbin", "prod-epin"}, "only databases and endpoints are reached"


@pytest.mark.parametrize("graph", GRAPHS)
def test_everything_is_encrypted(graph: Graph) -> None:
    for queue in graph.of("Queue"):
        assert queue.inputs["sqsManagedSseEnabled"] is True
        (statement,) = [one for one in graph.one("QueuePolicy").policy["Statement"] if one["Effect"] == "Deny"]
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    for instance in graph.of("Instance"):
        assert instance.inputs["storageEncrypted"] is True
        assert instance.inputs["manageMasterUserPassword"] is True
        assert "password" not in instance.inputs
        (parameter,) = graph.one("ParameterGroup").inputs["parameters"]
        assert (parameter["name"], parameter["value"]) == ("rds.force_ssl", "1")
    for _ in graph.of("Bucket"):
        (rule,) = graph.one("BucketServerSideEncryptionConfiguration").inputs["rules"]
        assert rule["applyServerSideEncryptionByDefault"]["sseAlgorithm"] == "aws:kms"
        (statement,) = graph.one("BucketPolicy").policy["Statement"]
        assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    for template in graph.of("LaunchTemplate"):
        assert [disk["ebs"]["encrypted"] for disk in template.inputs["blockDeviceMappings"]] == ["true"]
    for listener in graph.of("Listener"):
        assert (listener.inputs["protocol"], listener.inputs["port"]) == ("HTTPS", 443)
        assert "TLS13" in listener.inputs["sslPolicy"]
    for key in graph.of("Key"):
        assert key.inputs["enableKeyRotation"] is True


@pytest.mark.parametrize("graph", GRAPHS)
def test_everything_is_tagged(graph: Graph) -> None:
    tagged = 0
    for one in graph.made:
        if one.type.endswith(":Group"):
            assert [(tag["key"], tag["value"], tag["propagateAtLaunch"]) for tag in one.inputs["tags"]] == [
                ("kumomori:installation", "acme", True)
            ]
        elif takes_tags(one):
            assert one.inputs["tags"] == {"kumomori:installation": "acme"}, one.name
            tagged += 1
    assert tagged
    for template in graph.of("LaunchTemplate"):
        for specification in template.inputs["tagSpecifications"]:
            assert specification["tags"] == {"kumomori:installation": "acme"}
    for stack_set in graph.of("StackSet"):
        for resource in json.loads(stack_set.inputs["templateBody"])["Resources"].values():
            assert resource["Properties"]["Tags"] == [{"Key": "kumomori:installation", "Value": "acme"}]


def takes_tags(one: Made) -> bool:
    module, _, name = one.type.removeprefix("aws:").partition("/")
    of = getattr(import_module(f"pulumi_aws.{module}"), name.rpartition(":")[2])
    return "tags" in inspect.signature(of._internal_init).parameters


@pytest.mark.parametrize("graph", GRAPHS)
def test_regional_resources_are_where_they_were_asked_for(graph: Graph) -> None:
    """Whatever region the provider has: a queue elsewhere than its rule would never be filled."""
    for one in graph.made:
        module, _, name = one.type.removeprefix("aws:").partition("/")
        of = getattr(import_module(f"pulumi_aws.{module}"), name.rpartition(":")[2])
        if "region" in inspect.signature(of._internal_init).parameters:
            assert one.inputs["region"] in ("eu-central-1", "us-east-1", "ap-southeast-2"), one.name


@pytest.mark.parametrize("kind", CLASSES)
def test_names_fit(kind: str) -> None:
    """With the longest name that a component may have."""
    from tests.infra.aws.components import MORE

    graph = run(lambda: make(kind, "x" * MOST_NAME, **MORE[kind]))
    for one in graph.made:
        limit = LIMITS.get(one.type.rpartition(":")[2])
        if limit is not None and "name" not in one.inputs and "namePrefix" not in one.inputs:
            assert len(one.name) + _ADDED <= limit, one.name
        if prefix := one.inputs.get("namePrefix"):
            assert len(prefix) <= 38, one.name  # of a rule, to which 26 are added
        if last := one.inputs.get("finalSnapshotIdentifier"):
            assert len(last) <= 255
            assert "--" not in last
        if "description" in one.inputs:
            assert len(one.inputs["description"]) <= 255


@pytest.mark.parametrize("graph", GRAPHS)
def test_no_secret_stands_in_the_state(graph: Graph) -> None:
    for one in graph.made:
        for path, value in every(one.inputs):
            last = path.rpartition(".")[2].lower()
            assert "password" not in last or isinstance(value, bool), f"{one.name}{path}"
            assert last not in ("secretstring", "token"), f"{one.name}{path}"
            assert not (isinstance(value, str) and "kmt_" in value)
    assert not graph.of("SecretVersion")


@pytest.mark.parametrize("kind", ["fleet", "console"])
def test_what_is_found_outlives_a_mistake(kind: str) -> None:
    database = plain(kind).one("Instance").inputs
    assert database["deletionProtection"] is True
    assert database["skipFinalSnapshot"] is False
    assert database["finalSnapshotIdentifier"].startswith("kumomori-prod-last-sg-")
    assert "kmsKeyId" not in database, "a key of the stack would go with it, and leave a snapshot that nobody can read"
    assert database["backupRetentionPeriod"] >= 7
    assert full("fleet").one("Instance").inputs["kmsKeyId"].startswith("arn:aws:kms:")


def test_manifests_go_with_the_stack() -> None:
    """They hold no finding, and name files: nothing of them stays, no old version either."""
    graph = plain("fleet")
    assert graph.one("Bucket").inputs["forceDestroy"] is True
    assert not graph.of("BucketVersioning")
    assert 7 <= graph.one("Key").inputs["deletionWindowInDays"] <= 30
