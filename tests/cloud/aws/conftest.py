"""The emulated AWS on loopback, and a record of every call that our code makes, held against the policies of its role."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.session import Session as CoreSession

from cloud.aws import accounts
from cloud.aws.accounts import Sessions
from cloud.aws.connector import AwsConnector, connect
from demo.aws.emulator import REGION, EmulatedAws
from infra.aws import policies
from infra.aws.policies import Setup

_ACCOUNTS = itertools.count(100000000001)
INSTALLATION = "test-1"
SETUP = Setup(INSTALLATION, scanner_account="222222222222", copy_key="arn:aws:kms:us-east-1:123456789012:key/1")
# Calls whose permission has another name, or several.
IMPLIED_BY_TESTS: set[str] = set()
ACTIONS = {("sqs", "DeleteMessageBatch"): "sqs:DeleteMessage"}


AMI = "ami-12c6146b"


def launch(ec2: Any, disks: int = 2, tags: dict[str, str] | None = None, kind: str = "t3.micro", **more: Any) -> str:
    names = ["/dev/sda1", "/dev/sdf", "/dev/sdg"][:disks]
    mappings = [{"DeviceName": name, "Ebs": {"VolumeSize": 1 + at}} for at, name in enumerate(names)]
    given = [{"Key": key, "Value": value} for key, value in (tags or {"Name": "web"}).items()]
    answer = ec2.run_instances(
        ImageId=AMI,
        MinCount=1,
        MaxCount=1,
        InstanceType=kind,
        BlockDeviceMappings=mappings,
        TagSpecifications=[{"ResourceType": "instance", "Tags": given}],
        **more,
    )
    return str(answer["Instances"][0]["InstanceId"])


def fails(code: str, message: str = "no", **more: Any) -> Callable[..., Any]:
    def call(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": code, "Message": message}, **more}, "CreateSnapshots")

    return call


class Over:
    """A client with some calls replaced."""

    def __init__(self, client: Any, **calls: Callable[..., Any]) -> None:
        self._client = client
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@dataclass
class Recorded:
    """Actions that our code called, by the role whose session it used."""

    calls: dict[str, set[str]] = field(default_factory=dict)

    def hook(self, role: str) -> Callable[..., None]:
        def record(model: Any, **_: Any) -> None:
            service = model.service_model.signing_name
            action = ACTIONS.get((service, model.name), f"{service}:{model.name}")
            self.calls.setdefault(role, set()).add(action)

        return record

    def outside(self) -> dict[str, set[str]]:
        allowed = {
            "scanner": policies.actions(policies.scanner(SETUP)),
            "organization": policies.actions(policies.organization(SETUP, ["KumomoriScanner"]))
            | policies.actions(policies.scanner(SETUP)),
            "responder": policies.actions(policies.responder(SETUP)),
            "events": policies.actions(policies.events("arn:aws:sqs:us-east-1:123456789012:q")),
        }
        return {role: calls - allowed[role] for role, calls in self.calls.items() if calls - allowed[role]}


@pytest.fixture(autouse=True)
def no_credentials_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def loader() -> Loader:
    """Service models, read once: they are most of a session's cost."""
    return Loader()


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatedAws]:
    with EmulatedAws() as running:
        yield running


@pytest.fixture
def account(emulator: EmulatedAws) -> Iterator[str]:
    """An account that nothing was done in yet, so that tests need no new emulator."""
    yield f"{next(_ACCOUNTS):012}"
    emulator.calm()


@pytest.fixture
def keys(emulator: EmulatedAws, account: str) -> dict[str, Any]:
    given = emulator.credentials(account)
    return {"aws_access_key_id": given.access_key, "aws_secret_access_key": given.secret_key}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, emulator: EmulatedAws) -> Iterator[Recorded]:
    """Fails the test if a call lies outside the policies of its role.

    Blocks are not read through the SDK: those calls, and what they imply of keys, are taken from the emulator's own log.
    """
    found = Recorded()

    class Watched(CoreSession):
        def __init__(self) -> None:
            super().__init__()
            self.register("before-call", found.hook("scanner"))

    monkeypatch.setattr(accounts, "CoreSession", Watched)
    emulator.log.clear()
    yield found
    blocks = {call.action for call in emulator.log.calls() if call.service == "ebs" or call.implied}
    found.calls.setdefault("scanner", set()).update(blocks - IMPLIED_BY_TESTS)
    assert found.outside() == {}


@pytest.fixture
def sessions(
    emulator: EmulatedAws, recorded: Recorded, loader: Loader, keys: dict[str, Any]
) -> Callable[[str], Sessions]:
    """Sessions of a role whose calls are recorded."""

    def make(role: str) -> Sessions:
        core = CoreSession()
        core.register_component("data_loader", loader)
        core.register("before-call", recorded.hook(role))
        base = boto3.Session(**keys, region_name=REGION, botocore_session=core)
        return Sessions(base, endpoint_url=emulator.endpoint, loader=loader)

    return make


@pytest.fixture
def backdoor(emulator: EmulatedAws, loader: Loader, keys: dict[str, Any]) -> Callable[[str], Any]:
    """Clients for a test's own work, not recorded."""
    core = CoreSession()
    core.register_component("data_loader", loader)
    session = boto3.Session(**keys, region_name=REGION, botocore_session=core)

    @functools.cache
    def client(service: str) -> Any:
        return session.client(service, endpoint_url=emulator.endpoint)  # type: ignore[call-overload]

    return client


@pytest.fixture
def ec2(backdoor: Callable[[str], Any]) -> Any:
    return backdoor("ec2")


@pytest.fixture
def connector(sessions: Callable[[str], Sessions], account: str) -> AwsConnector:
    """With the scanner's role; waits for nothing."""
    of = sessions("scanner")
    made = connect(of, of.base, account, REGION, INSTALLATION)
    return replace(made, settle_seconds=0.0, pause=lambda _: None)
