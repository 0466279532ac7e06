"""Arguments that cannot work are refused before anything is made, in words that say what to write."""

from __future__ import annotations

from typing import Any

import pulumi
import pytest

from infra.aws.common import BadArgument, default_external_id, image_repository, partition
from tests.infra.aws.components import IMAGE, MORE, make
from tests.infra.aws.graph import REGION, Graph, recorded, run

LONG = "x" * 100_000
BAD: list[Any] = [
    ("account", {"account": "11112222333"}, "the account's 12 digits"),
    ("account", {"account": 111122223333}, "12 digits"),
    ("account", {"account": "111122223333\n"}, "12 digits"),
    ("account", {"account": "١١١١٢٢٢٢٣٣٣٣"}, "12 digits"),
    ("account", {"account": ...}, "12 digits"),
    ("account", {"regions": []}, "give 1 to 40"),
    ("account", {"regions": "eu-central-1"}, "in a list"),
    ("account", {"regions": ["eu-central-1", "eu-central-1"]}, "names something twice"),
    ("account", {"regions": ["Frankfurt"]}, "regions like eu-central-1"),
    ("account", {"regions": ["eu-central-1"] * 41}, "give 1 to 40"),
    ("account", {"installation": "acme corp"}, "the installation's name"),
    ("account", {"installation": "*"}, "the installation's name"),
    ("account", {"installation": LONG}, "the installation's name"),
    ("account", {"trusted": "*"}, "the ARN of a role"),
    ("account", {"trusted": "arn:aws:iam::222222222222:root"}, "the ARN of a role"),
    ("account", {"trusted": 'arn:aws:iam::222222222222:role/a","b":"'}, "the ARN of a role"),
    ("account", {"trusted": None}, "the ARN of a role"),
    ("account", {"external_id": "a b"}, "2 to 1224"),
    ("account", {"role_name": "x" * 65}, "up to 64"),
    ("account", {"role_name": "a/b"}, "up to 64"),
    ("account", {"keys": ["*"]}, "ARNs of keys"),
    ("account", {"keys": ["alias/mine"]}, "no aliases"),
    ("account", {"granted_keys": ["arn:aws:kms:eu-central-1:111122223333:alias/mine"]}, "no aliases"),
    ("account", {"copy_key": MORE["account"]["copy_key"]}, "goes with the account that snapshots are lent to"),
    ("account", {"scanner_account": "me"}, "12 digits"),
    ("account", {"responder": "yes"}, "true or false"),
    ("account", {"responder": 1}, "true or false"),
    ("account", {"acount": "111122223333"}, "there is no such argument"),
    ("account", {LONG: 1}, "there is no such argument"),
    ("organization", {"units": ["acme"]}, "organizational units like"),
    ("organization", {"external_id": ...}, "2 to 1224"),
    ("fleet", {"console": "http://kumomori.example.com"}, "tokens never go without TLS"),
    ("fleet", {"console": "https://user:word@kumomori.example.com"}, "an address like"),
    ("fleet", {"console": "https://k.example.com/$(reboot)"}, "an address like"),
    ("fleet", {"image": "kumomori"}, "an image in ECR"),
    ("fleet", {"image": IMAGE.partition("@")[0]}, "an image in ECR"),
    ("fleet", {"image": IMAGE.partition("@")[0] + ":latest"}, "latest is another one tomorrow"),
    ("fleet", {"image": IMAGE + "; reboot"}, "an image in ECR"),
    ("fleet", {"fleet": "a b"}, "the fleet's name"),
    ("fleet", {"fleet": "$(reboot)"}, "the fleet's name"),
    ("fleet", {"vpc": "mine"}, "an id like vpc-0a1b2c3d"),
    ("fleet", {"subnets": ["subnet-0a1b2c3d"]}, "a list of 2 to"),
    ("fleet", {"subnets": ["subnet-0a1b2c3d", "vpc-0a1b2c3d"]}, "an id like subnet-0a1b2c3d"),
    ("fleet", {"accounts": []}, "give 1 to"),
    ("fleet", {"machines": -1}, "from 0 to 200"),
    ("fleet", {"machines": 1.5}, "a whole number"),
    ("fleet", {"machines": True}, "a whole number"),
    ("fleet", {"machines": float("nan")}, "a whole number"),
    ("fleet", {"workers": 10**9}, "from 1 to 32"),
    ("fleet", {"endpoints": True}, "S3 is reached by them"),
    ("fleet", {"instance_types": ["large"]}, "types of instances"),
    ("fleet", {"database_class": "m5.large"}, "a class of RDS"),
    ("console", {"clients": ["0.0.0.0/0"]}, "is not private"),
    ("console", {"clients": ["8.8.8.0/24"]}, "is not private"),
    ("console", {"clients": ["10.0.0.0/4"]}, "is no network"),
    ("console", {"clients": ["0.0.0.0/4"]}, "is not private"),
    ("console", {"clients": ["::/0"]}, "private networks"),
    ("console", {"clients": ["10.0.0.1/8"]}, "is no network"),
    ("console", {"clients": []}, "give 1 to"),
    ("console", {"host": "kumomori"}, "a name like"),
    ("console", {"host": "https://kumomori.example.com"}, "a name like"),
    ("console", {"certificate": "mine"}, "a certificate of ACM"),
    ("console", {"log_days": 31}, "that CloudWatch knows"),
    ("console", {"zone": "example.com"}, "a hosted zone"),
]


