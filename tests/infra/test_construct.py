"""Components made by the provider's process, as a program in another language makes them, against the same ones made in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pulumi
import pytest
from pulumi.runtime.proto import engine_pb2_grpc, provider_pb2, provider_pb2_grpc
from pulumi.runtime.rpc import UNKNOWN

from infra.__main__ import COMPONENTS
from infra.__main__ import Provider as Served
from infra.aws.common import BadArgument
from tests.infra.aws.components import CLASSES, MORE, make
from tests.infra.aws.graph import Graph, Made, run
from tests.infra.aws.test_arguments import BAD
from tests.infra.served import (
    SECONDS,
    Constructed,
    Engine,
    Engines,
    camel,
    construct,
    registered,
    secret,
    served,
    unknown,
    without_secrets,
)
from tests.infra.test_provider import ARGUMENTS

pytestmark = pytest.mark.slow
OTHER = "urn:pulumi:prod::estate::aws:iam/role:Role::other"
ENTERED = "urn:pulumi:prod::estate::pulumi:providers:aws::entered::1234"
ROLE, VPC, SUBNET = "arn:aws:iam::222222222222:role/0badc0de", "vpc-0badc0de", "subnet-0badc0de"
URL = "https://0badc0de.example.com"
IN_PYTHON = {name for arguments in ARGUMENTS.values() for name in arguments.__annotations__ if "_" in name}
SENT = [row for row in BAD if "NaN" not in json.dumps(row[1], default=str)]  # JSON has none
KINDS = [pytest.param(kind, more, id=f"{kind}-{'full' if more else 'plain'}") for kind in CLASSES for more in (0, 1)]


@dataclass
class Provider:
    stub: provider_pb2_grpc.ResourceProviderStub
    engines: Engines

    def make(self, kind: str, changes: Mapping[str, Any], **options: Any) -> Constructed:
        """`changes`: named as in the schema; `...` leaves one out."""
        of, usual = CLASSES[kind]
        given = {camel(key): value for key, value in usual.items()} | dict(changes)
        inputs = {key: value for key, value in given.items() if value is not ...}
        return construct(self.stub, self.engines, of.__name__, inputs, **options)

    def properties(self, kind: str) -> set[str]:
        schema = json.loads(self.stub.GetSchema(provider_pb2.GetSchemaRequest(), timeout=SECONDS).schema)
        return set(schema["resources"][f"kumomori:index:{CLASSES[kind][0].__name__}"]["properties"])


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    engine, log = Engine(), tmp_path_factory.mktemp("provider") / "log"
    with Engines() as engines:
        address = engines.listen(engine_pb2_grpc.add_EngineServicer_to_server, engine)
        with served(log, "-m", "infra", engine=address) as stub:
            yield Provider(stub, engines)
    assert engine.logged == []


def in_process(kind: str, changes: Mapping[str, Any]) -> tuple[Graph, dict[str, Any]]:
    """What `kind` makes and gives when a program in Python makes it; names of outputs as in the schema."""
    outputs: dict[str, Any] = {}

    def program() -> pulumi.Output[None]:
        made = make(kind, **changes)
        names = [name for name in type(made).__annotations__ if not name.startswith("_")]
        known = pulumi.Output.all(*(getattr(made, name) for name in names))
        return known.apply(lambda values: outputs.update(zip(map(camel, names), values, strict=True)))

    return run(program), outputs


def names(made: list[Made]) -> list[tuple[str, str]]:
    return [(one.type, one.name) for one in made]


@pytest.mark.parametrize(("kind", "more"), KINDS)
def test_the_same_resources_and_outputs_as_in_python(provider: Provider, kind: str, more: int) -> None:
    changes = MORE[kind] if more else {}
    graph, outputs = in_process(kind, changes)
    found = provider.make(kind, {camel(key): value for key, value in changes.items()})
    assert not found.error
    assert found.urn == f"urn:pulumi:prod::estate::kumomori:index:{CLASSES[kind][0].__name__}::prod"
    assert names(found.graph.made) == names(graph.made)
    assert found.graph.made == graph.made
    assert set(found.state) == provider.properties(kind)
    assert found.state == outputs


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        pytest.param("account", {"trusted": unknown(OTHER)}, id="account"),
        pytest.param("organization", {"trusted": unknown(OTHER)}, id="organization"),
        pytest.param("fleet", {"console": unknown(OTHER), "subnets": ["subnet-0a1b2c3d", unknown(OTHER)]}, id="fleet"),
        pytest.param("console", {"vpc": unknown(OTHER)}, id="console"),
    ],
)
def test_a_preview_in_which_inputs_are_not_known_yet(provider: Provider, kind: str, changes: dict[str, Any]) -> None:
    found = provider.make(kind, changes, dry=True)
    assert not found.error
    assert names(found.graph.made) == names(in_process(kind, {})[0].made)
    assert set(found.state) == provider.properties(kind)
    assert UNKNOWN in found.state.values()
    waiting = [
        registered(one)[key]
        for one in found.requests
        for key, of in one.propertyDependencies.items()
        if OTHER in of.urns
    ]
    assert waiting
    assert all(UNKNOWN in json.dumps(value) for value in waiting)


@pytest.mark.parametrize(
    ("kind", "given", "carriers"),
    [
        pytest.param("account", {"trusted": ROLE}, {"Role.assumeRolePolicy"}, id="account"),
        pytest.param(
            "organization", {"trusted": ROLE}, {"Role.assumeRolePolicy", "StackSet.templateBody"}, id="organization"
        ),
        pytest.param(
            "fleet",
            {"vpc": VPC, "console": URL},
            {"SecurityGroup.vpcId", "SubnetGroup.subnetIds", "LaunchTemplate.userData"},
            id="fleet",
        ),
        pytest.param("console", {"vpc": VPC}, {"SecurityGroup.vpcId", "LoadBalancer.subnets"}, id="console"),
    ],
)
def test_secrets_stay_secret(provider: Provider, kind: str, given: dict[str, str], carriers: set[str]) -> None:
    """Wherever a resource gets the value of a secret input, or something made of it, that is marked."""
    changes: dict[str, Any] = {key: secret(value) for key, value in given.items()}
    if "vpc" in given:
        changes["subnets"] = ["subnet-0a1b2c3d", secret(SUBNET)]
    found = provider.make(kind, changes)
    assert not found.error
    marked = set()
    for one in found.requests:
        for key, value in registered(one).items():
            rest = without_secrets(value)
            assert "0badc0de" not in json.dumps(rest), f"{one.name} {key}"
            if rest != value:
                marked.add(f"{one.type.rpartition(':')[2]}.{key}")
    assert carriers <= marked


def test_all_is_made_with_the_provider_that_the_program_gives(provider: Provider) -> None:
    """Also the look at whose credentials they are."""
    found = provider.make("account", {"regions": ["eu-central-1", "us-east-1"]}, providers={"aws": ENTERED})
    assert not found.error
    assert found.providers == {ENTERED}


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        *(pytest.param(*row, id=f"{number}-{row[0]}") for number, row in enumerate(SENT)),
        pytest.param("fleet", {"machines": "3"}, "write a whole number from 0 to 200", id="text"),
        pytest.param("fleet", {"machines": [3]}, "write a whole number from 0 to 200", id="list"),
        pytest.param("fleet", {"machines": secret(3)}, "is no plain value but an output or a secret", id="secret"),
        pytest.param("account", {"account": unknown(OTHER)}, "write the account's 12 digits", id="unknown"),
        pytest.param("account", {"account": UNKNOWN}, "is no plain value", id="unknown-without-dependencies"),
        pytest.param("fleet", {"subnets": unknown(OTHER)}, "each of which may be an output", id="unknown-list"),
    ],
)
def test_wrong_arguments_are_told(provider: Provider, kind: str, changes: dict[str, Any], words: str) -> None:
    """In the words that a program in Python gets, but with the schema's names; nothing else is told, and nothing is made."""
    found = provider.make(kind, {camel(key): value for key, value in changes.items()})
    assert found.error.startswith(f"INVALID_ARGUMENT: {CLASSES[kind][0].__name__}")
    assert words in found.error
    assert "\n" not in found.error
    assert len(found.error) < 1_500
    assert not any(name in found.error for name in IN_PYTHON)
    assert found.graph.made == []


