"""A console as an object: one method for each route of `docs/fleet.md`, which takes and returns documents of `client.model`.

with Console("https://console.example", token) as console:
    for one in console.instances(text="web"):
        print(one.key, one.open_findings)

Every method raises `Unavailable` (no answer: what was asked may have been done; all of it may be asked again), `Throttled`,
`AccessDenied` naming the scope that the token lacks, `Gone`, `Conflict`, `LimitExceeded`, and `ConfigError` (its kind
`Refused` holds the problems of policies). A console object may be used by several threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter, ValidationError

from client import model
from client.model import MOST_REPORT_JSON_BYTES, PAGE, Scope
from client.transport import Refused, Transport
from core.errors import CloudError, ConfigError

__all__ = ["ROUTES", "Console", "Refused", "Route"]

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Params = Mapping[str, str | int]
T = TypeVar("T")
D = TypeVar("D", bound=BaseModel)
P = TypeVar("P", bound=model.Page)


class Route(NamedTuple):
    verb: str
    path: str
    scope: Scope | None  # that a token needs for it


ROUTES: Final[Mapping[str, Route]] = {
    "health": Route("GET", "/health", None),
    "metrics": Route("GET", "/metrics", Scope.READ),
    "tokens": Route("GET", "/v1/tokens", Scope.ADMIN),
    "create_token": Route("POST", "/v1/tokens", Scope.ADMIN),
    "revoke_token": Route("DELETE", "/v1/tokens/{name}", Scope.ADMIN),
    "accounts": Route("GET", "/v1/accounts", Scope.READ),
    "add_account": Route("POST", "/v1/accounts", Scope.ADMIN),
    "remove_account": Route("DELETE", "/v1/accounts/{cloud}/{account}", Scope.ADMIN),
    "instances": Route("GET", "/v1/instances", Scope.READ),
    "instance": Route("GET", "/v1/instance", Scope.READ),
    "findings": Route("GET", "/v1/findings", Scope.READ),
    "accept": Route("POST", "/v1/findings/accept", Scope.TRIAGE),
    "reopen": Route("POST", "/v1/findings/reopen", Scope.TRIAGE),
    "gaps": Route("GET", "/v1/gaps", Scope.READ),
    "files": Route("GET", "/v1/files/{sha256}", Scope.READ),
    "packages": Route("GET", "/v1/packages", Scope.READ),
    "scans": Route("GET", "/v1/scans", Scope.READ),
    "scan": Route("GET", "/v1/scans/{id}", Scope.READ),
    "report": Route("GET", "/v1/scans/{id}/report", Scope.READ),
    "start": Route("POST", "/v1/scans", Scope.SCAN),
    "stop": Route("POST", "/v1/scans/{id}/stop", Scope.SCAN),
    "pause": Route("POST", "/v1/scans/{id}/pause", Scope.SCAN),
    "resume": Route("POST", "/v1/scans/{id}/resume", Scope.SCAN),
    "sweep": Route("POST", "/v1/sweeps", Scope.ADMIN),
    "clear": Route("POST", "/v1/clears", Scope.ADMIN),
    "sweep_dry_run": Route("POST", "/v1/sweeps/dry-run", Scope.SCAN),
    "check": Route("POST", "/v1/checks", Scope.SCAN),
    "task": Route("GET", "/v1/tasks/{id}", Scope.READ),
    "schedule": Route("GET", "/v1/schedule", Scope.READ),
    "hold": Route("PUT", "/v1/schedule/holds", Scope.SCAN),
    "release": Route("DELETE", "/v1/schedule/holds", Scope.SCAN),
    "policies": Route("GET", "/v1/policies", Scope.READ),
    "policy_versions": Route("GET", "/v1/policies/versions", Scope.READ),
    "policy_version": Route("GET", "/v1/policies/versions/{version}", Scope.READ),
    "apply_policies": Route("PUT", "/v1/policies", Scope.POLICY),
    "dry_run": Route("POST", "/v1/policies/dry-run", Scope.READ),
    "effective": Route("GET", "/v1/policies/effective", Scope.READ),
    "fleets": Route("GET", "/v1/fleets", Scope.READ),
    "register": Route("PUT", "/v1/fleets/{fleet}", Scope.FLEET),
    "orders": Route("GET", "/v1/fleets/{fleet}/orders", Scope.FLEET),
    "status": Route("POST", "/v1/fleets/{fleet}/status", Scope.FLEET),
    "results": Route("POST", "/v1/fleets/{fleet}/results", Scope.FLEET),
    "tasks": Route("GET", "/v1/fleets/{fleet}/tasks", Scope.FLEET),
    "answer_task": Route("POST", "/v1/fleets/{fleet}/tasks/{id}", Scope.FLEET),
    "compare": Route("POST", "/v1/fleets/{fleet}/compare", Scope.FLEET),
    "sightings": Route("POST", "/v1/fleets/{fleet}/sightings", Scope.FLEET),
    "offer_file_set": Route("PUT", "/v1/fleets/{fleet}/file-sets/{digest}", Scope.FLEET),
    "send_file_piece": Route("PUT", "/v1/fleets/{fleet}/file-sets/{digest}/pieces/{number}", Scope.FLEET),
}


class Console:
    """`token` goes to `url` over TLS, to loopback also without, and elsewhere without only if `allow_http`.

    `ca`: a file of certificates (PEM) to trust instead of the system's. Raises `ConfigError` for an address that is none.
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        timeout_seconds: float = 30.0,
        ca: Path | None = None,
        allow_http: bool = False,
    ) -> None:
        self._transport = Transport(url, token, timeout_seconds=timeout_seconds, ca=ca, allow_http=allow_http)

    @property
    def url(self) -> str:
        return self._transport.url

    def __repr__(self) -> str:
        return f"Console({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    # the console itself, and who may do what

    def health(self) -> model.Health:
        """Of a console that is degraded, too."""
        return self._document(model.Health, "health", also=(503,))

    def metrics(self) -> str:
        """In the text format of Prometheus."""
        return self._call("metrics").decode("utf-8", "replace")

    def tokens(self) -> list[model.TokenOut]:
        return self._list(model.TokenOut, "tokens")

    def create_token(self, token: model.TokenIn) -> model.NewToken:
        """The secret in it is shown this once. `Conflict` if there is one of that name."""
        return self._document(model.NewToken, "create_token", body=token)

    def revoke_token(self, name: str) -> None:
        self._call("revoke_token", path={"name": name})

    # accounts and what is in them

    def accounts(self) -> list[model.AccountOut]:
        return self._list(model.AccountOut, "accounts")

    def add_account(self, account: model.AccountIn) -> model.AccountOut:
        """The same cloud and account again changes it."""
        return self._document(model.AccountOut, "add_account", body=account)

    def remove_account(self, cloud: str, account: str, *, managed_by: str = "") -> None:
        """`Gone` if there is none, or if `managed_by` is given and it is not that program's."""
        params = _given(managed_by=managed_by)
        self._call("remove_account", path={"cloud": cloud, "account": account}, params=params)

    def instances(self, *, state: str = "open", text: str = "", page: int = PAGE) -> Iterator[model.InstanceOut]:
        """`state`: open, closed or all. `text` is looked for in names and ids."""
        params = _given(state=state, text=text)
        for found in self._pages(model.Instances, "instances", params, page):
            yield from found.items

    def instance(self, key: str) -> model.InstanceOut:
        return self._document(model.InstanceOut, "instance", params={"key": key})

    # findings and gaps

    def findings(
        self,
        *,
        state: model.FindingState | None = model.FindingState.OPEN,
        severity: str = "",
        instance: str = "",
        page: int = PAGE,
    ) -> Iterator[model.FindingOut]:
        """Worst first. `state` None: all. `instance` is a key."""
        params = _given(state=state or "all", severity=severity, instance=instance)
        for found in self._pages(model.Findings, "findings", params, page):
            yield from found.items

    def accept(self, instance: str, finding: str, why: model.AcceptIn) -> model.FindingOut:
        return self._document(model.FindingOut, "accept", params={"instance": instance, "id": finding}, body=why)

    def reopen(self, instance: str, finding: str) -> model.FindingOut:
        return self._document(model.FindingOut, "reopen", params={"instance": instance, "id": finding})

    def gaps(self, *, instance: str = "", page: int = PAGE) -> Iterator[model.GapOut]:
        """Of the last scan of each instance."""
        for found in self._pages(model.GapsPage, "gaps", _given(instance=instance), page):
            yield from found.items

    def files(self, sha256: str, *, page: int = PAGE) -> Iterator[model.FileHolders]:
        """Pages of who holds a content, by its SHA-256 in hex digits; each says for how many it is not known."""
        yield from self._pages(model.FileHolders, "files", {}, page, path={"sha256": sha256})

    def packages(self, name: str, *, version: str = "", page: int = PAGE) -> Iterator[model.PackageHolders]:
        """Pages of the machines that have a package of this name, or built from a source of it; each says for how many it is not known."""
        yield from self._pages(model.PackageHolders, "packages", _given(name=name, version=version), page)

    # scans

    def scans(
        self, *, state: model.ScanState | None = None, machine: str = "", page: int = PAGE
    ) -> Iterator[model.ScanOut]:
        """Newest first. `machine` is the key of an instance or image."""
        for found in self._pages(model.Scans, "scans", _given(state=state or "", machine=machine), page):
            yield from found.items

    def scan(self, scan: str) -> model.ScanOut:
        return self._document(model.ScanOut, "scan", path={"id": scan})

    def report(self, scan: str) -> bytes:
        """JSON of `docs/report.schema.json`, as it was written. `Gone` if the scan has none."""
        return self._call("report", path={"id": scan}, most_bytes=MOST_REPORT_JSON_BYTES)

    def start(self, wanted: model.ScanIn) -> tuple[model.ScanOut, ...]:
        return self._document(model.Scans, "start", body=wanted).items

    def stop(self, scan: str) -> model.ScanOut:
        """`Conflict` if it has ended, of this and the next two."""
        return self._document(model.ScanOut, "stop", path={"id": scan})

    def pause(self, scan: str) -> model.ScanOut:
        return self._document(model.ScanOut, "pause", path={"id": scan})

    def resume(self, scan: str) -> model.ScanOut:
        return self._document(model.ScanOut, "resume", path={"id": scan})

    # what fleets are asked for

    def sweep(self, wanted: model.SweepIn) -> tuple[model.TaskOut, ...]:
        """A task for each fleet that is asked. One that is under way is given instead of another."""
        return self._document(model.Tasks, "sweep", body=wanted).items

    def sweep_dry_run(self, wanted: model.SweepIn) -> tuple[model.TaskOut, ...]:
        """What would be deleted; nothing is."""
        return self._document(model.Tasks, "sweep_dry_run", body=wanted).items

    def clear(self, wanted: model.ClearIn) -> tuple[model.TaskOut, ...]:
        """A task for each fleet that is asked; none where none is registered. `Conflict` while the account is enrolled."""
        return self._document(model.Tasks, "clear", body=wanted).items

    def check(self, wanted: model.CheckIn) -> model.TaskOut:
        return self._document(model.TaskOut, "check", body=wanted)

    def task(self, task: str) -> model.TaskOut:
        return self._document(model.TaskOut, "task", path={"id": task})

    # the schedule

    def schedule(self, *, page: int = PAGE) -> Iterator[model.Schedule]:
        """Pages of what is due next; `holds` are in the first."""
        yield from self._pages(model.Schedule, "schedule", {}, page)

    def hold(self, hold: model.Hold) -> model.HoldOut:
        return self._document(model.HoldOut, "hold", body=hold)

    def release(self, scope: str) -> None:
        self._call("release", params={"scope": scope})

    # policies

    def policies(self) -> model.PolicyVersion:
        """What holds now, with its documents. `Gone` while nothing was ever applied."""
        return self._document(model.PolicyVersion, "policies")

    def policy_versions(self) -> list[model.PolicyVersion]:
        return self._list(model.PolicyVersion, "policy_versions")

    def policy_version(self, version: int) -> model.PolicyVersion:
        """One that holds or held, with its documents. `Gone` if there is none of that number."""
        return self._document(model.PolicyVersion, "policy_version", path={"version": str(version)})

    def apply_policies(self, wanted: model.PolicySet, *, etag: str | None) -> model.PolicyVersion:
        """Apply `wanted` if what holds now is what has `etag` (None: if nothing holds yet), else `Conflict`. `Refused` says where."""
        condition = {"If-None-Match": "*"} if etag is None else {"If-Match": f'"{etag.strip(chr(34))}"'}
        return self._document(model.PolicyVersion, "apply_policies", body=wanted, headers=condition)

    def dry_run(self, wanted: model.PolicySet) -> model.DryRun:
        return self._document(model.DryRun, "dry_run", body=wanted)

    def effective(self, instance: str) -> dict[str, Any]:
        """Every setting that holds for an instance, and why."""
        body = self._call("effective", params={"instance": instance})
        return self._read(TypeAdapter(dict[str, Any]).validate_json, body)

    # fleets

    def fleets(self) -> list[model.FleetOut]:
        return self._list(model.FleetOut, "fleets")

    def register(self, fleet: model.FleetIn) -> model.FleetOut:
        return self._document(model.FleetOut, "register", path={"fleet": fleet.name}, body=fleet)

    def orders(self, fleet: str, *, after: int = 0, wait_seconds: float = 20.0) -> model.Pull:
        """Orders whose number is over `after`; waits up to `wait_seconds` until there is one."""
        params: Params = {"after": after, "wait_seconds": f"{wait_seconds:g}"}
        return self._document(model.Pull, "orders", path={"fleet": fleet}, params=params, wait_seconds=wait_seconds)

    def status(self, fleet: str, status: model.FleetStatus) -> None:
        self._call("status", path={"fleet": fleet}, body=status)

    def results(self, fleet: str, result: model.ResultIn) -> None:
        """May be sent again: it is taken once."""
        self._call("results", path={"fleet": fleet}, body=result)

    def tasks(self, fleet: str, *, wait_seconds: float = 20.0) -> tuple[model.Task, ...]:
        """What is to be done next; waits up to `wait_seconds` until there is something."""
        params: Params = {"wait_seconds": f"{wait_seconds:g}"}
        path = {"fleet": fleet}
        return self._document(model.FleetTasks, "tasks", path=path, params=params, wait_seconds=wait_seconds).items

    def answer_task(self, fleet: str, task: str, answer: model.TaskAnswer) -> None:
        """May be sent again: the first is kept. `Gone` if there is no such task of this fleet any more."""
        self._call("answer_task", path={"fleet": fleet, "id": task}, body=answer)

    def compare(self, fleet: str, listing: model.Compare) -> model.Compared:
        return self._document(model.Compared, "compare", path={"fleet": fleet}, body=listing)

    def sightings(self, fleet: str, sighting: model.Sighting) -> None:
        self._call("sightings", path={"fleet": fleet}, body=sighting)

    def offer_file_set(self, fleet: str, digest: str, wanted: model.FileSetIn) -> model.FileSetOut:
        """Asks whether the console has the set; once all pieces are there, this makes it one."""
        return self._document(model.FileSetOut, "offer_file_set", path={"fleet": fleet, "digest": digest}, body=wanted)

    def send_file_piece(self, fleet: str, digest: str, number: int, piece: model.FilePieceIn) -> None:
        """Of a set that was offered; may be sent again. `Gone` if it was not offered, or long ago."""
        self._call("send_file_piece", path={"fleet": fleet, "digest": digest, "number": str(number)}, body=piece)

    # how

    def _call(
        self, name: str, *, path: Mapping[str, str] | None = None, body: BaseModel | None = None, **others: Any
    ) -> bytes:
        route = ROUTES[name]
        where = route.path.format(**{key: _segment(value) for key, value in (path or {}).items()})
        text = None if body is None else body.model_dump_json()
        return self._transport.call(route.verb, where, scope=route.scope, body=text, **others)

    def _document(self, kind: type[D], name: str, **others: Any) -> D:
        return self._read(kind.model_validate_json, self._call(name, **others))

    def _list(self, kind: type[D], name: str) -> list[D]:
        adapter: TypeAdapter[list[D]] = TypeAdapter(list[kind])  # type: ignore[valid-type]  # mypy takes it for a variable
        return self._read(adapter.validate_json, self._call(name))

    def _pages(
        self, kind: type[P], name: str, params: Params, size: int, *, path: Mapping[str, str] | None = None
    ) -> Iterator[P]:
        after: str | None = None
        while True:
            asked = {**params, "limit": size, **({} if after is None else {"after": after})}
            found = self._document(kind, name, params=asked, path=path)
            yield found
            if found.next is None:
                return
            if found.next == after:
                raise CloudError(f"{self.url}: the page after {after!r} says that it is itself the next")
            after = found.next

    def _read(self, validate: Callable[[bytes], T], body: bytes) -> T:
        try:
            return validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise CloudError(
                f"{self.url}: its answer is not what this version understands ({where}: {first['msg']}); are both of one version?"
            ) from None


def _segment(value: str) -> str:
    """A part of a path. Raises `ConfigError` for what can be no name, `..` for one."""
    if _SEGMENT.fullmatch(value) is None:
        raise ConfigError(f"{value[:100]!r}: is no name or id that the console has")
    return quote(value, safe="")


def _given(**params: str) -> dict[str, str]:
    return {name: value for name, value in params.items() if value}
