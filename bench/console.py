"""A console's process under results and listings, on SQLite and PostgreSQL."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import sqlalchemy as sa
from pydantic import BaseModel

from bench.measure import ROOT
from bench.page import Section, seconds
from client.digest import digest
from client.model import AccountIn, Compare, ResultIn, ScanIn, ScanState, Scope, Sighting, TokenIn
from console.clock import now
from console.nopolicies import NoPolicies
from console.settings import PREFIX
from console.store import accounts, estate, scans, tokens
from console.store.database import Database
from console.store.migrate import upgrade
from core.estate import Disk, Instance, Place
from tests.postgres import server

FLEET: Final = "bench"
FINDINGS: Final = 100  # in each result
SENDERS: Final = 4
_IN_A_PLACE: Final = 1_000
_INTO: Final = {"INSERT": 2, "UPDATE": 1, "DELETE": 2}  # which word of a statement names the table


def console(instances: int, results: int) -> Section:
    """Seconds for `results` results and for comparing `instances` instances, over HTTP, both databases on this machine."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="kumomori-bench-") as folder:
        rows.append(["SQLite", *_measured(f"sqlite:///{folder}/console.sqlite", instances, results)])
    with server() as postgres:
        rows.append(["PostgreSQL", *_measured(postgres.database(), instances, results)])
    head = [
        "database",
        "results/s",
        "findings/s",
        "again/s",
        "first compare s",
        "compare s",
        "rows of instances written",
    ]
    about = (
        f"{results:,} results of {FINDINGS} findings each, sent by {SENDERS} threads, then all of them again; {instances:,} instances in "
        f"places of {_IN_A_PLACE:,}: sent for the first time (compare and sightings), then compared unchanged. Wall time, console and "
        "senders on one machine; PostgreSQL without fsync."
    )
    notes = ["Of unchanged instances nothing may be written but when their place was listed."]
    return Section("Console: results and listings", about, head, rows, notes)


def _measured(url: str, instances: int, results: int) -> Sequence[str]:
    database = Database(url)
    upgrade(database)
    with database.write() as connection:
        secret = tokens.make(connection, TokenIn(name=FLEET, scopes=(Scope.FLEET,), fleet=FLEET), FLEET).secret
    places = _places(database, instances)
    with _process(url) as address, httpx.Client(base_url=f"{address}/v1/fleets/{FLEET}", timeout=600) as client:
        client.headers = httpx.Headers({"Authorization": f"Bearer {secret}", "Content-Type": "application/json"})
        began = time.monotonic()
        for place, machines in places.items():
            wanted = _post(client, "compare", _listing(place, machines))["wanted"]
            assert len(wanted) == len(machines)
            _post(client, "sightings", Sighting(instances=tuple(machines), seen=now()))
        first = time.monotonic() - began
        began = time.monotonic()
        for place, machines in places.items():
            assert _post(client, "compare", _listing(place, machines)) == {"wanted": [], "closed": 0}
        again = time.monotonic() - began
        bodies = _results(database, [str(one) for machines in places.values() for one in machines][:results])
        pushed, repeated = _push(client, bodies), _push(client, bodies)
    written = _rows_written(database, places)
    database.close()
    rate = len(bodies) / pushed
    return [
        f"{rate:,.0f}",
        f"{rate * FINDINGS:,.0f}",
        f"{len(bodies) / repeated:,.0f}",
        seconds(first),
        seconds(again),
        f"{written:,}",
    ]


@contextmanager
def _process(url: str) -> Iterator[str]:
    environment = {**os.environ, f"{PREFIX}DATABASE": url, f"{PREFIX}PORT": "0"}
    command = [sys.executable, "-m", "console.serve"]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def _places(database: Database, instances: int) -> dict[Place, list[Instance]]:
    found = {}
    for number in range(0, instances, _IN_A_PLACE):
        place = Place("aws", f"{number:012}", "eu-west-1")
        with database.write() as connection:
            accounts.put(connection, AccountIn(cloud="aws", account=place.account, fleet=FLEET), FLEET, now())
        found[place] = [_instance(place, one) for one in range(min(_IN_A_PLACE, instances - number))]
    return found


