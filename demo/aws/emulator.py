"""The emulated AWS: moto's server on a loopback port, with our front before it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import boto3
from botocore.config import Config
from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from demo.aws import events
from demo.aws.clock import Clock
from demo.aws.content import Content
from demo.aws.control import Control
from demo.aws.front import Front
from demo.aws.handler import Handler
from demo.aws.identity import PARTITION, Identities
from demo.aws.keys import Keys
from demo.aws.policy import Policy
from demo.aws.rules import Caller, CallLog, Denial, Fault, FaultKind, Rules
from demo.aws.snapshots import Library, Snapshot

REGION = "eu-central-1"
ACCOUNT = "111122223333"


@dataclass(frozen=True)
class Credentials:
    """Keys of an administrator of one account."""

    account: str
    access_key: str
    secret_key: str
    session_token: str | None = None


class EmulatedAws:
    """A whole AWS, gone when the block is left. One at a time in a process, since moto keeps its state in the process.

    `folder` takes the contents of volumes and snapshots; without one a temporary folder is used and removed.
    """

    _running: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, *, port: int = 0, folder: Path | None = None) -> None:
        self._port = port
        self._given_folder = folder
        self.clock = Clock()
        self.rules = Rules()
        self.log = CallLog()
        self._server: BaseWSGIServer | None = None

    def start(self) -> Self:
        """Raises `RuntimeError` if another one runs in this process, `OSError` if the port or the folder cannot be used."""
        if not self._running.acquire(blocking=False):
            raise RuntimeError("one emulated AWS runs already in this process")
        self.folder = self._given_folder or Path(tempfile.mkdtemp(prefix="emulated-aws-"))
        try:
            self._serve()
        except BaseException:
            self._remove_folder()
            self._running.release()
            raise
        return self

    def _serve(self) -> None:
        os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # 1,300 snapshots that are nobody's
        _reset_moto()
        self._identities = Identities(self.clock)
        self.library = Library(self.folder, self.clock, self.rules, Keys(self.rules, self.log, self.clock))
        moto = DomainDispatcherApplication(create_backend_app)
        self._front = Front(self.library, self.rules, self.log, self._identities, moto)
        self._credentials: dict[str, Credentials] = {}
        self._sessions: dict[tuple[str, str], boto3.Session] = {}
        with socket.create_server(("127.0.0.1", self._port), backlog=128) as listening:
            self._server = make_server(
                "127.0.0.1", 0, self._front, threaded=True, request_handler=Handler, fd=listening.fileno()
            )
        self._thread = threading.Thread(target=self._server.serve_forever, name="emulated-aws", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = None
        Handler.disconnect()
        self.library.store.close()
        _reset_moto()
        self._remove_folder()
        self._running.release()

    def _remove_folder(self) -> None:
        if self._given_folder is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The `endpoint_url` of every service."""
        if self._server is None:
            raise RuntimeError("the emulated AWS is not running")
        return f"http://127.0.0.1:{self._server.port}"

    def credentials(self, account: str = ACCOUNT) -> Credentials:
        """Keys of the user `admin` of an account, which exists from now on."""
        if account not in self._credentials:
            backend = iam_backends[account][PARTITION]
            backend.create_user("us-east-1", "admin")
            key = backend.create_access_key("admin")
            self._credentials[account] = Credentials(account, key.access_key_id, key.secret_access_key)
        return self._credentials[account]

    def session(self, account: str = ACCOUNT, region: str = REGION) -> boto3.Session:
        """A session of an account's administrator, the same one each time; its clients need `endpoint_url`."""
        if (account, region) not in self._sessions:
            keys = self.credentials(account)
            session = boto3.Session(keys.access_key, keys.secret_key, keys.session_token, region)
            self._sessions[account, region] = session
        return self._sessions[account, region]

    def client(
        self, service: Any, account: str = ACCOUNT, region: str = REGION, *, retries: int = 0, strict: bool = True
    ) -> Any:
        """A boto3 client of an account's administrator, which repeats failed calls `retries` times.

        Unless it is `strict` it also sends what botocore knows to be wrong.
        """
        config = Config(
            retries={"total_max_attempts": retries + 1},
            connect_timeout=10,
            read_timeout=30,
            parameter_validation=strict,
        )
        return self.session(account, region).client(service, endpoint_url=self.endpoint, config=config)

    def volume(self, volume_id: str, account: str = ACCOUNT, region: str = REGION) -> Content:
        """The bytes of a volume, to be read and changed as if its instance did it."""
        return self._front.ec2.content(account, region, volume_id)

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """A snapshot as the emulator knows it. Raises `KeyError`."""
        return self.library.snapshots[snapshot_id]

    def vanish(self, snapshot_id: str) -> None:
        """Delete a snapshot as somebody else would, behind everybody's back."""
        self._front.ec2.forget(self.snapshot(snapshot_id))

    def deny(self, action: str, *, principal: str = "*", resource: str = "*", standing: bool = False) -> Denial:
        """Take a permission away, also from what an action implies: `ec2:CreateTags`, `kms:Decrypt`. Undone by `allow`.

        A `standing` denial outlives `calm`.
        """
        denial = Denial(action, principal, resource)
        (self.rules.standing if standing else self.rules.denials).append(denial)
        return denial

    def allow(self, denial: Denial) -> None:
        for denials in (self.rules.denials, self.rules.standing):
            if denial in denials:
                denials.remove(denial)

    def restrict(self, principal: str, document: Mapping[str, Any]) -> None:
        """From now on `principal` (as for `deny`) may do only what this IAM policy allows, and what others of its allow.

        Raises `ValueError` if the policy has something that is not understood; see `demo.aws.policy`.
        """
        self.rules.policies.append((principal, Policy(document)))

    def fault(self, kind: FaultKind, action: str = "ebs:GetSnapshotBlock", **how: Any) -> Fault:
        """Let something go wrong; `how` is what `Fault` takes."""
        fault = Fault(kind, action, **how)
        self.rules.faults.append(fault)
        return fault

    def expire_tokens(self) -> None:
        """All block and page tokens given out so far are void."""
        self._front.ebs.tokens.expire()

    def announce(self, *, on: bool = True) -> None:
        """Let starts, stops and ends of instances appear as events on the account's bus from now on."""
        self._front.announcer.on = on

    def queue(self, account: str = ACCOUNT, region: str = REGION, name: str = "kumomori-events") -> str:
        """The URL of a new SQS queue that gets every state change of instances; see `announce` and `demo.aws.events`."""
        sqs, bus = self.client("sqs", account, region), self.client("events", account, region)
        url = str(sqs.create_queue(QueueName=name)["QueueUrl"])
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        pattern = {"source": [events.SOURCE], "detail-type": [events.STATE_CHANGE]}
        bus.put_rule(Name=name, EventPattern=json.dumps(pattern))
        bus.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
        return url

    def state_changed(self, instance: str, state: str, account: str = ACCOUNT, region: str = REGION) -> dict[str, Any]:
        """Publish one event; it is returned, so that it can be sent to the queue once more, or out of order."""
        event = events.state_change(instance, state, account=account, region=region, clock=self.clock)
        events.publish(event)
        return event

    def crowd(self, count: int, account: str = ACCOUNT, region: str = REGION) -> None:
        """Let DescribeInstances and DescribeVolumes tell of `count` instances, at the cost of one: for measurements.

        All else knows only the one that they are told after. What was there before is not told of any more.
        """
        named = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "crowd"}]}]
        ec2 = self.client("ec2", account, region)
        ec2.run_instances(ImageId="ami-0123456789abcdef0", MinCount=1, MaxCount=1, TagSpecifications=named)
        self._front.ec2.crowd(Caller(account, region, "", ""), count)

    def make_instance_store(self, instance_id: str, account: str = ACCOUNT, region: str = REGION) -> None:
        """Turn an instance into one that has no EBS volume at all."""
        self._front.ec2.make_instance_store(account, region, instance_id)

    def hear(self, control: Control) -> None:
        """Let another process change things, too: see `demo.aws.control`."""
        self._front.control = control

    def calm(self) -> None:
        """Take back every rule: denials that are not standing, policies, faults, limits, delays."""
        fresh = Rules()
        for name in vars(fresh):
            if not name.startswith("_") and name != "standing":
                setattr(self.rules, name, getattr(fresh, name))


def _reset_moto() -> None:
    """Forget every account of moto's."""
    BackendDict.reset()
    reset_model_data()
