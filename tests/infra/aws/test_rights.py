"""Every IAM document that the components make: what the policies' data says, and nothing else."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

import boto3
import pytest
from moto import mock_aws

from demo.aws.policy import Policy
from infra.aws import policies
from infra.aws.common import default_external_id
from infra.aws.organization import member_template
from infra.aws.policies import Setup
from tests.infra.aws.components import CLASSES, KEY, READER, TRUSTED, full, make, plain
from tests.infra.aws.graph import ACCOUNT, REGION, Graph, run, statements

QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:prod-evt"
RULE = f"arn:aws:events:{REGION}:{ACCOUNT}:prod-evt-{REGION}"
LENDING = Setup("acme", any_snapshot=True, scanner_account=READER, copy_key=KEY, keys=(KEY,))
SECRETS = [
    f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:prod-tok",
    f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:prod-key",
    f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:rds!db-prod-db-a1B2c3",
]
REPOSITORY = f"arn:aws:ecr:{REGION}:{READER}:repository/kumomori"


def documents(graph: Graph) -> list[tuple[str, Mapping[str, Any]]]:
    """Every document in a graph, with the resource that bears it."""
    found = []
    for one in graph.made:
        kind = one.type.rpartition(":")[2]
        names = [name for name in ("policy", "assumeRolePolicy") if name in one.inputs]
        found += [(f"{kind} {one.name} {name}", json.loads(one.inputs[name])) for name in names]
        if "templateBody" in one.inputs:
            role = json.loads(one.inputs["templateBody"])["Resources"]["Scanner"]["Properties"]
            found.append((f"{one.name} trust", role["AssumeRolePolicyDocument"]))
            found += [(f"{one.name} {inner['PolicyName']}", inner["PolicyDocument"]) for inner in role["Policies"]]
    return found


ALL = [
    pytest.param(where, statement, id=f"{of.__name__}-{kind}-{where}-{statement['Sid']}".replace(" ", "-"))
    for kind in CLASSES
    for of in (plain, full)
    for where, document in documents(of(kind))
    for statement in document["Statement"]
]
# Of these AWS offers no narrower resource; see `infra/aws/policies.py` and `infra/aws/running.py`.
EVERYWHERE = {
    "KumomoriInventory",
    "KumomoriListAccounts",
    "KumomoriLook",
    "KumomoriRegistry",
    "KumomoriShell",
    "KumomoriDescribeKeys",
    "KumomoriDecrypt",
    "KumomoriDecryptLent",
    "KumomoriCopyKeys",
    "KumomoriCopyGrant",
}


@pytest.mark.parametrize(("where", "statement"), ALL)
def test_no_wildcards(where: str, statement: Mapping[str, Any]) -> None:
    if statement["Effect"] == "Deny":
        assert statement["Sid"] == "KumomoriOnlyTls"
        return
    if where.startswith("VpcEndpoint"):
        return  # it gives no right: see test_what_gets_through_an_endpoint
    actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    assert actions
    assert not [action for action in actions if "*" in action]
    assert "NotAction" not in statement
    assert "NotResource" not in statement
    principal = statement.get("Principal", {})
    assert "*" not in json.dumps(principal)
    resources = statement.get("Resource", [])
    for resource in [resources] if isinstance(resources, str) else resources:
        assert resource != "*" or statement["Sid"] in EVERYWHERE, where


@pytest.mark.parametrize("kind", CLASSES)
def test_sizes(kind: str) -> None:
    """An inline policy of a role has at most 10,240 characters, all of a role together; a trust policy 2,048."""
    for of in (plain, full):
        sizes: dict[str, int] = {}
        for one in of(kind).of("RolePolicy"):
            role = str(one.inputs["role"])
            sizes[role] = sizes.get(role, 0) + len(one.inputs["policy"])
        assert not [role for role, size in sizes.items() if size > 10_240]
        assert not [one.name for one in of(kind).of("Role") if len(one.inputs["assumeRolePolicy"]) > 2_048]


def test_a_protected_account_has_the_policies_of_the_data() -> None:
    graph = plain("account")
    assert graph.one("Role").inputs["name"] == "KumomoriScanner"
    assert graph.one("RolePolicy", "scan").policy == policies.scanner(Setup("acme"))
    assert graph.one("RolePolicy", "evt").policy == policies.events(QUEUE)
    assert graph.one("QueuePolicy").policy == policies.queue_access(QUEUE, RULE)
    trust = json.loads(graph.one("Role").inputs["assumeRolePolicy"])
    assert trust == policies.trust(TRUSTED, default_external_id("acme", ACCOUNT))


def test_all_that_can_be_asked_for() -> None:
    graph = full("account")
    assert graph.one("RolePolicy", "scan").policy == policies.scanner(LENDING)
    assert graph.one("RolePolicy", "resp").policy == policies.responder(LENDING)
    assert graph.one("RolePolicy", "read").policy == policies.reader(LENDING)
    for role in ("scan", "resp", "read"):
        trust = json.loads(graph.one("Role", role).inputs["assumeRolePolicy"])
        assert trust == policies.trust(TRUSTED, "word-1")
    grant = graph.one("Grant").inputs
    assert (grant["keyId"], grant["operations"]) == (KEY, ["Decrypt", "DescribeKey"])
    assert grant["granteePrincipal"] == f"arn:aws:iam::{ACCOUNT}:role/Scanner"


def test_the_responder_is_off_by_default() -> None:
    allowed = {
        action
        for _, document in documents(plain("account"))
        for action in policies.actions(dict(document))
        if ":" in action
    }
    assert not allowed & policies.actions(policies.responder(Setup("acme"))) - policies.actions(
        policies.scanner(Setup("acme"))
    )


def test_events_of_other_regions_reach_the_queue_of_the_first() -> None:
    graph = full("account")
    bus = f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/default"
    targets = {one.inputs["region"]: one.inputs for one in graph.of("EventTarget")}
    assert {region: target["arn"] for region, target in targets.items()} == {
        REGION: QUEUE,
        "us-east-1": bus,
        "ap-southeast-2": bus,
    }
    assert "roleArn" not in targets[REGION]
    assert targets["us-east-1"]["roleArn"] == f"arn:aws:iam::{ACCOUNT}:role/prod-fwd"
    (forward,) = statements(graph.one("RolePolicy", "fwd").policy)
    assert (forward["Action"], forward["Resource"]) == (["events:PutEvents"], bus)
    assert {json.dumps(json.loads(one.inputs["eventPattern"])) for one in graph.of("EventRule")} == {
        json.dumps(policies.event_pattern())
    }
    assert {one.inputs["region"] for one in graph.of("EventRule")} == set(targets)


def service_trusts(graph: Graph) -> dict[str, Mapping[str, Any]]:
    """By the name of the role, the statement of those that a service of AWS takes."""
    found = {one.name: json.loads(one.inputs["assumeRolePolicy"])["Statement"] for one in graph.of("Role")}
    return {name: one for name, (one,) in found.items() if "Service" in one["Principal"]}


def test_services_act_for_this_account_alone() -> None:
    """Where AWS documents the keys. EC2 and the start of a task take no role of another account, and name no source."""
    rules = f"arn:aws:events:*:{ACCOUNT}:rule/kumomori-prod-*"
    tasks = f"arn:aws:ecs:{REGION}:{ACCOUNT}:*"
    expected = {
        "prod-fwd": ("events.amazonaws.com", rules),
        "prod-start": ("ecs-tasks.amazonaws.com", None),
        "prod-task": ("ecs-tasks.amazonaws.com", tasks),
        "prod-work": ("ec2.amazonaws.com", None),
    }
    found = {name: one for kind in CLASSES for name, one in service_trusts(full(kind)).items()}
    assert found.keys() == expected.keys()
    for name, (service, source) in expected.items():
        assert (found[name]["Principal"], found[name]["Action"]) == ({"Service": service}, "sts:AssumeRole")
        condition = {"StringEquals": {"aws:SourceAccount": ACCOUNT}, "ArnLike": {"aws:SourceArn": source}}
        assert found[name].get("Condition") == (condition if source else None), name


def test_rules_are_called_as_their_role_expects() -> None:
    for rule in full("account").of("EventRule"):
        assert rule.inputs["namePrefix"] == "kumomori-prod-"


OTHER = "999999999999"
LAYER = f"arn:aws:s3:::prod-{REGION}-starport-layer-bucket/layer"
PACKAGE = f"arn:aws:s3:::al2023-repos-{REGION}-de612dc2/core/docker.rpm"
MANIFEST = "arn:aws:s3:::prod-man-1a2b3c4/eu/manifest"
SNAPSHOT = f"arn:aws:ec2:{REGION}::snapshot/snap-1"


@pytest.mark.parametrize(
    ("endpoint", "action", "resource", "principal", "passes"),
    [
        pytest.param("sts", "sts:AssumeRole", f"arn:aws:iam::{READER}:role/KumomoriScanner", ACCOUNT, True, id="a-role-elsewhere"),
        pytest.param("sts", "sts:GetCallerIdentity", "*", "333333333333", True, id="who-it-is-there"),
        pytest.param("ebs", "ebs:GetSnapshotBlock", SNAPSHOT, "333333333333", True, id="blocks-of-another-account"),
        pytest.param("ec2", "ec2:DescribeInstances", "*", "333333333333", True, id="instances-of-another-account"),
        pytest.param("sqs", "sqs:ReceiveMessage", QUEUE, "333333333333", True, id="events-of-another-account"),
        pytest.param("kms", "kms:DescribeKey", KEY, "333333333333", True, id="key-of-another-account"),
        pytest.param("secretsmanager", "secretsmanager:GetSecretValue", SECRETS[0], ACCOUNT, True, id="secret"),
        pytest.param("ecr.api", "ecr:GetAuthorizationToken", "*", ACCOUNT, True, id="registry"),
        pytest.param("ecr.dkr", "ecr:BatchGetImage", REPOSITORY, ACCOUNT, True, id="image"),
        pytest.param("s3", "s3:PutObject", MANIFEST, ACCOUNT, True, id="manifest"),
        pytest.param("s3", "s3:GetObject", LAYER, OTHER, True, id="layer-signed-by-ecr"),
        pytest.param("s3", "s3:GetObject", PACKAGE, "", True, id="package-unsigned"),
        pytest.param("sts", "sts:AssumeRole", f"arn:aws:iam::{OTHER}:role/Mine", OTHER, False, id="foreign-key-sts"),
        pytest.param("ebs", "ebs:PutSnapshotBlock", SNAPSHOT, OTHER, False, id="foreign-key-ebs"),
        pytest.param("sqs", "sqs:SendMessage", f"arn:aws:sqs:{REGION}:{OTHER}:out", OTHER, False, id="foreign-key-sqs"),
        pytest.param("secretsmanager", "secretsmanager:PutSecretValue", "*", "333333333333", False, id="no-secret-of-a-scanned-account"),
        pytest.param("ecr.dkr", "ecr:PutImage", REPOSITORY, OTHER, False, id="foreign-key-ecr"),
        pytest.param("s3", "s3:PutObject", "arn:aws:s3:::out/disk", OTHER, False, id="foreign-key-s3"),
        pytest.param("s3", "s3:PutObject", "arn:aws:s3:::out/disk", "", False, id="unsigned"),
        pytest.param("s3", "s3:PutObject", PACKAGE, OTHER, False, id="nothing-is-put-there"),
    ],
)  # fmt: skip
def test_what_gets_through_an_endpoint(endpoint: str, action: str, resource: str, principal: str, *, passes: bool) -> None:  # fmt: skip
    """As it is evaluated. `principal`: the account whose key signed the call; empty for none."""
    (made,) = [one for one in full("fleet").of("VpcEndpoint") if one.inputs["serviceName"].endswith(f"{REGION}.{endpoint}")]  # fmt: skip
    read = made.policy
    assert [one.pop("Principal") for one in read["Statement"]] == ["*"] * len(read["Statement"])
    signed = {"aws:principalaccount": [principal]} if principal else {}
    assert Policy(read).allows(action, resource, signed) is passes


def test_a_fleet_takes_the_roles_of_its_accounts_and_no_other() -> None:
    (take,) = statements(plain("fleet").one("RolePolicy", "take").policy)
    assert take["Resource"] == [
        f"arn:aws:iam::{ACCOUNT}:role/KumomoriScanner",
        "arn:aws:iam::333333333333:role/KumomoriScanner",
    ]
    work = {one["Sid"]: one for one in statements(plain("fleet").one("RolePolicy", "work").policy)}
    assert work["KumomoriSecrets"]["Resource"] == SECRETS
    assert work["KumomoriSecrets"]["Action"] == ["secretsmanager:GetSecretValue"]
    assert work["KumomoriImage"]["Resource"] == REPOSITORY
    assert work["KumomoriManifests"]["Resource"] == "arn:aws:s3:eu-central-1:111122223333:prod-man/*"
    assert set(work) == {
        "KumomoriManifests",
        "KumomoriListManifests",
        "KumomoriManifestKey",
        "KumomoriSecrets",
        "KumomoriRegistry",
        "KumomoriImage",
    }


@pytest.mark.parametrize(("kind", "role"), [("fleet", "work"), ("console", "strt")])
def test_a_password_under_a_key_of_yours_can_be_read(kind: str, role: str) -> None:
    """RDS encrypts the secret with it; AWS's own key lets in whoever may read the secret, a customer's does not."""
    graph = run(lambda: make(kind, database_key=KEY))
    assert graph.one("Instance").inputs["masterUserSecretKmsKeyId"] == KEY
    found = {one["Sid"]: one for one in statements(graph.one("RolePolicy", role).policy)}
    via = {"StringLike": {"kms:ViaService": "secretsmanager.*.amazonaws.com*"}}
    assert (found["KumomoriSecretsKey"]["Action"], found["KumomoriSecretsKey"]["Resource"]) == (["kms:Decrypt"], KEY)
    assert found["KumomoriSecretsKey"]["Condition"] == via


def test_a_console_enters_no_cloud() -> None:
    graph = plain("console")
    assert [one.name for one in graph.of("RolePolicy")] == ["prod-strt"], "the tasks themselves have no right"
    start = {one["Sid"]: one for one in statements(graph.one("RolePolicy").policy)}
    assert start["KumomoriSecrets"]["Resource"] == SECRETS[2:]
    assert graph.one("Service").inputs["enableExecuteCommand"] is False
    assert {one.name for one in full("console").of("RolePolicy")} == {"prod-strt", "prod-shel"}


def test_the_organization_lists_and_takes() -> None:
    graph = full("organization")
    setup = Setup("acme", any_snapshot=True)
    assert graph.one("RolePolicy").policy == policies.organization(setup, ["Scanner"])
    assert json.loads(graph.one("Role").inputs["assumeRolePolicy"]) == policies.trust(TRUSTED, "acme-4711")
    stack_set = graph.one("StackSet").inputs
    assert json.loads(stack_set["templateBody"]) == member_template(setup, "Scanner", TRUSTED, "acme-4711")
    assert (stack_set["permissionModel"], stack_set["callAs"]) == ("SERVICE_MANAGED", "DELEGATED_ADMIN")
    assert stack_set["autoDeployment"] == {"enabled": True, "retainStacksOnAccountRemoval": False}
    instances = graph.one("StackInstances").inputs
    assert instances["retainStacks"] is False
    assert instances["deploymentTargets"] == {"organizationalUnitIds": ["ou-ab12-11111111"]}


def test_the_members_template_is_one_that_cloudformation_takes() -> None:
    """Deployed into an emulator: the role is there, with the policy, and taken away without a trace."""
    setup = Setup("acme")
    template = json.dumps(member_template(setup, "KumomoriScanner", TRUSTED, "acme-4711"))
    assert len(template) <= 51_200
    with mock_aws():
        cloudformation = boto3.client("cloudformation", REGION, aws_access_key_id="a", aws_secret_access_key="b")
        iam = boto3.client("iam", REGION, aws_access_key_id="a", aws_secret_access_key="b")
        cloudformation.create_stack(StackName="k", TemplateBody=template, Capabilities=["CAPABILITY_NAMED_IAM"])
        role = iam.get_role(RoleName="KumomoriScanner")["Role"]
        assert role["AssumeRolePolicyDocument"] == policies.trust(TRUSTED, "acme-4711")
        policy = iam.get_role_policy(RoleName="KumomoriScanner", PolicyName="scanner")
        assert ast.literal_eval(str(policy["PolicyDocument"])) == policies.scanner(setup)  # moto writes it Python's way
        cloudformation.delete_stack(StackName="k")
        assert not iam.list_roles()["Roles"]
