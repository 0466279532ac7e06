"""`python -m infra` as a process, and as much of Pulumi's engine as its `Construct` calls need: gRPC on loopback, no AWS.

Resources get the answers that the mocks of `tests/infra/aws/graph.py` give; in a preview they have no id, and what the cloud would make is unknown.
Source: proto/pulumi/provider.proto, resource.proto and engine.proto of pulumi/pulumi; for values, its "Pulumi properties" document.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc
from google.protobuf import empty_pb2, json_format
from pulumi.runtime.mocks import MockCallArgs, MockResourceArgs
from pulumi.runtime.proto import (
    engine_pb2,
    engine_pb2_grpc,
    provider_pb2,
    provider_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
)

from tests.infra.aws.graph import ACCOUNT, Graph, Recorder
from tests.infra.engine import plain, struct

ROOT: Final = Path(__file__).resolve().parents[2]
SECONDS: Final = 120
STACK: Final = "urn:pulumi:prod::estate::pulumi:pulumi:Stack::estate-prod"
_KEY: Final = "4dabf18193072939515e22adb298388d"
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"
_OUTPUT: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
Request = resource_pb2.RegisterResourceRequest


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(one.capitalize() for one in rest)


def secret(value: Any) -> dict[str, Any]:
    """An output that is known and secret, as another language's program gives it to a component."""
    return {_KEY: _OUTPUT, "value": value, "secret": True}


def unknown(*urns: str) -> dict[str, Any]:
    """The output of a resource that is yet to be made."""
    return {_KEY: _OUTPUT, "dependencies": list(urns)}


def without_secrets(value: Any) -> Any:
    """`value` with None for each part that is marked as secret."""
    if isinstance(value, dict):
        return None if value.get(_KEY) == _SECRET else {key: without_secrets(one) for key, one in value.items()}
    return [without_secrets(one) for one in value] if isinstance(value, list) else value


def registered(request: Request) -> dict[str, Any]:
    """The inputs of a resource, with their marks."""
    return dict(json_format.MessageToDict(request.object))


@contextmanager
def served(log: Path, *command: str, engine: str = "127.0.0.1:1") -> Iterator[provider_pb2_grpc.ResourceProviderStub]:
    """The provider, started as `python COMMAND`; in `log` is what it writes to stderr. At the usual `engine` nobody answers."""
    with log.open("wb") as stderr:
        provider = subprocess.Popen(
            [sys.executable, *command, engine], cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        assert provider.stdout is not None
        port = provider.stdout.readline().strip()
        assert port.isdigit(), log.read_text()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield provider_pb2_grpc.ResourceProviderStub(channel)
    finally:
        provider.terminate()
        provider.communicate(timeout=SECONDS)


@dataclass
class Constructed:
    """What came of one call: what was registered and with which providers, and `state` with its marks of secrets, or the error."""

    graph: Graph
    requests: list[Request]
    providers: set[str]
    urn: str
    state: Mapping[str, Any]
    error: str


class Engine(engine_pb2_grpc.EngineServicer):
    """Takes down what the provider has people shown."""

    def __init__(self) -> None:
        self.logged: list[str] = []

    def Log(self, request: Any, context: Any) -> empty_pb2.Empty:  # noqa: N802  as in the protocol
        if request.severity != engine_pb2.DEBUG:
            self.logged.append(request.message)
        return empty_pb2.Empty()


class Monitor(resource_pb2_grpc.ResourceMonitorServicer):
    """What a component registers its resources with, once for each `Construct`."""

    def __init__(self, account: str, *, dry: bool) -> None:
        self.graph = Graph()
        self.requests: list[Request] = []
        self.providers: set[str] = set()
        self._recorder = Recorder(self.graph, account)
        self._dry = dry

    def GetDeploymentInfo(self, request: Any, context: Any) -> resource_pb2.DeploymentInfo:  # noqa: N802
        return resource_pb2.DeploymentInfo(supportedFeatures=resource_pb2.ResourceMonitorFeature.values())

    def RegisterResource(self, request: Request, context: Any) -> resource_pb2.RegisterResourceResponse:  # noqa: N802
        self.requests.append(request)
        if request.custom:
            self.providers.add(request.provider)
        inputs = plain(request.object)
        id_, outputs = self._recorder.new_resource(MockResourceArgs(request.type, request.name, inputs))
        parents = request.parent.split("::")[2] + "$" if request.parent and request.parent != STACK else ""
        return resource_pb2.RegisterResourceResponse(
            urn=f"urn:pulumi:prod::estate::{parents}{request.type}::{request.name}",
            id=id_ if id_ and request.custom and not self._dry else "",
            object=struct(inputs if self._dry else outputs),
        )

    def RegisterResourceOutputs(self, request: Any, context: Any) -> empty_pb2.Empty:  # noqa: N802
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: Any) -> resource_pb2.ResourceInvokeResponse:  # noqa: N802
        if request.tok == "pulumi:pulumi:getResource":  # the engine's own: a provider that the program made
            urn = plain(request.args)["urn"]
            return resource_pb2.ResourceInvokeResponse(**{"return": struct({"urn": urn, "id": "1234", "state": {}})})
        self.providers.add(request.provider)
        found = self._recorder.call(MockCallArgs(request.tok, plain(request.args), request.provider))
        return resource_pb2.ResourceInvokeResponse(**{"return": struct(found)})


class Engines:
    """The servers behind one provider. They stay until all is closed, as the engine outlives its calls: one that failed may have
    registrations under way, and gRPC takes a new server at an old port for the old one, which is gone.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._threads = self._open.enter_context(ThreadPoolExecutor(8))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def listen(self, add: Callable[[Any, grpc.Server], None], service: object) -> str:
        """Its address. `add` registers `service`, as it is generated from the protocol."""
        server = grpc.server(self._threads)
        add(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._open.callback(lambda: server.stop(grace=None).wait())
        return f"127.0.0.1:{port}"


def construct(
    provider: provider_pb2_grpc.ResourceProviderStub,
    engines: Engines,
    component: str,
    inputs: Mapping[str, Any],
    *,
    name: str = "prod",
    dry: bool = False,
    account: str = ACCOUNT,
    providers: Mapping[str, str] | None = None,
) -> Constructed:
    """Call `Construct` as the engine does, with a monitor of its own to answer."""
    monitor = Monitor(account, dry=dry)
    request = provider_pb2.ConstructRequest(
        project="estate",
        stack="prod",
        parallel=4,
        organization="acme",
        dryRun=dry,
        monitorEndpoint=engines.listen(resource_pb2_grpc.add_ResourceMonitorServicer_to_server, monitor),
        type=f"kumomori:index:{component}",
        name=name,
        parent=STACK,
        inputs=struct(inputs),
        providers=providers,
        accepts_output_values=True,
    )
    urn, state, error = "", {}, ""
    try:
        answer = provider.Construct(request, timeout=SECONDS)
        urn, state = answer.urn, json_format.MessageToDict(answer.state)
    except grpc.RpcError as refused:
        error = f"{refused.code().name}: {refused.details()}"
    made = sorted(monitor.graph.made, key=lambda one: (one.type, one.name))
    return Constructed(Graph(made), list(monitor.requests), set(monitor.providers), urn, state, error)