@pytest.mark.parametrize(
    ("kind", "changes", "words"), BAD, ids=[f"{number}-{row[0]}" for number, row in enumerate(BAD)]
)
def test_refused(kind: str, changes: dict[str, Any], words: str) -> None:
    with recorded() as graph, pytest.raises(BadArgument, match=words) as caught:
        make(kind, **changes)
    assert len(str(caught.value)) < 1_500
    assert "\n" not in str(caught.value)
    assert graph.made == []


@pytest.mark.parametrize(
    "name", ["", "Prod", "1st", "prod_eu", "prod--eu", "prod-", "x" * 21, "a b", "ü", "prod\n"], ids=repr
)
def test_names_that_aws_would_refuse(name: str) -> None:
    with recorded() as graph, pytest.raises(BadArgument, match="at most 20 small letters"):
        make("account", name)
    assert graph.made == []


def later(value: str) -> pulumi.Output[str]:
    """As another resource gives it: known only once that is there."""
    return pulumi.Output.from_input(value).apply(lambda one: one)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        pytest.param("account", {"trusted": "arn:aws:iam::222222222222:root"}, "the ARN of a role", id="trusted"),
        pytest.param("fleet", {"console": "http://k.example.com"}, "without TLS", id="console"),
        pytest.param("fleet", {"vpc": "vpc"}, "an id like vpc-", id="vpc"),
    ],
)
def test_what_is_known_later_is_checked_then(kind: str, changes: dict[str, str], words: str) -> None:
    def program() -> None:
        given: dict[str, Any] = {key: later(value) for key, value in changes.items()}
        make(kind, **given)

    with pytest.raises(Exception, match=words):
        run(program)


def test_credentials_of_another_account_make_nothing_there() -> None:
    made: list[Graph] = []

    def attempt() -> None:
        with recorded("999999999999") as graph:
            made.append(graph)
            pulumi.runtime.test(lambda: make("account", events=False))()  # type: ignore[no-untyped-call]

    with pytest.raises(Exception, match="the credentials are those of 999999999999, not of 111122223333"):
        attempt()
    assert not made[0].of("Role")
    assert not made[0].of("RolePolicy")


def test_outputs_are_what_a_cloud_account_takes() -> None:
    found: dict[str, Any] = {}

    def program() -> pulumi.Output[None]:
        made = make("account", regions=[REGION, "us-east-1"])
        names = ("account", "role_name", "external_id", "queue_url", "regions", "responder_role_arn")
        return pulumi.Output.all(*(getattr(made, name) for name in names)).apply(
            lambda known: found.update(zip(names, known, strict=True))
        )

    run(program)
    assert found == {
        "account": "111122223333",
        "role_name": "KumomoriScanner",
        "external_id": default_external_id("acme", "111122223333"),
        "queue_url": f"https://sqs.{REGION}.amazonaws.com/111122223333/prod-evt",
        "regions": [REGION, "us-east-1"],
        "responder_role_arn": "",
    }


def test_an_account_is_what_the_console_takes() -> None:
    from client.model import AccountIn

    made = AccountIn(
        cloud="aws",
        account="111122223333",
        regions=(REGION,),
        role="KumomoriScanner",
        external_id=default_external_id("acme", "111122223333"),
        queue_url=f"https://sqs.{REGION}.amazonaws.com/111122223333/prod-evt-1234567",
    )
    assert made.external_id.startswith("kumomori-")
    assert default_external_id("acme", "111122223333") != default_external_id("acme", "111122223334")


@pytest.mark.parametrize(
    ("region", "expected"), [("eu-central-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_partitions(region: str, expected: str) -> None:
    assert partition(region) == expected
    trusted = f"arn:{expected}:iam::222222222222:role/Fleet"
    graph = run(lambda: make("account", regions=[region], trusted=trusted))
    for one in graph.of("RolePolicy", "scan"):
        assert f"arn:{expected}:ec2" in one.inputs["policy"]


def test_repositories() -> None:
    assert image_repository(IMAGE) == f"arn:aws:ecr:{REGION}:222222222222:repository/kumomori"
    with pytest.raises(BadArgument):
        image_repository("docker.io/library/debian:12")
