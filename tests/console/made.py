"""Instances, orders, reports and results as a fleet makes them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from client.model import AccountIn, ResultIn, ScanIn, ScanState, Sighting
from console.clock import now
from console.nopolicies import NoPolicies
from console.store import accounts, estate, results, scans
from console.store.database import Database
from core.estate import Disk, Instance, InstanceState, Place
from core.text import escape

PLACE = Place("aws", "123456789012", "eu-west-1")
FLEET = "default"
UUID = "6e6b8d1c-0000-4000-8000-000000000001"
ACCOUNT = AccountIn(cloud="aws", account="123456789012", fleet=FLEET)


def instance(id_: str = "i-1", place: Place = PLACE, **others: Any) -> Instance:
    known: dict[str, Any] = {
        "name": f"name of {id_}",
        "state": InstanceState.RUNNING,
        "image": "ami-1",
        "launched": datetime(2026, 1, 2, tzinfo=UTC),
        "tags": {"env": "prod", "app": "web"},
        "disks": (Disk(place, f"vol-{id_}", id_, "/dev/xvda", 8 << 30, boot=True),),
    }
    return Instance(place, id_, **{**known, **others})


def key(id_: str = "i-1", place: Place = PLACE) -> str:
    return str(instance(id_, place))


def enrol(database: Database, *ids: str, account: AccountIn = ACCOUNT, seen: datetime | None = None) -> None:
    """An account with these instances in it."""
    time = now()
    with database.write() as connection:
        accounts.put(connection, account, "test", time)
    place = Place(account.cloud, account.account, PLACE.region)
    if ids:
        sighting = Sighting(instances=tuple(instance(id_, place) for id_ in ids), seen=seen or time)
        estate.sight(database, account.fleet, sighting, time)


def ordered(database: Database, id_: str = "i-1") -> str:
    """A new scan of an instance; its id."""
    with database.write() as connection:
        started, _ = scans.start(connection, ScanIn(instances=(key(id_),)), NoPolicies(), "test", now())
    return started[0].id


_RULES: set[str] = set()  # of all findings that a test has made: any report may say that it looked for them


def finding(
    name: str, *, volume: int = 0, uuid: str = UUID, path: bytes = b"/etc/shadow", **others: Any
) -> dict[str, Any]:
    _RULES.add(f"linux/{name}")
    return {
        "fingerprint": hashlib.sha256(f"{name}\n{uuid}".encode()).hexdigest(),
        "rule": f"linux/{name}",
        "title": "Something wrong",
        "severity": "high",
        "volume": volume,
        "path": escape(path),
        "subject": name,
        "evidence": {"line": 1},
        "remedy": "Repair it.",
        **others,
    }


def gap(
    scope: str = "file", reason: str = "corrupt", *, disk: int = 0, volume: int = 0, path: bytes = b"/x", **others: Any
) -> dict[str, Any]:
    where = {
        "scope": scope,
        "disk": disk if scope == "disk" else None,
        "volume": volume if scope in {"volume", "file"} else None,
        "path": escape(path) if scope == "file" else None,
    }
    return {"where": where, "reason": reason, "detail": "why", "count": 1, "accepted": False, **others}


def volume(index: int = 0, uuid: str = UUID, *, disk: int = 0, filesystem: str | None = "ext4") -> dict[str, Any]:
    return {
        "index": index,
        "disk": disk,
        "kind": "gpt",
        "filesystem": filesystem,
        "label": "",
        "uuid": uuid,
        "files": 10,
        "bytes": 1000,
        "start": 0,
        "length": 1 << 30,
    }


def report(
    findings: Sequence[Mapping[str, Any]] = (),
    gaps: Sequence[Mapping[str, Any]] = (),
    volumes: Sequence[Mapping[str, Any]] | None = None,
    **others: Any,
) -> dict[str, Any]:
    return {
        "schema": "kumomori.report/1",
        "tool": {"name": "kumomori", "version": "0.1.0"},
        "rules": {"digest": "00", "count": 3, "ids": sorted(_RULES)},
        "started": "2027-01-01T00:00:00+00:00",
        "target": ["vol-1"],
        "result": "findings" if findings else "gaps" if gaps else "clean",
        "volumes": [volume()] if volumes is None else list(volumes),
        "findings": list(findings),
        "packages": [],
        "gaps": list(gaps),
        "stats": {"files": 10, "bytes_total": 1 << 30, "bytes_read": 4096, "cpu_seconds": 1.5, "wall_seconds": 2.5},
        "coverage": {
            "mode": "full",
            "base_refused": "",
            "files_carried": 0,
            "files_hashed": 10,
            "bytes_hashed": 1000,
            "files_scanned": 10,
            "bytes_scanned": 1000,
            "verdicts_known": 0,
            "inodes_gone": 0,
            "blocks_read": 7,
            "blocks_total": 2048,
        },
        "guards": [],
        **others,
    }


def packed(document: Any) -> str:
    """As a fleet sends it."""
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.b64encode(gzip.compress(raw, 1, mtime=0)).decode()


def result(scan: str, document: Any = None, **others: Any) -> ResultIn:
    time = now()
    known: dict[str, Any] = {
        "scan": scan,
        "state": ScanState.DONE,
        "started": time - timedelta(seconds=5),
        "ended": time,
        "report": packed(report() if document is None else document),
        "usd": 0.01,
    }
    return ResultIn(**{**known, **others})


def ended(scan: str, state: ScanState, **others: Any) -> ResultIn:
    return ResultIn(scan=scan, state=state, ended=now(), detail="why", **others)


def scanned(
    database: Database, findings: Iterable[Mapping[str, Any]] = (), id_: str = "i-1", **others: Any
) -> results.Taken:
    """One more scan of an instance, with these findings."""
    scan = ordered(database, id_)
    return results.take(database, FLEET, result(scan, report(list(findings), **others)), now())
