"""A small Pulumi engine for tests: runs programs, keeps a state file, and drives dynamic resources through Pulumi's own provider process.

What stands in for the real engine is here: the monitor that programs register their resources with, the order of steps, the state. The
provider is the real one, `python -m pulumi.dynamic`, over gRPC; inputs and outputs take the way through protobuf that they take
with `pulumi up`. Other resources (components, those of clouds) are taken as they are registered, and nothing is made of them.

with Engine(folder, {"kumomori:console": url, "kumomori:token": token}) as engine:
    engine.preview(program); engine.up(program); engine.refresh(); engine.destroy()

Each returns a `Run`: its steps, what a person would be shown, and the errors. Source: proto/pulumi/provider.proto and resource.proto of
pulumi/pulumi. Not here: imports, aliases, parallel deletion, replacement of dependents.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import grpc
import pulumi
from google.protobuf import json_format, struct_pb2
from pulumi.runtime import mocks
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc, resource_pb2
from pulumi.runtime.rpc import UNKNOWN

ROOT: Final = Path(__file__).parents[2]
DYNAMIC: Final = "pulumi-python:dynamic"
PROVIDER: Final = "__provider"
_SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"
_SECONDS: Final = 60
_QUIET: Final = logging.getLogger("tests.infra.engine")
_QUIET.setLevel(logging.CRITICAL)  # what fails is in the run
Op = Literal["create", "update", "replace", "delete", "same", "refresh"]
Program = Callable[[], object]
Properties = dict[str, Any]
_SIGNS: Final = {"create": "+", "update": "~", "replace": "+-", "delete": "-", "same": " ", "refresh": "~"}


@dataclass
class Resource:
    """A row of the state file. `inputs` are as checked, `outputs` what the provider gave back; `after` are urns it depends on."""

    urn: str
    type: str
    id: str
    inputs: Properties
    outputs: Properties
    after: list[str] = field(default_factory=list)

    @property
    def dynamic(self) -> bool:
        return self.type.startswith(DYNAMIC)


@dataclass(frozen=True)
class Step:
    op: Op
    urn: str
    diff: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.urn.rpartition("::")[2]

    def __str__(self) -> str:
        kind = self.urn.split("::")[2].rpartition("$")[2].rpartition("/")[2]
        return "\n".join([f"{_SIGNS[self.op]:2} {kind} {self.name}", *(f"     {line}" for line in self.diff)])


@dataclass
class Run:
    steps: list[Step] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def ops(self) -> dict[str, str]:
        """What was done, by name; what stayed the same is left out."""
        return {step.name: step.op for step in self.steps if step.op != "same"}

    def order(self, op: Op) -> list[str]:
        return [step.name for step in self.steps if step.op == op]

    @property
    def text(self) -> str:
        """As a preview shows it."""
        return "\n".join(str(step) for step in self.steps if step.op != "same")

    def ok(self) -> Self:
        assert not self.errors, "\n".join(self.errors)
        return self

    def refused(self) -> str:
        """The one error. A program ends with its first; what ran beside it may have failed, too."""
        assert self.errors
        return self.errors[0]


class Failed(Exception):
    """A step that could not be done; the program ends."""


class Engine:
    def __init__(
        self,
        folder: Path,
        config: Mapping[str, str] | None = None,
        *,
        project: str = "acme",
        stack: str = "dev",
        environment: Mapping[str, str] | None = None,
        secrets: Sequence[str] = ("kumomori:token",),
    ) -> None:
        """`secrets`: keys of `config` that were set with --secret."""
        self.path: Final = folder / f"{project}.{stack}.json"
        self.log: Final = folder / f"{project}.{stack}.log"
        self.project, self.stack = project, stack
        self._config = dict(config or {})
        self._secrets = list(secrets)
        self._environment = dict(environment or {})
        self.resources: dict[str, Resource] = {}
        if self.path.exists():
            self.resources = {row["urn"]: Resource(**row) for row in json.loads(self.path.read_text())}

    def __enter__(self) -> Self:
        own = {name: text for name, text in os.environ.items() if not name.startswith(("KUMOMORI_", "PULUMI_"))}
        own |= {"PULUMI_PROJECT": self.project, "PYTHONPATH": str(ROOT), **self._environment}
        command = [sys.executable, "-u", "-m", "pulumi.dynamic"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=own)
        assert self._process.stdout is not None
        port = self._process.stdout.readline().decode().strip()
        assert port.isdigit(), self.log.read_text()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.provider = provider_pb2_grpc.ResourceProviderStub(self._channel)
        request = provider_pb2.ConfigureRequest(args=struct(self._config))
        self.provider.Configure(request, timeout=_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._process.kill()
        self._process.communicate()

    def preview(self, program: Program, *, refresh: bool = False) -> Run:
        """What `up` would do. Changes nothing, in the state neither. `refresh`: look first at what is there."""
        kept = dict(self.resources)
        run = Run()
        try:
            if refresh:
                self._read_all(run)
            return self._run(program, run, dry=True)
        finally:
            self.resources = kept

    def up(self, program: Program, *, refresh: bool = False) -> Run:
        run = Run()
        try:
            if refresh:
                self._read_all(run)
            return self._run(program, run, dry=False)
        finally:
            self._save()

    def refresh(self) -> Run:
        """Take over into the state what is there."""
        run = Run()
        self._read_all(run)
        self._save()
        return run

    def destroy(self) -> Run:
        run = Run()
        try:
            self._delete(list(self.resources), run, dry=False)
        except Failed as error:
            run.errors.append(str(error))
        finally:
            self._save()
        return run

    def _save(self) -> None:
        rows = [asdict(one) for one in self.resources.values()]
        self.path.write_text(json.dumps(rows, indent=1, sort_keys=True))

    def _run(self, program: Program, run: Run, *, dry: bool) -> Run:
        monitor = _Monitor(self, run, dry=dry)
        with own_loop():
            pulumi.runtime.set_mocks(
                monitor.mocks, project=self.project, stack=self.stack, preview=dry, monitor=monitor, logger=_QUIET
            )
            pulumi.runtime.set_all_config(self._config, self._secrets)
            try:
                pulumi.runtime.test(lambda: [program(), None][1])()  # type: ignore[no-untyped-call]
            except Exception as error:  # noqa: BLE001  a program may raise anything
                if not run.errors:
                    run.errors.append(f"{type(error).__name__}: {error}")
        if not run.errors:
            gone = [urn for urn in self.resources if urn not in monitor.seen]
            try:
                self._delete(gone, run, dry=dry)
            except Failed as error:
                run.errors.append(str(error))
        return run

    def step(self, wanted: Resource, run: Run, *, dry: bool) -> Resource:
        """Check, then make, change, replace or leave a dynamic resource. Raises `Failed`."""
        old = self.resources.get(wanted.urn)
        checked = self._check(old, wanted)
        if old is None:
            run.steps.append(Step("create", wanted.urn, shown({}, checked)))
            return self._create(wanted, checked, dry=dry)
        answer = self.call(
            "Diff",
            provider_pb2.DiffRequest(id=old.id, urn=old.urn, olds=struct(old.outputs), news=struct(checked)),
            wanted.urn,
        )
        lines = shown(old.inputs, checked)
        if answer.replaces:
            return self._replace(old, wanted, checked, answer.deleteBeforeReplace, run, dry=dry)
        if answer.changes == provider_pb2.DiffResponse.DIFF_NONE:
            run.steps.append(Step("same", wanted.urn))
            made = Resource(wanted.urn, wanted.type, old.id, checked, old.outputs, wanted.after)
        else:
            run.steps.append(Step("update", wanted.urn, lines or ("(it was changed by somebody else)",)))
            outputs = checked if dry else self._update(old, checked)
            made = Resource(wanted.urn, wanted.type, old.id, checked, outputs, wanted.after)
        self.resources[wanted.urn] = made
        return made

    def _check(self, old: Resource | None, wanted: Resource) -> Properties:
        request = provider_pb2.CheckRequest(
            urn=wanted.urn, olds=struct(old.inputs if old else {}), news=struct(wanted.inputs)
        )
        answer = self.call("Check", request, wanted.urn)
        if answer.failures:
            raise Failed("\n".join(f"{wanted.urn}: {one.property}: {one.reason}" for one in answer.failures))
        return plain(answer.inputs)

    def _create(self, wanted: Resource, checked: Properties, *, dry: bool) -> Resource:
        id_, outputs = UNKNOWN, checked
        if not dry:
            request = provider_pb2.CreateRequest(urn=wanted.urn, properties=struct(checked))
            answer = self.call("Create", request, wanted.urn)
            id_, outputs = answer.id, plain(answer.properties)
        made = Resource(wanted.urn, wanted.type, id_, checked, outputs, wanted.after)
        self.resources[wanted.urn] = made
        return made

    def _update(self, old: Resource, checked: Properties) -> Properties:
        request = provider_pb2.UpdateRequest(id=old.id, urn=old.urn, olds=struct(old.outputs), news=struct(checked))
        return plain(self.call("Update", request, old.urn).properties)

    def _replace(
        self, old: Resource, wanted: Resource, checked: Properties, delete_first: bool, run: Run, *, dry: bool
    ) -> Resource:
        run.steps.append(Step("replace", wanted.urn, shown(old.inputs, checked)))
        if dry:
            return self._create(wanted, checked, dry=True)
        if delete_first:
            self._take_away(old)
        made = self._create(wanted, checked, dry=False)
        if not delete_first:
            self._take_away(old)
        return made

    def _delete(self, urns: Iterable[str], run: Run, *, dry: bool) -> None:
        """What depends on another goes before it. Raises `Failed`."""
        left = list(urns)
        while left:
            free = [
                one for one in left if not any(one in self.resources[other].after for other in left if other != one)
            ]
            assert free, f"a circle: {left}"
            for urn in reversed(free):
                one = self.resources[urn]
                run.steps.append(Step("delete", urn))
                if one.dynamic and not dry:
                    self._take_away(one)
                del self.resources[urn]
                left.remove(urn)

    def _take_away(self, one: Resource) -> None:
        request = provider_pb2.DeleteRequest(id=one.id, urn=one.urn, properties=struct(one.outputs))
        self.call("Delete", request, one.urn)

    def _read_all(self, run: Run) -> None:
        for one in [one for one in self.resources.values() if one.dynamic]:
            request = provider_pb2.ReadRequest(
                id=one.id, urn=one.urn, properties=struct(one.outputs), inputs=struct(one.inputs)
            )
            try:
                answer = self.call("Read", request, one.urn)
            except Failed as error:
                run.errors.append(str(error))
                continue
            if not answer.id:
                run.steps.append(Step("refresh", one.urn, ("is not there any more",)))
                del self.resources[one.urn]
                continue
            outputs = plain(answer.properties)
            inputs = plain(answer.inputs) if answer.HasField("inputs") else one.inputs
            if lines := shown(one.outputs, outputs):
                run.steps.append(Step("refresh", one.urn, lines))
            self.resources[one.urn] = Resource(one.urn, one.type, answer.id, inputs, outputs, one.after)

    def call(self, name: str, request: Any, urn: str) -> Any:
        try:
            return getattr(self.provider, name)(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise Failed(f"{urn}: {error.details()}") from None


@contextmanager
def own_loop() -> Iterator[None]:
    """Other tests leave this thread without an event loop, and none is to be left to them."""
    loop = asyncio.new_event_loop()
    # of several resources that fail at once only the first is asked for its error
    loop.set_exception_handler(lambda *_: None)
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class _Nothing(mocks.Mocks):
    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        return {}, None

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        return f"{args.name}-id", dict(args.inputs)


class _Monitor(mocks.MockMonitor):
    """What the program registers its resources with, in threads of their own; one step is done at a time."""

    def __init__(self, engine: Engine, run: Run, *, dry: bool) -> None:
        super().__init__(_Nothing())
        self.engine, self.run, self.dry = engine, run, dry
        self.seen: set[str] = set()
        self._lock = threading.Lock()

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802  as in the protocol
        if request.type == "pulumi:pulumi:Stack":
            return super().RegisterResource(request)  # type: ignore[no-untyped-call]
        urn = self.make_urn(request.parent, request.type, request.name)
        inputs = plain(request.object)
        after = sorted({*request.dependencies, *([request.parent] if request.parent else [])} & self.seen)
        wanted = Resource(urn, request.type, f"{request.name}-id", inputs, inputs, after)
        with self._lock:
            if self.run.errors:
                raise Failed("another step failed before")
            if urn in self.seen:
                self.run.errors.append(f"{urn}: there are two of it")
                raise Failed(self.run.errors[0])
            self.seen.add(urn)
            try:
                if wanted.dynamic:
                    wanted = self.engine.step(wanted, self.run, dry=self.dry)
                else:
                    self.engine.resources[urn] = wanted
            except Failed as error:
                self.run.errors.append(str(error))
                raise
        id_ = "" if wanted.id == UNKNOWN else wanted.id
        return resource_pb2.RegisterResourceResponse(urn=urn, id=id_, object=struct(wanted.outputs))


def struct(properties: Mapping[str, Any]) -> struct_pb2.Struct:
    found = struct_pb2.Struct()
    json_format.ParseDict(dict(properties), found)
    return found


def plain(given: struct_pb2.Struct) -> Properties:
    """As the real engine gives properties to a provider that accepts no secrets: their bare values."""
    found = _bare(json_format.MessageToDict(given))
    assert isinstance(found, dict)
    return found


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return (
            _bare(value["value"]) if value.get(_SIGNATURE) == _SECRET else {k: _bare(one) for k, one in value.items()}
        )
    return [_bare(one) for one in value] if isinstance(value, list) else value


def shown(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """The difference of two sets of properties, texts of several lines line by line."""
    found: list[str] = []
    for name in sorted({*old, *new} - {PROVIDER}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1)
            found += [f"{name}:", *(f"  {line}" for line in list(lines)[2:])]
        else:
            found.append(f"{name}: {_word(before)} => {_word(after)}")
    return tuple(found)


def _word(value: Any) -> str:
    return "[unknown]" if value == UNKNOWN else json.dumps(value)
