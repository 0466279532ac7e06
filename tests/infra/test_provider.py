"""`python -m infra` as Pulumi starts it: it tells its schema over gRPC."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from infra.__main__ import COMPONENTS
from infra.aws.account import ProtectedAccountArgs
from infra.aws.console import ConsoleArgs
from infra.aws.fleet import ScanFleetArgs
from infra.aws.organization import OrganizationArgs

ROOT = Path(__file__).resolve().parent.parent.parent
ARGUMENTS: dict[str, Any] = {
    "ProtectedAccount": ProtectedAccountArgs,
    "Organization": OrganizationArgs,
    "ScanFleet": ScanFleetArgs,
    "Console": ConsoleArgs,
}


@pytest.fixture(scope="module", params=[("-m", "infra"), ("infra",)], ids=["module", "folder"])
def schema(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Of the real provider, started by its name and, as Pulumi does, by its folder; nobody answers at the engine's address."""
    provider = subprocess.Popen(
        [sys.executable, *request.param, "127.0.0.1:1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert provider.stdout is not None
        port = int(provider.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = provider_pb2_grpc.ResourceProviderStub(channel)
            answer = stub.GetSchema(provider_pb2.GetSchemaRequest(), timeout=60)
        yield json.loads(answer.schema)
    finally:
        provider.terminate()
        provider.communicate(timeout=30)


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


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(one.capitalize() for one in rest)