def _instance(place: Place, number: int) -> Instance:
    id_ = f"i-{number:017x}"
    disks = tuple(Disk(place, f"vol-{number:016x}{disk}", id_, f"/dev/sd{disk}", 8 << 30) for disk in range(2))
    tags = {"env": "prod", "app": f"app-{number % 50}", "team": "t", "cost": str(number % 7)}
    return Instance(
        place, id_, f"web-{number}", image="ami-1", launched=datetime(2026, 1, 1, tzinfo=UTC), tags=tags, disks=disks
    )


def _listing(place: Place, machines: Sequence[Instance]) -> Compare:
    return Compare(place=place, listed=now(), complete=True, digests={one.id: digest(one) for one in machines})


def _results(database: Database, keys: Sequence[str]) -> list[str]:
    ids: list[str] = []
    with database.write() as connection:
        for start in range(0, len(keys), 500):
            wanted = ScanIn(instances=tuple(keys[start : start + 500]))
            ids.extend(one.id for one in scans.start(connection, wanted, NoPolicies(), FLEET, now())[0])
    report = base64.b64encode(gzip.compress(json.dumps(_report()).encode())).decode()
    return [
        ResultIn(scan=scan, state=ScanState.DONE, started=now(), ended=now(), report=report).model_dump_json()
        for scan in ids
    ]


def _report() -> dict[str, Any]:
    findings = [
        {
            "fingerprint": hashlib.sha256(str(number).encode()).hexdigest(),
            "rule": "linux/authorized-keys",
            "title": "A key that lets somebody in",
            "severity": "medium",
            "volume": 0,
            "path": f"/home/user{number}/.ssh/authorized_keys",
            "subject": f"key {number}",
            "evidence": {"line": number, "type": "ssh-ed25519", "comment": "somebody@somewhere", "options": []},
            "remedy": "Remove it if nobody knows it.",
        }
        for number in range(FINDINGS)
    ]
    volume = {"index": 0, "disk": 0, "uuid": "6e6b8d1c-0000-4000-8000-000000000001", "filesystem": "ext4"}
    return {
        "schema": "kumomori.report/1",
        "rules": {"ids": sorted({str(one["rule"]) for one in findings})},
        "result": "findings",
        "volumes": [volume],
        "findings": findings,
        "gaps": [],
        "stats": {"bytes_read": 1 << 30},
        "coverage": {"mode": "full", "blocks_read": 2048},
    }


def _push(client: httpx.Client, bodies: Sequence[str]) -> float:
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for body in bodies:
        waiting.put(body)
    failed: list[str] = []

    def send() -> None:
        with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=600) as own:
            while True:
                try:
                    body = waiting.get_nowait()
                except queue.Empty:
                    return
                answer = own.post("/results", content=body)
                if answer.status_code != 200:
                    failed.append(answer.text)

    threads = [threading.Thread(target=send) for _ in range(SENDERS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]
    return time.monotonic() - began


def _rows_written(database: Database, places: dict[Place, list[Instance]]) -> int:
    """Of the table of instances, by comparing all of them once more in this process."""
    written = 0

    def count(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        nonlocal written
        words = statement.replace('"', "").split()
        if words[0] in _INTO and words[_INTO[words[0]]] == "instance":
            written += len(parameters) if many else 1

    sa.event.listen(database.engine, "before_cursor_execute", count)
    for place, machines in places.items():
        estate.compare(database, FLEET, _listing(place, machines), now())
    return written


def _post(client: httpx.Client, path: str, document: BaseModel) -> Any:
    answer = client.post(f"/{path}", content=document.model_dump_json())
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None