def test_names_are_those_of_the_schema(provider: Provider) -> None:
    found = provider.make("account", {"role_name": "Scanner"})
    assert found.error.startswith("INVALID_ARGUMENT: ProtectedAccount: 'role_name': there is no such argument")
    assert ", roleName," in found.error


def test_a_name_that_aws_would_refuse(provider: Provider) -> None:
    found = provider.make("account", {}, name="Prod_eu")
    assert found.error.startswith("INVALID_ARGUMENT: 'Prod_eu': a component's name begins with")
    assert "\n" not in found.error


@pytest.mark.parametrize(
    ("kind", "changes", "options", "told"),
    [
        pytest.param(
            "account",
            {"trusted": secret("arn:aws:iam::222222222222:root")},
            {},
            "ProtectedAccount prod: trusted: 'arn:aws:iam::222222222222:root' is none; write the ARN of a role, "
            "like arn:aws:iam::111122223333:role/KumomoriFleet",
            id="trusted",
        ),
        pytest.param(
            "account",
            {},
            {"account": "999999999999"},
            "ProtectedAccount prod: account: the credentials are those of 999999999999, not of 111122223333: "
            "give the provider that enters it",
            id="credentials",
        ),
        pytest.param(
            "fleet",
            {"endpoints": True, "routeTables": [secret("rtb-mine")]},
            {},
            "ScanFleet prod: routeTables[0]: 'rtb-mine' is none; write an id like rtb-0a1b2c3d",
            id="route-tables",
        ),
    ],
)
def test_what_is_found_out_late_is_told_as_well(
    provider: Provider, kind: str, changes: dict[str, Any], options: dict[str, Any], told: str
) -> None:
    found = provider.make(kind, changes, **options)
    assert found.error == f"INVALID_ARGUMENT: {told}"
    if kind == "account":
        assert not found.graph.of("RolePolicy")


