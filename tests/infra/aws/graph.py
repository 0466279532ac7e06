"""Runs a Pulumi program in this process and gives back what it would make: no engine, no AWS."""

from __future__ import annotations

import asyncio
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi.runtime import settings
from pulumi.runtime.mocks import MockCallArgs, MockResourceArgs, Mocks, set_mocks

ACCOUNT = "111122223333"
REGION = "eu-central-1"
_SERVICES = {"cloudwatch": "events", "lb": "elasticloadbalancing", "kms": "kms"}


@dataclass(frozen=True)
class Made:
    type: str  # aws:iam/role:Role
    name: str
    inputs: Mapping[str, Any]

    @property
    def policy(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.inputs["policy"])
        return document


@dataclass
class Graph:
    made: list[Made] = field(default_factory=list)
    exports: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: str, name: str = "") -> list[Made]:
        """By the last part of the type: `Role`."""
        return [one for one in self.made if one.type.rpartition(":")[2] == kind and name in one.name]

    def one(self, kind: str, name: str = "") -> Made:
        (found,) = self.of(kind, name)
        return found

    def types(self) -> dict[str, int]:
        return dict(sorted(Counter(one.type for one in self.made).items()))


class Recorder(Mocks):
    """Answers as the provider for AWS would: ids, ARNs and what else is known only afterwards."""

    def __init__(self, graph: Graph, account: str) -> None:
        self._graph = graph
        self._account = account

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        if args.typ.startswith(("aws:", "pulumi-python:dynamic")):
            self._graph.made.append(Made(args.typ, args.name, dict(args.inputs)))
        name = str(args.inputs.get("name") or args.name)
        service = re.split(r"[:/]", args.typ)[1]
        made = {
            "arn": f"arn:aws:{_SERVICES.get(service, service)}:{args.inputs.get('region', '')}:{self._account}:{name}",
            "name": name,
            "url": f"https://sqs.{args.inputs.get('region')}.amazonaws.com/{self._account}/{name}",
            "address": f"{name}.abc.{args.inputs.get('region')}.rds.amazonaws.com",
            "bucket": f"{name}-1a2b3c4",
            "dnsName": f"internal-{name}.elb.amazonaws.com",
            "zoneId": "Z215JYRZR1TBD5",
            "latestVersion": 3,
            "masterUserSecrets": [
                {"secretArn": f"arn:aws:secretsmanager:{REGION}:{self._account}:secret:rds!db-{name}-a1B2c3"}
            ],
        }
        if "iam/role:" in args.typ:
            made["arn"] = f"arn:aws:iam::{self._account}:role/{name}"
        if not args.typ.startswith("aws:"):
            return f"{args.name}-id", dict(args.inputs)
        ids = {"SecurityGroup": "sg-0a1b2c3d4e5f60718"}
        return ids.get(args.typ.rpartition(":")[2], f"{args.name}-id"), {**made, **args.inputs}

    def call(self, args: MockCallArgs) -> dict[str, Any]:  # type: ignore[override]  # what Pulumi takes, and documents
        if args.token == "aws:index/getCallerIdentity:getCallerIdentity":
            return {
                "accountId": self._account,
                "arn": f"arn:aws:iam::{self._account}:user/admin",
                "userId": "A",
                "id": self._account,
            }
        raise AssertionError(f"nothing here answers {args.token}")


@contextmanager
def recorded(account: str = ACCOUNT, config: Mapping[str, str] | None = None) -> Iterator[Graph]:
    graph = Graph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Pulumi's own, about event loops
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        # Pulumi makes a loop in each thread in which it "calls the engine", and forgets it: here it is one, and is closed.
        threads = ThreadPoolExecutor(1, initializer=lambda: asyncio.set_event_loop(asyncio.new_event_loop()))
        loop.set_default_executor(threads)
        set_mocks(Recorder(graph, account), project="estate", stack="prod")
        pulumi.runtime.set_all_config(dict(config or {}))
        try:
            yield graph
        finally:
            settings.reset_options()
            loop.set_exception_handler(lambda *_: None)  # of a program that failed: it is raised once, that is enough
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            threads.submit(lambda: asyncio.get_event_loop().close()).result()
            threads.shutdown()
            asyncio.set_event_loop(None)
            loop.close()
            graph.made.sort(
                key=lambda one: (one.type, one.name)
            )  # resources that do not wait for each other come as they like


def run(program: Callable[[], object], *, account: str = ACCOUNT) -> Graph:
    """All that `program` makes. Raises what it raises, also what is found out later."""
    with recorded(account) as graph:
        pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]
    return graph


def statements(policy: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = policy["Statement"]
    return found
