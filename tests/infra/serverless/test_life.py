"""serverless.yml by the osls command: printed, packed, deployed into moto, its functions run, removed without a trace.

Not seen here: Lambda running the functions (moto would need Docker; they run by `invoke local` and in tests/cloud/aws/test_functions.py),
a container function (the same; see tests/scanner/fleet/test_function.py), and what moto's CloudFormation does not know (`UNKNOWN_TO_MOTO`).
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloud.aws.events import parse
from cloud.aws.snapshots import Ours
from core.estate import InstanceState, Place
from infra.aws.policies import event_pattern
from tests.cloud.aws.test_events import change
from tests.infra.serverless.conftest import ACCOUNT, BUCKET, REGION, Site
from tests.infra.serverless.declared import ROOT, resources, statements

pytestmark = pytest.mark.slow
MOST_BYTES = 200_000
UNKNOWN_TO_MOTO = {"AWS::Lambda::EventInvokeConfig", "AWS::SQS::QueuePolicy"}
FUNCTIONS = ("onInstance", "reconcile", "sweep")
SCAN = {
    "scan": "on",
    "scanImage": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/kumomori@sha256:{'a' * 64}",
    "scanSubnets": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
    "scanSecurityGroup": "sg-0123456789abcdef0",
    "databaseSecret": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:database-AbCdEf",
    "keysSecret": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:keys-AbCdEf",
    "objectsBucket": "manifests-of-acme",
    "scannerRole": "KumomoriScanner",
}


def test_life_of_a_stack(site: Site) -> None:
    """One test, as its parts build on one another and take seconds each."""
    site.run("deploy", **SCAN)
    compiled = json.loads((site.folder / ".serverless" / "cloudformation-template-update-stack.json").read_text())
    check_package(site)
    check_resources(site, compiled["Resources"])
    check_roles(site)
    check_queues(site)
    assert "stack: kumomori-prod" in site.run("info", **SCAN)
    check_functions(site)
    check_another_installation_is_refused(site)
    site.run("remove", **SCAN)
    check_nothing_is_left(site)
    assert site.proxy.passed > 0
    assert site.proxy.refused == [], "nothing wanted to go to the internet"


def check_package(site: Site) -> None:
    """Only what functions import, and it starts."""
    path = site.folder / ".serverless" / "kumomori.zip"
    assert path.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(path) as package:
        names = set(package.namelist())
        package.extractall(site.folder / "unpacked")
    expected = {str(one.relative_to(ROOT)) for top in ("core", "cloud") for one in (ROOT / top).rglob("*.py")}
    assert names == expected
    program = "import cloud.aws.functions as f; print(f.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, '.'); {program}"],
        cwd=site.folder / "unpacked", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()) == site.folder / "unpacked" / "cloud" / "aws" / "functions.py"


def check_resources(site: Site, compiled: dict[str, Any]) -> None:
    deployed = site.client("cloudformation").list_stack_resources(StackName="kumomori-prod")["StackResourceSummaries"]
    there = {one["LogicalResourceId"] for one in deployed}
    missing = {name: one["Type"] for name, one in compiled.items() if name not in there}
    assert set(missing.values()) == UNKNOWN_TO_MOTO
    kinds = Counter(one["Type"] for one in compiled.values())
    assert kinds == {
        "AWS::Events::Rule": 4,
        "AWS::IAM::Role": 4,
        "AWS::Lambda::EventInvokeConfig": 4,
        "AWS::Lambda::Function": 4,
        "AWS::Lambda::Permission": 4,
        "AWS::Logs::LogGroup": 4,
        "AWS::SQS::Queue": 2,
        "AWS::SQS::QueuePolicy": 1,
    }
    assert set(resources()) < set(compiled)
    concurrency = {one["Properties"].get("ReservedConcurrentExecutions") for one in compiled.values() if one["Type"].endswith("::Function")}  # fmt: skip
    assert concurrency == {1, 2, 5}
    (rule,) = [one["Properties"] for one in compiled.values() if "EventPattern" in one.get("Properties", {})]
    assert rule["EventPattern"] == event_pattern()
    callers = [one["Properties"] for one in compiled.values() if one["Type"] == "AWS::Lambda::Permission"]
    assert len(callers) == 4
    for one in callers:
        assert one["Principal"] == "events.amazonaws.com"
        assert one["SourceArn"], "any rule of any account could call it"
    groups = site.client("logs").describe_log_groups()["logGroups"]
    assert {one["logGroupName"]: one["retentionInDays"] for one in groups} == {
        f"/aws/lambda/kumomori-prod-{name}": 30 for name in (*FUNCTIONS, "scan")
    }
    functions = {one["FunctionName"]: one for one in site.client("lambda").list_functions()["Functions"]}
    for one, handler in zip(FUNCTIONS, ("on_instance", "reconcile", "sweep"), strict=True):
        found = functions[f"kumomori-prod-{one}"]
        assert (found["Handler"], found["Runtime"]) == (f"cloud.aws.functions.{handler}", "python3.13")


def check_roles(site: Site) -> None:
    """Each function has its own role, with the statements that its calls are held against, and nothing else."""
    iam = site.client("iam")
    roles = {one["RoleName"].split("-")[2]: one for one in iam.list_roles()["Roles"]}
    assert set(roles) == {"OnInstanceRole", "ReconcileRole", "SweepRole", "ScanRole"}
    for name, role in roles.items():
        assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"Service": "lambda.amazonaws.com"}
        assert iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"] == []
        (policy,) = iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
        document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=policy)["PolicyDocument"]
        read = ast.literal_eval(document) if isinstance(document, str) else document  # moto keeps it as Python's words
        deployed = {one["Sid"]: one for one in read["Statement"]}
        for declared in statements(name):
            found = deployed.pop(declared["Sid"])
            assert (found["Effect"], found["Action"]) == (declared["Effect"], declared["Action"])
            assert found.get("Condition", {}).keys() == declared.get("Condition", {}).keys()
            if found["Resource"] == ["*"]:
                assert found["Effect"] == "Deny" or all(cannot_be_narrower(action) for action in found["Action"])
            assert "${" not in json.dumps(found)
        assert deployed == {}
    functions = site.client("lambda").list_functions()["Functions"]
    assert {one["FunctionName"]: one["Role"].rpartition("/")[2].split("-")[2] for one in functions} == {
        "kumomori-prod-onInstance": "OnInstanceRole",
        "kumomori-prod-reconcile": "ReconcileRole",
        "kumomori-prod-sweep": "SweepRole",
        "kumomori-prod-scan": "ScanRole",
    }


def cannot_be_narrower(action: str) -> bool:
    return action.startswith("ec2:Describe") or "NetworkInterface" in action or "PrivateIpAddresses" in action


def check_queues(site: Site) -> None:
    sqs = site.client("sqs")
    urls = sqs.list_queues()["QueueUrls"]
    found = {url.rpartition("/")[2]: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"] for url in urls}  # fmt: skip
    assert set(found) == {"kumomori-prod-events", "kumomori-prod-dead-events"}
    assert {one["SqsManagedSseEnabled"] for one in found.values()} == {"true"}
    redrive = json.loads(found["kumomori-prod-events"]["RedrivePolicy"])
    assert redrive["deadLetterTargetArn"] == found["kumomori-prod-dead-events"]["QueueArn"]


def check_functions(site: Site) -> None:
    """`invoke local` runs the function with the environment of the deployed stack."""

    def invoke(function: str, event: Any) -> dict[str, Any]:
        out = site.run("invoke", "local", "-f", function, "-d", json.dumps(event), **SCAN)
        line, _, answer = out.partition("\n")
        assert json.loads(line) == {"function": json.loads(line)["function"], **json.loads(answer)}
        return dict(json.loads(answer))

    ec2 = site.client("ec2")
    image = ec2.register_image(Name="web", RootDeviceName="/dev/sda1")["ImageId"]
    instance = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    event = change(account=ACCOUNT, region=REGION)
    assert invoke("onInstance", event)["sent"] == 1
    assert invoke("onInstance", {"source": "else"})["dropped"] == {"not from EC2": 1}
    assert invoke("reconcile", {})["sent"] == 1
    sqs = site.client("sqs")
    queue = sqs.get_queue_url(QueueName="kumomori-prod-events")["QueueUrl"]
    bodies = [one["Body"] for one in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]]
    told = [one for body in bodies for one in parse(body, {ACCOUNT})]
    assert {(one.instance, one.state) for one in told} == {
        ("i-0123456789abcdef0", InstanceState.RUNNING),
        (instance, InstanceState.PENDING),
    }
    made = {lifetime: snapshot(site, instance, lifetime) for lifetime in (-200_000.0, 86_400.0)}
    assert invoke("sweep", {})["deleted"] == [made[-200_000.0]]
    left = {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    assert made[86_400.0] in left
    assert made[-200_000.0] not in left


def snapshot(site: Site, instance: str, lifetime_seconds: float) -> str:
    """As a scan of the installation makes it."""
    ec2, token = site.client("ec2"), f"scan{int(lifetime_seconds)}"
    ours = Ours(Place("aws", ACCOUNT, REGION), ec2, ec2, "acme", lifetime_seconds, 0.0, lambda _: None)
    ours.create(instance, token, without_boot=False, without=[])
    return ours.find(token)[0].id


def check_another_installation_is_refused(site: Site) -> None:
    """Before anything is changed. It gets another stage."""
    cloudformation = site.client("cloudformation")
    template = (site.folder / ".serverless" / "cloudformation-template-update-stack.json").read_text()
    cloudformation.update_stack(StackName="kumomori-prod", TemplateBody=template)  # moto forgets outputs in change sets
    outputs = {one["OutputKey"]: one["OutputValue"] for one in cloudformation.describe_stacks()["Stacks"][0]["Outputs"]}
    assert outputs["Installation"] == "acme"
    assert outputs["ScanRoleArn"].startswith(f"arn:aws:iam::{ACCOUNT}:role/")
    for command in ("deploy", "remove"):
        done = site.ends(command, **SCAN | {"installation": "other"})
        assert done.returncode != 0
        assert "the stage prod in eu-central-1 is that of the installation acme" in done.stdout + done.stderr
        assert ".cjs:" not in done.stdout + done.stderr, "no traceback"
    sweep = site.client("lambda").get_function_configuration(FunctionName="kumomori-prod-sweep")
    assert sweep["Environment"]["Variables"]["KUMOMORI_INSTALLATION"] == "acme"
    found = yaml.safe_load(site.run("print", stage="second", **SCAN | {"installation": "other"}))
    assert found["functions"]["sweep"]["environment"]["KUMOMORI_INSTALLATION"] == "other"


def check_nothing_is_left(site: Site) -> None:
    assert site.client("cloudformation").list_stacks(StackStatusFilter=["CREATE_COMPLETE", "UPDATE_COMPLETE"])["StackSummaries"] == []  # fmt: skip
    assert site.client("lambda").list_functions()["Functions"] == []
    assert site.client("iam").list_roles()["Roles"] == []
    assert site.client("sqs").list_queues().get("QueueUrls", []) == []
    assert site.client("events").list_rules()["Rules"] == []
    assert site.client("logs").describe_log_groups()["logGroups"] == []
    assert site.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", []) == []


def test_printed(site: Site) -> None:
    """Without the container function; nothing is left to be filled in but what CloudFormation does."""
    out = site.run("print")
    found = yaml.safe_load(out)
    assert set(found["functions"]) == set(FUNCTIONS)
    assert found["functions"]["sweep"]["environment"]["KUMOMORI_INSTALLATION"] == "acme"
    assert "${param" not in out
    assert "${self" not in out
    assert "${file" not in out


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        pytest.param({"installation": ""}, "kumomori:installation", id="no-installation"),
        pytest.param({"deploymentBucket": ""}, "provider.deploymentBucket.name", id="no-bucket"),
        pytest.param({"scan": "on"}, "ScanRole", id="scan-without-its-own"),
    ],
)
def test_what_has_no_safe_default_is_asked_for(site: Site, parameters: dict[str, str], place: str) -> None:
    done = site.ends("print", **parameters)
    assert done.returncode != 0
    assert 'Value not found at "param" source' in done.stdout
    assert place in done.stdout


def test_stages_share_no_name() -> None:
    """Two installations in one account: every name that is fixed has the stage in it."""
    for name, one in resources().items():
        fixed = [value for key, value in one["Properties"].items() if key in ("QueueName", "RoleName")]
        assert all("${sls:stage}" in value for value in fixed), name
        if one["Type"] == "AWS::IAM::Role":
            assert not fixed, "its name is CloudFormation's"
