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
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.session import Session as CoreSession

from cloud.aws import accounts
from cloud.aws.accounts import ONCE, READS, Sessions
from cloud.aws.connector import AwsConnector, connect
from demo.aws.emulator import REGION, Credentials, EmulatedAws
from infra.aws import policies
from infra.aws.policies import Setup

_ACCOUNTS = itertools.count(100000000001)
INSTALLATION = "test-1"
SETUP = Setup(INSTALLATION, scanner_account="222222222222", copy_key="arn:aws:kms:us-east-1:123456789012:key/1")
# Calls whose permission has another name, or several.
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
        answer: Any = {"Error": {"Code": code, "Message": message}, **more}
        raise ClientError(answer, "CreateSnapshots")

    return call


class _Over:
    """A client with some calls replaced."""

    def __init__(self, client: Any, **calls: Callable[..., Any]) -> None:
        self._client = client
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def over(client: Any, **calls: Callable[..., Any]) -> Any:
    """`client` with some calls replaced."""
    return _Over(client, **calls)


@dataclass
class Recorded:
    """Actions that our code called, by the role whose session it used."""

    calls: dict[str, set[str]] = field(default_factory=dict)

    def add(self, role: str, model: Any) -> None:
        service = model.service_model.signing_name
        action = ACTIONS.get((service, model.name), f"{service}:{model.name}")
        self.calls.setdefault(role, set()).add(action)

    def outside(self) -> dict[str, set[str]]:
        allowed = {
            "scanner": policies.actions(policies.scanner(SETUP)) | {"sts:AssumeRole"},  # how it gets there
            "organization": policies.actions(policies.organization(SETUP, ["KumomoriScanner"]))
            | policies.actions(policies.scanner(SETUP)),
            "assumed": policies.actions(policies.scanner(SETUP)) | policies.actions(policies.responder(SETUP)),
            "responder": policies.actions(policies.responder(SETUP)),
            "events": policies.actions(policies.events("arn:aws:sqs:us-east-1:123456789012:q")),
        }
        return {role: calls - allowed[role] for role, calls in self.calls.items() if calls - allowed[role]}


class Door:
    """Sessions of one role. Clients take a while to make, so they live as long as the emulator, and only the keys change."""

    def __init__(self, role: str, endpoint: str, loader: Loader) -> None:
        core = CoreSession()
        core.register_component("data_loader", loader)
        core.register("before-call", self._record)
        self.session = boto3.Session("none", "none", region_name=REGION, botocore_session=core)
        self.sessions = CachedSessions(self.session, endpoint_url=endpoint, loader=loader)
        self.recorded = Recorded()
        self._role = role

    def enter(self, keys: Credentials, recorded: Recorded) -> Sessions:
        held = self.session.get_credentials()
        assert held
        held.access_key, held.secret_key = keys.access_key, keys.secret_key
        self.recorded = recorded
        return self.sessions

    def _record(self, **call: Any) -> None:
        self.recorded.add(self._role, call["model"])


class CachedSessions(Sessions):
    def __init__(self, base: boto3.Session, **how: Any) -> None:
        super().__init__(base, **how)
        self._clients: dict[Any, Any] = {}

    def client(self, session: boto3.Session, service: Any, region: str, *, config: Config = READS) -> Any:
        key = (id(session), service, region, id(config))
        if session is not self.base:
            return super().client(session, service, region, config=config)
        if key not in self._clients:
            self._clients[key] = super().client(session, service, region, config=config)
        return self._clients[key]


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


@pytest.fixture(scope="module")
def doors(emulator: EmulatedAws, loader: Loader) -> Callable[[str], Door]:
    return functools.cache(lambda role: Door(role, emulator.endpoint, loader))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, emulator: EmulatedAws) -> Iterator[Recorded]:
    """Fails the test if a call lies outside the policies of its role.

    Blocks are not read through the SDK: those calls, and what they imply of keys, are taken from the emulator's own log.
    """
    found = Recorded()

    class Watched(CoreSession):
        def __init__(self) -> None:
            super().__init__()
            self.register("before-call", lambda **call: found.add("assumed", call["model"]))

    monkeypatch.setattr(accounts, "CoreSession", Watched)
    emulator.log.clear()
    yield found
    blocks = {call.action for call in emulator.log.calls() if call.service == "ebs" or call.implied}
    found.calls.setdefault("scanner", set()).update(blocks)
    assert found.outside() == {}


@pytest.fixture
def sessions(
    emulator: EmulatedAws, recorded: Recorded, account: str, doors: Callable[[str], Door]
) -> Callable[[str], Sessions]:
    """Sessions of a role in the test's account, whose calls are recorded."""
    return lambda role: doors(role).enter(emulator.credentials(account), recorded)


@pytest.fixture
def backdoor(emulator: EmulatedAws, account: str, doors: Callable[[str], Door]) -> Callable[[str], Any]:
    """Clients for a test's own work, not recorded."""
    of = doors("the test's own").enter(emulator.credentials(account), Recorded())
    return lambda service: of.client(of.base, service, REGION, config=ONCE)


@pytest.fixture
def ec2(backdoor: Callable[[str], Any]) -> Any:
    return backdoor("ec2")


@pytest.fixture
def connector(sessions: Callable[[str], Sessions], account: str) -> AwsConnector:
    """With the scanner's role; waits for nothing."""
    of = sessions("scanner")
    made = connect(of, of.base, account, REGION, INSTALLATION)
    return replace(made, settle_seconds=0.0, pause=lambda _: None)
