"""`python -m infra` as Pulumi starts it: it tells its schema over gRPC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pulumi.runtime.proto import provider_pb2

from infra.__main__ import COMPONENTS
from infra.aws.account import ProtectedAccountArgs
from infra.aws.console import ConsoleArgs
from infra.aws.fleet import ScanFleetArgs
from infra.aws.organization import OrganizationArgs
from tests.infra.served import SECONDS, camel, served

ARGUMENTS: dict[str, Any] = {
    "ProtectedAccount": ProtectedAccountArgs,
    "Organization": OrganizationArgs,
    "ScanFleet": ScanFleetArgs,
    "Console": ConsoleArgs,
}


@pytest.fixture(scope="module", params=[("-m", "infra"), ("infra",)], ids=["module", "folder"])
def schema(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Of the real provider, started by its name and, as Pulumi does, by its folder; nobody answers at the engine's address."""
    with served(tmp_path_factory.mktemp("provider") / "log", *request.param) as provider:
        yield json.loads(provider.GetSchema(provider_pb2.GetSchemaRequest(), timeout=SECONDS).schema)


@pytest.mark.slow
def test_every_component_is_there(schema: dict[str, Any]) -> None:
    assert schema["name"] == "kumomori"
    assert set(schema["resources"]) == {f"kumomori:index:{one.__name__}" for one in COMPONENTS}
    assert all(one["isComponent"] for one in schema["resources"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_and_outputs(schema: dict[str, Any], name: str) -> None:
    one = schema["resources"][f"kumomori:index:{name}"]
    arguments = ARGUMENTS[name]
    assert set(one["inputProperties"]) == {camel(key) for key in arguments.__annotations__}
    assert set(one["requiredInputs"]) == {camel(key) for key in arguments.__required_keys__}
    (component,) = [component for component in COMPONENTS if component.__name__ == name]
    assert set(one["properties"]) == {camel(key) for key in component.__annotations__ if not key.startswith("_")}
    assert one["description"] == component.__doc__


@pytest.mark.slow
def test_what_is_plain_and_what_may_come_from_another_resource(schema: dict[str, Any]) -> None:
    account = schema["resources"]["kumomori:index:ProtectedAccount"]["inputProperties"]
    assert account["account"]["plain"] is True
    assert account["regions"]["items"]["type"] == "string"
    assert not account["trusted"].get("plain")
    assert account["events"]["type"] == "boolean"
    fleet = schema["resources"]["kumomori:index:ScanFleet"]["inputProperties"]
    assert fleet["machines"]["type"] == "integer"
    assert not fleet["subnets"]["items"].get("plain")