def test_what_waits_for_a_wrong_argument_does_not_tell_it_again(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio has every failure that nobody asks for in the log, with a traceback, and Pulumi shows what a provider logs."""

    async def serve() -> None:
        with pytest.raises(BadArgument):
            served_here.construct("prod", "kumomori:index:ScanFleet", {"machine": 3})
        for error in (BadArgument("told already"), ValueError("a mistake of ours")):
            asyncio.get_running_loop().create_future().set_exception(error)

    served_here = Served(COMPONENTS, "kumomori")
    asyncio.run(serve())
    assert "a mistake of ours" in caplog.text
    assert "told already" not in caplog.text


def test_several_at_once_as_the_engine_does(provider: Provider) -> None:
    """One that is refused does not harm the others."""
    expected = {kind: in_process(kind, {})[0].made for kind in CLASSES}
    kinds = [*CLASSES, "account", *CLASSES]
    changes: list[dict[str, Any]] = [{} for _ in kinds]
    changes[len(CLASSES)] = {"trusted": secret("nobody")}
    with ThreadPoolExecutor(len(kinds)) as threads:
        found = list(threads.map(provider.make, kinds, changes))
    assert "write the ARN of a role" in found.pop(len(CLASSES)).error
    assert not any(one.error for one in found)
    assert [one.graph.made for one in found] == [*expected.values(), *expected.values()]
