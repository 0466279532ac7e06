"""A fleet for the tests: its database, an emulated AWS in a process of its own, worker processes, and what is left in the end."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from sqlalchemy import select, update

from client.model import AccountIn, ResultIn, ScanKind, ScanOrder, ScanState, Why
from cloud.aws.accounts import Role, Sessions
from cloud.aws.enter import enter
from core.estate import Instance, Place
from demo.aws.control import Remote
from scanner.fleet import admission, kept
from scanner.fleet.clouds import AccountClouds
from scanner.fleet.database import Database
from scanner.fleet.migrations import upgrade
from scanner.fleet.objects import Objects
from scanner.fleet.sealing import Keys
from scanner.fleet.sweeper import Swept, sweep_clouds, sweep_objects
from scanner.fleet.tables import base, outbox, resource, scan
from tests.scanner.fleet.workers import PATIENCE_SECONDS, ROOT, eventually

ROLE = "KumomoriScanner"
LEASE_SECONDS = 8.0  # on a machine with much else to do
BRIEF_SECONDS = 2.0  # of one that will be killed: the next one waits for its end


@contextmanager
def emulated(folder: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """An emulated AWS with the three machines of the demo; what its ready file says."""
    ready = folder / "ready.json"
    with (folder / "aws.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "demo.aws", "--estate", "--with-parent", "--ready-file", str(ready), *arguments],
            cwd=ROOT, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        eventually(lambda: ready.exists() or process.poll() is not None, "the emulated AWS serves")
        yield json.loads(ready.read_text())
    finally:
        process.terminate()
        process.wait()


@dataclass
class Fleet:
    """`work` is the module of the workers: `killed` has places to die at."""

    url: str
    folder: Path
    aws: dict[str, Any]
    work: str = "scanner.fleet.workflow"
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Database(self.url)
        upgrade(self.database)
        self.installation = kept.installation(self.database)
        self.place = Place("aws", self.aws["account"], self.aws["region"])
        self.remote = Remote(self.aws)
        self.data = self.folder / "data"
        account = AccountIn(cloud="aws", account=self.place.account, regions=(self.place.region,), role=ROLE)
        with self.database.write() as connection:
            kept.write(connection, kept.ACCOUNTS, json.dumps([account.model_dump(mode="json")]))
        self.session = boto3.Session(self.aws["access_key"], self.aws["secret_key"], region_name=self.place.region)
        self.sessions = Sessions(self.session, endpoint_url=self.aws["endpoint"])
        self.clouds = AccountClouds(self.database, self.installation, endpoint_url=self.aws["endpoint"])
        self.clouds._sessions = self.sessions

    # orders

    def machine(self, name: str) -> Instance:
        found: Instance = self.connector().instance(self.aws["machines"][name]["instance"])
        return found

    def connector(self, installation: str = "") -> Any:
        role = None if installation else Role(ROLE)
        return enter(self.sessions, self.place, role, installation or self.installation)

    def site(self, name: str, *machines: Instance) -> None:
        """The file of a site, of which the console told as well."""
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(asdict(one) | {"launched": None}) + "\n" for one in machines))
        account = AccountIn(cloud="file", account=name, instances_file=str(path))
        with self.database.write() as connection:
            known = json.loads(kept.read(connection, kept.ACCOUNTS, "[]"))
            kept.write(connection, kept.ACCOUNTS, json.dumps([*known, account.model_dump(mode="json")]))

    def order(self, scan_id: str, instance: Instance | None = None, **fields: Any) -> ScanOrder:
        """Written down, and due."""
        machine = instance or self.machine("web-1")
        given: dict[str, Any] = {
            "scan": scan_id,
            "kind": ScanKind.INSTANCE,
            "place": machine.place,
            "machine": str(machine),
            "instance": None if fields.get("kind") is ScanKind.IMAGE else machine,
            "why": Why.SCHEDULE,
            "not_before": datetime.now(UTC) - timedelta(seconds=5),
            "settings": {"base_snapshots.keep": 0},
        }
        made = ScanOrder(**(given | fields))
        with self.database.write() as connection:
            assert admission.write_down(self.database, connection, made)
        return made

    def ask(self, what: str, scan_id: str) -> None:
        with self.database.write() as connection:
            if what == "stop":
                admission.stop(self.database, connection, scan_id)
            else:
                admission.pause(self.database, connection, scan_id, on=what == "pause")

    def hurry(self) -> None:
        """What waits to be tried again is due now."""
        with self.database.write() as connection:
            now = self.database.now_ms(connection)
            connection.execute(update(scan).where(scan.c.state == ScanState.WAITING).values(not_before_ms=now - 1))

    # workers

    def environment(self, **more: str) -> dict[str, str]:
        token = self.folder / "token"
        token.touch()
        mine = {
            "KUMOMORI_FLEET_DATABASE": self.url,
            "KUMOMORI_FLEET_DATA": str(self.data),
            "KUMOMORI_FLEET_CONSOLE": "http://127.0.0.1:9",
            "KUMOMORI_FLEET_TOKEN_FILE": str(token),
            "KUMOMORI_FLEET_ENDPOINT_URL": self.aws["endpoint"],
            "AWS_ACCESS_KEY_ID": self.aws["access_key"],
            "AWS_SECRET_ACCESS_KEY": self.aws["secret_key"],
            "AWS_DEFAULT_REGION": self.place.region,
        }
        return {**os.environ, **mine, **more}

    def worker(self, slot: str = "slot-1", lease: float = LEASE_SECONDS, **env: str) -> subprocess.Popen[bytes]:
        with (self.folder / "workers.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "scanner.fleet.worker", "--database", self.url, "--slot", slot, "--lease", str(lease),
                 "--poll", "0.05", "--work", self.work],
                cwd=ROOT, env=self.environment(**env), stdout=log, stderr=log,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def log(self) -> str:
        path = self.folder / "workers.log"
        return path.read_text()[-4000:] if path.exists() else ""

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.database.close()

    # results

    def row(self, scan_id: str) -> Any:
        with self.database.read() as connection:
            return connection.execute(select(scan).where(scan.c.id == scan_id)).one()

    def ended(self, *ids: str, seconds: float = PATIENCE_SECONDS) -> dict[str, ResultIn]:
        """Wait until these scans have ended, keeping a worker alive for those that die; their results."""
        deadline = time.monotonic() + seconds
        while not set(ids) <= (found := self.results()).keys():
            assert time.monotonic() < deadline, f"{[self.row(one) for one in ids]}\n{self.log()}"
            time.sleep(0.05)
        return {one: found[one] for one in ids}

    def results(self) -> dict[str, ResultIn]:
        with self.database.read() as connection:
            rows = connection.execute(select(outbox)).all()
        return {row.scan: ResultIn.model_validate_json(row.result) for row in rows}

    @staticmethod
    def report(result: ResultIn) -> Any:
        return json.loads(gzip.decompress(base64.b64decode(result.report)))

    # what is left

    def sweep(self, **how: Any) -> list[Swept]:
        return list(sweep_clouds(self.database, None, self.clouds, also=[self.place], **how))

    def objects(self) -> Objects:
        return Objects(self.data / "objects", Keys.kept_in(self.data / "manifest.keys"), scratch=self.data / "work")

    def sweep_objects(self) -> list[str]:
        return list(sweep_objects(self.database, None, self.objects()))

    def snapshots(self) -> dict[str, Mapping[str, str]]:
        """All that are in the account, whosever they are: their tags by id."""
        found = self.session.client("ec2", endpoint_url=self.aws["endpoint"]).describe_snapshots(OwnerIds=["self"])
        return {
            one["SnapshotId"]: {tag["Key"]: tag["Value"] for tag in one.get("Tags", ())} for one in found["Snapshots"]
        }

    def ours(self) -> set[str]:
        return {one for one, tags in self.snapshots().items() if tags.get("kumomori:installation") == self.installation}

    def bases(self) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(base).order_by(base.c.made_ms)).all())

    def ledger(self) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(resource).order_by(resource.c.number)).all())
